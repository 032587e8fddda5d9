//! The program: which files may be it, its arguments and its environment.

use std::ffi::CString;

use dunnage_spec::Process;

use crate::error::Error;
use crate::facts::RootfsFacts;
use crate::step::Program;
use crate::text;

/// Where programs are looked up when the environment has no `PATH`: what images without one expect, and what
/// Docker gives them.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lowers `process.args` and `process.env`.
pub(crate) fn lower(process: &Process, own: &RootfsFacts) -> Result<Program, Error> {
    let Some(name) = process.args.first() else {
        return Err(Error::invalid("process.args", "is empty"));
    };
    if name.is_empty() {
        return Err(Error::invalid("process.args[0]", "is empty"));
    }
    let path = variable(process, "PATH").unwrap_or(DEFAULT_PATH);
    Ok(Program {
        name: text::c_string("process.args[0]", name)?,
        candidates: candidates(name, path)?,
        args: c_strings("process.args", process.args.iter().map(String::as_str))?,
        env: environment(process, own)?,
    })
}

/// As execvp(3): a name with a slash is a path, relative to the working directory; an empty component of
/// `PATH` is the working directory.
fn candidates(name: &str, path: &str) -> Result<Vec<CString>, Error> {
    if name.contains('/') {
        return Ok(vec![text::c_string("process.args[0]", name)?]);
    }
    let place = |directory: &str| match directory {
        "" => format!("./{name}"),
        _ if directory.ends_with('/') => format!("{directory}{name}"),
        _ => format!("{directory}/{name}"),
    };
    path.split(':').map(|directory| text::c_string("process.env", place(directory))).collect()
}

/// The environment with a `HOME`: shells and many programs take it for granted.
fn environment(process: &Process, own: &RootfsFacts) -> Result<Vec<CString>, Error> {
    let has_home = variable(process, "HOME").is_some_and(|home| !home.is_empty());
    let home = (!has_home).then(|| format!("HOME={}", own.home.as_deref().unwrap_or("/")));
    let given =
        process.env.iter().map(String::as_str).filter(|entry| has_home || !entry.starts_with("HOME="));
    c_strings("process.env", given.chain(home.as_deref()))
}

/// The last of its name wins.
fn variable<'a>(process: &'a Process, name: &str) -> Option<&'a str> {
    let value = |entry: &'a String| entry.strip_prefix(name)?.strip_prefix('=');
    process.env.iter().rev().find_map(value)
}

fn c_strings<'a>(field: &str, all: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, Error> {
    all.enumerate().map(|(index, one)| text::c_string(format!("{field}[{index}]"), one)).collect()
}

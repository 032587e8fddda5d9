//! Checks `process`, from `config.json` or from the document of an exec.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::document;
use crate::error::{Checked, Error, Within as _, invalid, unsupported};
use crate::json;
use crate::path::clean;
use crate::process::{Capabilities, Process, Rlimit, RlimitResource, Terminal, User, WindowSize};

impl Process {
    /// Reads and checks the process document that comes with an exec.
    ///
    /// # Errors
    /// `InvalidArgument` when it can never work, `Unimplemented` when it asks for what dunnage does not do.
    pub fn from_json(text: &[u8]) -> Result<Self, Error> {
        Self::from_json_with_warnings(text, &mut Vec::new())
    }

    /// As [`Process::from_json`]; what the specification wants ignored is added to `warnings`.
    ///
    /// # Errors
    /// As [`Process::from_json`].
    pub fn from_json_with_warnings(text: &[u8], warnings: &mut Vec<String>) -> Result<Self, Error> {
        let process = document::parse("process", text)?;
        Self::check(process, warnings).map_err(|refusal| Error::Refused { document: "process", refusal })
    }

    pub(crate) fn check(process: json::Process, warnings: &mut Vec<String>) -> Checked<Self> {
        refuse_unsupported(&process)?;
        let args = process.args.unwrap_or_default();
        if args.is_empty() {
            return invalid("args", "is empty");
        }
        let capabilities = process.capabilities.map(|sets| Capabilities::check(&sets, warnings));
        Ok(Self {
            args,
            env: env(process.env.unwrap_or_default())?,
            cwd: cwd(process.cwd.as_deref())?,
            terminal: process.terminal.unwrap_or(false).then(|| terminal(process.console_size)),
            user: user(process.user.unwrap_or_default()).within(|| "user")?,
            // A process without capabilities in its spec has none; runc would leave it all of the runtime's.
            capabilities: capabilities.unwrap_or_default(),
            no_new_privileges: process.no_new_privileges.unwrap_or(false),
            rlimits: rlimits(process.rlimits.unwrap_or_default())?,
            oom_score_adj: oom_score_adj(process.oom_score_adj)?,
            apparmor_profile: process.apparmor_profile.filter(|name| !name.is_empty()),
            selinux_label: process.selinux_label.filter(|label| !label.is_empty()),
        })
    }
}

fn refuse_unsupported(process: &json::Process) -> Checked<()> {
    if process.scheduler.is_some() {
        return unsupported("scheduler", "scheduling policies are");
    }
    if process.io_priority.is_some() {
        return unsupported("ioPriority", "I/O priorities are");
    }
    match &process.exec_cpu_affinity {
        Some(affinity) if !json::is_blank(affinity) => unsupported("execCPUAffinity", "CPU affinities are"),
        _ => Ok(()),
    }
}

// Of duplicates the last one counts, as with runc: Kubernetes puts a pod's own variables behind the image's.
fn env(variables: Vec<String>) -> Checked<Vec<String>> {
    for (i, variable) in variables.iter().enumerate() {
        match variable.find('=') {
            None => return invalid(format!("env[{i}]"), format!("{variable:?} has no =")),
            Some(0) => return invalid(format!("env[{i}]"), format!("{variable:?} has no name")),
            Some(_) => {}
        }
    }
    let mut seen = HashSet::with_capacity(variables.len());
    let mut last: Vec<bool> =
        variables.iter().rev().map(|variable| seen.insert(variable.split('=').next())).collect();
    if seen.len() == variables.len() {
        return Ok(variables);
    }
    // Both walks are from the back: the flag of the first variable is popped first.
    Ok(variables.into_iter().filter(|_| last.pop().unwrap_or(true)).collect())
}

fn cwd(cwd: Option<&str>) -> Checked<PathBuf> {
    match cwd {
        None | Some("") => invalid("cwd", "is missing"),
        Some(path) if path.starts_with('/') => Ok(clean(Path::new(path))),
        Some(path) => invalid("cwd", format!("{path:?} is not absolute")),
    }
}

fn terminal(size: Option<json::ConsoleSize>) -> Terminal {
    let size = size.map(|size| (size.height.unwrap_or(0), size.width.unwrap_or(0)));
    let size = size.filter(|&size| size != (0, 0));
    Terminal { size: size.map(|(rows, columns)| WindowSize { rows, columns }) }
}

fn user(user: json::User) -> Checked<User> {
    let additional_gids = user.additional_gids.unwrap_or_default();
    for (i, &gid) in additional_gids.iter().enumerate() {
        id(&format!("additionalGids[{i}]"), gid)?;
    }
    let umask = user.umask.unwrap_or(0o022);
    if umask > 0o777 {
        return invalid("umask", format!("{umask:#o} has more than permission bits"));
    }
    Ok(User {
        uid: id("uid", user.uid.unwrap_or(0))?,
        gid: id("gid", user.gid.unwrap_or(0))?,
        additional_gids,
        umask,
    })
}

// To setresuid(2) and setresgid(2) the largest number means "leave it": the process would stay root.
pub(crate) fn id(field: &str, id: u32) -> Checked<u32> {
    if id == u32::MAX {
        return invalid(field, format!("{id} is not an id"));
    }
    Ok(id)
}

fn rlimits(listed: Vec<json::Rlimit>) -> Checked<Vec<Rlimit>> {
    let mut seen = HashSet::new();
    let check = |(i, listed): (usize, json::Rlimit)| {
        let name = listed.resource.clone().unwrap_or_default();
        let limit = rlimit(listed).within(|| format!("rlimits[{i}]"))?;
        if !seen.insert(limit.resource) {
            return invalid(format!("rlimits[{i}].type"), format!("{name} is listed twice"));
        }
        Ok(limit)
    };
    listed.into_iter().enumerate().map(check).collect()
}

fn rlimit(listed: json::Rlimit) -> Checked<Rlimit> {
    let Some(name) = listed.resource else { return invalid("type", "is missing") };
    let Some(resource) = RlimitResource::named(&name) else {
        return invalid("type", format!("{name:?} is no resource limit"));
    };
    let (soft, hard) = (listed.soft.unwrap_or(0), listed.hard.unwrap_or(0));
    if soft > hard {
        return invalid("soft", format!("{soft} is above the hard limit {hard}"));
    }
    Ok(Rlimit { resource, soft, hard })
}

impl RlimitResource {
    /// The resource called `RLIMIT_NOFILE` and the like.
    fn named(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("RLIMIT_")? {
            "AS" => Self::As,
            "CORE" => Self::Core,
            "CPU" => Self::Cpu,
            "DATA" => Self::Data,
            "FSIZE" => Self::Fsize,
            "LOCKS" => Self::Locks,
            "MEMLOCK" => Self::Memlock,
            "MSGQUEUE" => Self::Msgqueue,
            "NICE" => Self::Nice,
            "NOFILE" => Self::Nofile,
            "NPROC" => Self::Nproc,
            "RSS" => Self::Rss,
            "RTPRIO" => Self::Rtprio,
            "RTTIME" => Self::Rttime,
            "SIGPENDING" => Self::Sigpending,
            "STACK" => Self::Stack,
            _ => return None,
        })
    }
}

fn oom_score_adj(score: Option<i32>) -> Checked<Option<i32>> {
    match score {
        Some(score) if !(-1000..=1000).contains(&score) => {
            invalid("oomScoreAdj", format!("{score} is not between -1000 and 1000"))
        }
        score => Ok(score),
    }
}

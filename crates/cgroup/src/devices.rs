//! Device rules of a new cgroup: files on v1, a BPF program where there is no such controller.
//!
//! The rules of the spec come first, the devices that every container may use after them, later rules win. Rules
//! are applied once, before anybody is inside. They are not part of an update: programs that others attach (GPU
//! hot-plug) must survive it.

mod program;
mod rules;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dunnage_spec::resources::DeviceRule;
use dunnage_sys::bpf::{self, DeviceProgram, Instruction};
use dunnage_sys::kernfs::{Access, Dir, write_once};
use dunnage_sys::{Call, Errno};

use crate::error::{Refused, Result};

/// By which our programs are recognised among others'.
const NAME: &std::ffi::CStr = c"dunnage_device";

const FOREIGN: &str = "inside a user namespace the devices of the outer container apply";

/// Writes the difference from "whatever the parent has" to `devices.deny` and `devices.allow`.
pub(crate) fn apply_v1(user: &[DeviceRule], dir: &Dir, place: &Path) -> Result<Option<Refused>> {
    let list = rules::List::fold(&rules::with_defaults(user))?;
    let mut files = [("devices.deny", None), ("devices.allow", None)];
    for (allow, line) in list.lines() {
        let (name, file) = &mut files[usize::from(allow)];
        let written = match file {
            Some(file) => write_once(file, line.as_bytes()),
            None => dir.open_file(*name, Access::Write).and_then(|opened| {
                let file = file.insert(opened);
                write_once(file, line.as_bytes())
            }),
        };
        match written {
            Err(errno @ Errno::PERM) if in_user_namespace() => {
                return Ok(Some(Refused { file: (*name).to_owned(), value: line, errno, what: FOREIGN }));
            }
            written => written.call(|| format!("write {line} to {}", place.join(*name).display()))?,
        }
    }
    Ok(None)
}

/// Attaches the program for these rules to a cgroup v2 directory.
pub(crate) fn apply_v2(user: &[DeviceRule], dir: &Dir, path: &Path, fresh: bool) -> Result<Option<Refused>> {
    let program = program::compile(&rules::with_defaults(user));
    if program::allows_everything(&program) {
        return Ok(None);
    }
    let loaded = match load(program) {
        Err(errno @ Errno::PERM) if in_user_namespace() => {
            let (file, value) = ("device program".to_owned(), path.display().to_string());
            return Ok(Some(Refused { file, value, errno, what: FOREIGN }));
        }
        loaded => loaded.call(|| "load a BPF device program")?,
    };
    let place = || format!("attach a BPF device program to cgroup {}", path.display());
    if !fresh {
        // All programs have to agree, so the one that we left in a directory used before must go. Nobody is in
        // there, so nobody gains by the moment without one.
        for id in bpf::device_programs(dir).call(place)? {
            detach_ours(id, dir).call(place)?;
        }
    }
    loaded.attach(dir).call(place)?;
    Ok(None)
}

fn detach_ours(id: bpf::ProgramId, dir: &Dir) -> Result<(), Errno> {
    let program = DeviceProgram::by_id(id)?;
    if program.name()? == NAME.to_bytes() { program.detach(dir) } else { Ok(()) }
}

/// Programs of this process by what they consist of: containers of a pod mostly have the same rules, and
/// loading runs the verifier.
static LOADED: Mutex<Vec<(Vec<Instruction>, Arc<DeviceProgram>)>> = Mutex::new(Vec::new());

fn load(program: Vec<Instruction>) -> Result<Arc<DeviceProgram>, Errno> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = loaded.iter().find(|(known, _)| *known == program) {
        return Ok(Arc::clone(known));
    }
    let new = Arc::new(DeviceProgram::load(NAME, &program)?);
    // A pod has few kinds of containers; the oldest kind goes.
    if loaded.len() == 8 {
        loaded.remove(0);
    }
    loaded.push((program, Arc::clone(&new)));
    Ok(new)
}

/// Asked only after the kernel has refused something: user_namespaces(7), the initial one maps everything.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    !fields.is_empty() && fields != ["0", "0", "4294967295"]
}

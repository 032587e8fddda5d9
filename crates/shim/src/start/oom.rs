//! How likely the kernel is to kill a shim when memory runs out: one step more likely than its containerd.

use std::fs;

use dunnage_sys::{Call, Errno, Result};

const MAX: i32 = 1000;

/// Sets the score of this process, which the serving process inherits. Our parent is containerd, so this is the
/// only time when its score can be known.
pub(crate) fn follow_parent() -> Result<()> {
    let parent = std::os::unix::process::parent_id();
    let score = (read(&format!("/proc/{parent}/oom_score_adj"))? + 1).min(MAX);
    let own = "/proc/self/oom_score_adj";
    let before = read(own)?;
    match fs::write(own, score.to_string()).call(|| format!("write {score} to {own}")) {
        // Only a process with CAP_SYS_RESOURCE may make itself less likely to be killed. A shim that is more
        // likely to be killed than asked for still works.
        Err(error) if score < before && is_refusal(error.errno()) => Ok(()),
        written => written,
    }
}

fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCESS)
}

fn read(file: &str) -> Result<i32> {
    let text = fs::read_to_string(file).call(|| format!("read {file}"))?;
    text.trim().parse().map_err(|_| dunnage_sys::Error::new(format!("read {file}: {text:?}"), Errno::INVAL))
}

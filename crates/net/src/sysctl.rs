//! `/proc/sys/net`, which is that of the network namespace of the thread that opens it.

use std::path::{Path, PathBuf};

use dunnage_sys::Call;

use crate::{IfName, Result};

/// Whether the kernel knows IPv6; `ipv6.disable=1` takes the file away, as it does `/proc/sys/net/ipv6`, where to
/// look takes longer with every pod.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/self/net/if_inet6").exists()
}

/// The key of a link's switch. A dot in the name of a link is part of it, because keys are paths here.
pub(crate) fn of_link(family: &str, link: &IfName, switch: &str) -> String {
    format!("{family}/conf/{link}/{switch}")
}

/// Sets a switch below `/proc/sys/net`.
pub(crate) fn write(key: &str, value: &str) -> Result<()> {
    let path = path(key);
    Ok(std::fs::write(&path, value).call(|| format!("write {value} to {}", path.display()))?)
}

/// Reads a switch, without the line end.
pub(crate) fn read(key: &str) -> Result<String> {
    let path = path(key);
    let text = std::fs::read_to_string(&path).call(|| format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}

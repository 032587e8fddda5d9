//! The host ports of a pod, written down before the first of them is opened, and kept until the last is closed.
//!
//! In the record of its lease, where they are known when that is written and have room. Otherwise in a file next to
//! the lease table: without its last line it was cut short by a crash, so nothing in it was ever opened.

use std::io::ErrorKind;
use std::path::PathBuf;

use dunnage_sys::Call;

use super::locked::LockedLeases;
use super::port_text::{of_text, text};
use super::record::Lease;
use crate::{HostPorts, Result};

const END: &str = "end\n";

impl LockedLeases<'_> {
    /// Writes down which host ports a pod is to have, unless that was done when it got its lease.
    pub(crate) fn keep_ports(&mut self, lease: &Lease, ports: &HostPorts) -> Result<()> {
        if lease.ports == *ports {
            return Ok(());
        }
        let path = self.ports_path(lease.slot);
        let whole = text(ports) + END;
        Ok(std::fs::write(&path, whole).call(|| format!("write {}", path.display()))?)
    }

    /// The host ports that a pod may have.
    pub(crate) fn kept_ports(&self, lease: &Lease) -> HostPorts {
        if !lease.ports.is_empty() {
            return lease.ports.clone();
        }
        let text = std::fs::read_to_string(self.ports_path(lease.slot)).unwrap_or_default();
        of_whole(&text).unwrap_or_default()
    }

    /// Those in the record go with it.
    pub(crate) fn forget_ports(&mut self, lease: &Lease) -> Result<()> {
        if lease.ports.is_empty() { self.forget_ports_at(lease.slot) } else { Ok(()) }
    }

    fn forget_ports_at(&mut self, slot: u32) -> Result<()> {
        let path = self.ports_path(slot);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Ok(Err(error).call(|| format!("remove {}", path.display()))?)
            }
            _ => Ok(()),
        }
    }

    /// Removes the notes about host ports of places that nobody has.
    pub(crate) fn forget_stray_ports(&mut self, active: &[Lease]) -> Result<()> {
        let name = self.table.path.file_stem().unwrap_or_default().to_owned();
        let name = name.to_string_lossy();
        let dir = &self.table.dir;
        let mut stray = Vec::new();
        for entry in std::fs::read_dir(dir).call(|| format!("list {}", dir.display()))?.flatten() {
            let file = entry.file_name();
            let slot = file.to_str().and_then(|file| {
                file.strip_prefix(&*name)?.strip_prefix('.')?.strip_suffix(".ports")?.parse::<u32>().ok()
            });
            stray.extend(slot.filter(|slot| active.iter().all(|lease| lease.slot != *slot)));
        }
        stray.into_iter().try_for_each(|slot| self.forget_ports_at(slot))
    }

    fn ports_path(&self, slot: u32) -> PathBuf {
        self.table.path.with_extension(format!("{slot}.ports"))
    }
}

/// `None` for what was cut short.
fn of_whole(text: &str) -> Option<HostPorts> {
    of_text(text.strip_suffix(END)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostPort, Protocol};

    #[test]
    fn a_file_that_was_cut_short_says_nothing() {
        let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        let ports = HostPorts { list: vec![port], ..HostPorts::default() };
        let whole = text(&ports) + END;
        assert_eq!(of_whole(&whole).unwrap(), ports);
        for length in 0..whole.len() {
            assert_eq!(of_whole(&whole[..length]), None, "{length}");
        }
    }
}

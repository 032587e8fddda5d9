//! The host ports of a pod, written down before the first of them is opened, and kept until the last is closed.
//!
//! In the record of its lease, where they are known when that is written and have room. Otherwise in a file next to
//! the lease table: without its last line it was cut short by a crash, so nothing in it was ever opened.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use dunnage_sys::Call;

use super::locked::LockedLeases;
use super::record::Lease;
use crate::{HostPort, HostPorts, Protocol, Result, SourceNat};

const END: &str = "end\n";
/// Of [`SourceNat`].
const NEVER: &str = "snat never";
const ALWAYS: &str = "snat always";

impl LockedLeases<'_> {
    /// Writes down which host ports a pod is to have, unless that was done when it got its lease.
    pub(crate) fn keep_ports(&mut self, lease: &Lease, ports: &HostPorts) -> Result<()> {
        if lease.ports == *ports {
            return Ok(());
        }
        let path = self.ports_path(lease.slot);
        let text = text(ports) + END;
        Ok(std::fs::write(&path, text).call(|| format!("write {}", path.display()))?)
    }

    /// The host ports that a pod may have.
    pub(crate) fn kept_ports(&self, lease: &Lease) -> HostPorts {
        if !lease.ports.is_empty() {
            return lease.ports.clone();
        }
        let text = std::fs::read_to_string(self.ports_path(lease.slot)).unwrap_or_default();
        text.strip_suffix(END).and_then(of_text).unwrap_or_default()
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

/// One port in each line: protocol, port of the host, port of the pod, address of the host or `*`. Before them a line
/// that says whose source addresses the pod sees, unless that is as usual.
pub(super) fn text(ports: &HostPorts) -> String {
    let first = match ports.source_nat {
        SourceNat::Needed => None,
        SourceNat::Never => Some(format!("{NEVER}\n")),
        SourceNat::Always => Some(format!("{ALWAYS}\n")),
    };
    let line = |port: &HostPort| {
        let host = port.host_ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        format!("{} {} {} {host}\n", port.protocol.as_str(), port.host_port, port.container_port)
    };
    first.into_iter().chain(ports.list.iter().map(line)).collect()
}

/// `None` for what [`text`] does not say.
pub(super) fn of_text(text: &str) -> Option<HostPorts> {
    let mut lines = text.lines().peekable();
    let said = [(NEVER, SourceNat::Never), (ALWAYS, SourceNat::Always)];
    let source_nat = said.into_iter().find_map(|(word, nat)| lines.next_if_eq(&word).map(|_| nat));
    Some(HostPorts {
        list: lines.map(port).collect::<Option<_>>()?,
        source_nat: source_nat.unwrap_or_default(),
    })
}

fn port(line: &str) -> Option<HostPort> {
    let mut words = line.split(' ');
    let protocol = Protocol::named(words.next()?)?;
    let mut number = || words.next()?.parse().ok();
    let (host_port, container_port) = (number()?, number()?);
    let host_ip: Option<IpAddr> = match words.next()? {
        "*" => None,
        ip => Some(ip.parse().ok()?),
    };
    Some(HostPort { host_ip, host_port, container_port, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_back_unless_they_were_cut_short() {
        let port = |host_ip: Option<&str>, protocol| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 8080,
            container_port: 80,
            protocol,
        };
        let list = vec![
            port(None, Protocol::Tcp),
            port(Some("192.0.2.1"), Protocol::Udp),
            port(Some("2001:db8::1"), Protocol::Sctp),
        ];
        for source_nat in [SourceNat::Needed, SourceNat::Never, SourceNat::Always] {
            let ports = HostPorts { list: list.clone(), source_nat };
            let whole = text(&ports) + END;
            let read = |text: &str| text.strip_suffix(END).and_then(of_text);
            assert_eq!(read(&whole).unwrap(), ports);
            for length in 0..whole.len() {
                assert_eq!(read(&whole[..length]), None, "{length}");
            }
        }
    }
}

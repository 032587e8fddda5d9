//! Leases of the reference plugin `host-local`: a directory with a file for each address, named after it, that
//! holds the container id and the interface name.
//!
//! They are taken over once, when a network's table is begun, so that pods which are running keep their
//! addresses. `host-local` keeps its files over a reboot, which no pod survives, so only files that were written
//! since the machine started count.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dunnage_sys::Call;

use super::Owner;
use crate::{IfName, Result};

/// What `host-local` has leased; nothing when it was never used.
pub(super) fn load(dir: &Path, uptime: Duration) -> Result<Vec<(IpAddr, Owner)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error).call(|| format!("list {}", dir.display()))?,
    };
    // The clock may have been set a little since.
    let boot =
        SystemTime::now().checked_sub(uptime + Duration::from_secs(60)).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut leases = Vec::new();
    for entry in entries.flatten() {
        // `lock` and `last_reserved_ip.N` are no addresses.
        let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let since_boot = entry.metadata().and_then(|of| of.modified()).is_ok_and(|written| written >= boot);
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(owner) = owner(&text).filter(|_| since_boot) {
            leases.push((address, owner));
        }
    }
    leases.sort_by_key(|(address, _)| *address);
    Ok(leases)
}

/// Old versions of the plugin wrote no interface name. A file that a crash left empty is nobody's.
fn owner(text: &str) -> Option<Owner> {
    let mut lines = text.lines().map(str::trim);
    let id = lines.next()?;
    let ifname: IfName = lines.next().filter(|name| !name.is_empty()).unwrap_or("eth0").parse().ok()?;
    Owner::new(id, ifname).ok()
}

/// Forgets an address there as well, so that going back to the other plugin finds no stale lease.
pub(super) fn forget(dir: &Path, address: IpAddr) {
    // Whatever the reason is that it stays, the address is free here, and that is what counts.
    let _ = std::fs::remove_file(dir.join(address.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_boot_that_name_an_owner_are_leases() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("10.1.0.5", "pod-a\r\neth0");
        write("fd00::5", "pod-a\r\neth0");
        write("10.1.0.6", "old-version");
        write("10.1.0.7", "");
        write("last_reserved_ip.0", "10.1.0.6");
        write("lock", "");
        let uptime = Duration::from_secs(10);
        let found = load(dir.path(), uptime).unwrap();
        let names: Vec<_> = found.iter().map(|(ip, owner)| format!("{ip} {owner}")).collect();
        assert_eq!(
            names,
            ["10.1.0.5 eth0 of pod-a", "10.1.0.6 eth0 of old-version", "fd00::5 eth0 of pod-a"]
        );
        let old = std::fs::File::options().write(true).open(dir.path().join("10.1.0.5")).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
        assert_eq!(load(dir.path(), uptime).unwrap().len(), 2);
        assert!(load(&dir.path().join("none"), uptime).unwrap().is_empty());
    }
}

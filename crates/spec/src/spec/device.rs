//! Checks `linux.devices`.

use std::path::Path;

use crate::error::{Checked, Within as _, invalid};
use crate::json;
use crate::path::clean;
use crate::process::id;
use crate::resources::DeviceNumber;
use crate::spec::{Device, DeviceKind};

impl Device {
    pub(super) fn check_all(listed: Vec<json::Device>) -> Checked<Vec<Self>> {
        let mut devices = Vec::with_capacity(listed.len());
        for (i, entry) in listed.into_iter().enumerate() {
            let device = Self::check(entry).within(|| format!("devices[{i}]"))?;
            // It is always the link to the container's own pts/ptmx; runc ignores the entry as well.
            if device.path != Path::new("/dev/ptmx") {
                devices.push(device);
            }
        }
        Ok(devices)
    }

    fn check(device: json::Device) -> Checked<Self> {
        let path = device.path.unwrap_or_default();
        if !path.starts_with('/') {
            return invalid("path", format!("{path:?} is not absolute"));
        }
        let cleaned = clean(Path::new(&path));
        if cleaned == Path::new("/") {
            return invalid("path", format!("{path:?} is the root file system itself"));
        }
        Ok(Self {
            path: cleaned,
            kind: kind(device.kind.as_deref().unwrap_or_default(), device.major, device.minor)?,
            // Go writes the mode as a decimal number that may contain the type of the file.
            mode: device.file_mode.unwrap_or(0o666) & 0o7777,
            uid: id("uid", device.uid.unwrap_or(0))?,
            gid: id("gid", device.gid.unwrap_or(0))?,
        })
    }
}

fn kind(word: &str, major: Option<i64>, minor: Option<i64>) -> Checked<DeviceKind> {
    let number = || DeviceNumber::check(major.unwrap_or(0), minor.unwrap_or(0));
    match word {
        "c" | "u" => number().map(|DeviceNumber { major, minor }| DeviceKind::Char { major, minor }),
        "b" => number().map(|DeviceNumber { major, minor }| DeviceKind::Block { major, minor }),
        "p" => Ok(DeviceKind::Fifo),
        _ => invalid("type", format!("{word:?} is none of c, u, b and p")),
    }
}

//! The other networks of a host: in which subnets they have pods.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use dunnage_sys::Call;
use ipnet::IpNet;

use super::file::TableFile;
use super::header::{self, Header};
use super::locked::LockedLeases;
use super::slots::Slots;
use super::table::Table;
use crate::Result;

impl LockedLeases<'_> {
    /// The subnets of other networks of the directory that have pods, each with the name of its network.
    pub(crate) fn subnets_of_others(&self) -> Result<Vec<(IpNet, String)>> {
        self.table.subnets_of_others()
    }
}

impl Table {
    pub(super) fn subnets_of_others(&self) -> Result<Vec<(IpNet, String)>> {
        let mut all = Vec::new();
        for (path, header) in self.others()? {
            if has_leases(&path, &header)? {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                all.extend(header.segments.nets().into_iter().map(|net| (net, name.clone())));
            }
        }
        Ok(all)
    }
}

/// Without the lock the table can go at any moment, with its last pod.
fn has_leases(path: &Path, header: &Header) -> Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened.call(|| format!("open {}", path.display()))?,
    };
    let file = TableFile::new(file, path.to_owned());
    let mut page = [0; header::SIZE];
    file.read(&mut page, 0)?;
    Ok(!Slots::new(file, &page, header.segments.slots()).used()?.is_empty())
}

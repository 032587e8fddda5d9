//! The file of one network's lease table: found, begun, read.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use dunnage_sys::{Call, Errno};

use super::header::{self, Header};
use super::host_local;
use super::take_over::take_over;
use super::words::read_or_zero;
use crate::range::Ranges;
use crate::segment::Segments;
use crate::{Error, Result};

const UPTIME: &str = "/proc/uptime";
/// How names of tables end.
pub(super) const SUFFIX: &str = "tab";

/// Where the table is and what is wanted of it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) dir: PathBuf,
    pub(super) path: PathBuf,
    pub(super) ranges: Ranges,
    pub(super) import: Option<PathBuf>,
    pub(super) boot_id: [u8; 36],
}

impl Table {
    /// The header that an empty table gets.
    pub(super) fn header(&self) -> Header {
        let base6 = self.ranges.v6.as_ref().map(|range| range.first);
        Header { boot_id: self.boot_id, segments: self.ranges.segments(), base6 }
    }

    /// The file and its header; `None` when there is none of this boot.
    pub(super) fn open(&self) -> Result<Option<(File, Header)>> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).call(|| format!("open {}", self.path.display()))?,
        };
        let mut bytes = [0; header::WHOLE];
        read_or_zero(&file, &mut bytes, 0).call(|| format!("read {}", self.path.display()))?;
        let found = Header::decode(&bytes).map_err(|error| self.damaged(error.0))?;
        Ok((found.boot_id == self.boot_id).then_some((file, found)))
    }

    /// Makes a table, complete with what is taken over, before it gets its name.
    pub(super) fn create(&self) -> Result<(File, Header)> {
        let new = self.path.with_extension("new");
        let named = || format!("create {}", self.path.display());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.call(named)?;
        let filled = self.fill(&file).and_then(|header| {
            std::fs::rename(&new, &self.path).call(named)?;
            Ok(header)
        });
        let header = filled.inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        Ok((file, header))
    }

    fn fill(&self, file: &File) -> Result<Header> {
        let named = || format!("write {}", self.path.display());
        let header = self.header();
        let imported = match &self.import {
            Some(dir) => host_local::load(dir, uptime()?)?,
            None => Vec::new(),
        };
        write_header(file, &header).call(named)?;
        file.set_len(header::record_at(header.segments.slots())).call(named)?;
        take_over(file, &self.ranges, &header, &imported).call(named)?;
        Ok(header)
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }

    pub(super) fn wanted(&self) -> Segments {
        self.ranges.segments()
    }
}

/// Segments first: the fixed part says how many there are.
pub(super) fn write_header(file: &File, header: &Header) -> std::io::Result<()> {
    let (fixed, segments) = header.encode();
    file.write_all_at(&segments, header::SEGMENTS_AT as u64)?;
    file.write_all_at(&fixed, 0)
}

/// Time since the machine started.
pub(super) fn uptime() -> Result<Duration> {
    let text = std::fs::read_to_string(UPTIME).call(|| format!("read {UPTIME}"))?;
    let seconds = text.split(['.', ' ']).next().and_then(|word| word.parse().ok());
    let seconds = seconds.ok_or_else(|| dunnage_sys::Error::new(format!("read {UPTIME}"), Errno::INVAL))?;
    Ok(Duration::from_secs(seconds))
}

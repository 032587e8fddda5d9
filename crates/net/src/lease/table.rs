//! The file of one network's lease table: found, begun, read.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use dunnage_sys::{Call, clock};

use super::file::TableFile;
use super::header::{self, Header};
use super::host_local;
use super::slots::Slots;
use super::take_over::take_over;
use crate::range::Ranges;
use crate::segment::{Segment, Segments};
use crate::{Error, Result};

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
    fn header(&self) -> Result<Header> {
        Ok(Header { boot_id: self.boot_id, segments: self.begin(&Segments::default())? })
    }

    /// What an empty table begins with, where there is one already.
    pub(super) fn begin(&self, had: &Segments) -> Result<Segments> {
        Ok(self.ranges.begin(self.placeholder(had)?))
    }

    /// What the table is for, and its slots; `None` when there is none of this boot.
    pub(super) fn open(&self) -> Result<Option<(Header, Slots)>> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).call(|| format!("open {}", self.path.display()))?,
        };
        let file = TableFile::new(file, self.path.clone());
        let mut page = [0; header::SIZE];
        file.read(&mut page, 0)?;
        let found = Header::decode(&page).map_err(|error| self.damaged(error.0))?;
        if found.boot_id != self.boot_id {
            return Ok(None);
        }
        let slots = Slots::new(file, &page, found.segments.slots());
        Ok(Some((found, slots)))
    }

    /// Makes a table, complete with what is taken over, before it gets its name.
    pub(super) fn create(&self) -> Result<(Header, Slots)> {
        let new = self.path.with_extension("new");
        let named = || format!("create {}", self.path.display());
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.call(named)?;
        let filled = self.fill(TableFile::new(file, self.path.clone())).and_then(|filled| {
            std::fs::rename(&new, &self.path).call(named)?;
            Ok(filled)
        });
        filled.inspect_err(|_| drop(std::fs::remove_file(&new)))
    }

    fn fill(&self, file: TableFile) -> Result<(Header, Slots)> {
        let header = self.header()?;
        let imported = match &self.import {
            Some(dir) => host_local::load(dir, clock::since_boot())?,
            None => Vec::new(),
        };
        write_header(&file, &header)?;
        file.set_len(header::record_at(header.segments.slots()))?;
        let mut slots = Slots::new(file, &[0; header::SIZE], header.segments.slots());
        take_over(&mut slots, &self.ranges, &header, &imported)?;
        Ok((header, slots))
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }

    /// The parts that the network wants of a table that has some already.
    pub(super) fn wanted(&self, had: &Segments) -> Result<Vec<Segment>> {
        Ok(self.ranges.segments(self.ranges.along(had), self.placeholder(had)?))
    }

    /// What stands for IPv4 addresses where there are none.
    fn placeholder(&self, had: &Segments) -> Result<Segment> {
        match had.placeholder() {
            Some(segment) => Ok(segment),
            None if self.ranges.has_family(true) => Ok(Segment::placeholder(0)),
            None => self.free_placeholder(),
        }
    }

    /// Placeholders that no other table of this boot has: links are named after them.
    fn free_placeholder(&self) -> Result<Segment> {
        let taken: Vec<Segment> =
            self.others()?.iter().filter_map(|(_, header)| header.segments.placeholder()).collect();
        let mut all = (0..=u8::MAX).map(Segment::placeholder);
        all.find(|segment| !taken.contains(segment)).ok_or_else(|| Error::Foreign {
            what: "lease directory",
            name: self.dir.display().to_string(),
            reason: "has all the 256 networks without IPv4 that a host can have".to_owned(),
        })
    }

    /// The tables of this boot in the directory other than this one.
    pub(super) fn others(&self) -> Result<Vec<(PathBuf, Header)>> {
        let listed = || format!("list {}", self.dir.display());
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.dir).call(listed)? {
            let path = entry.call(listed)?.path();
            if path != self.path && path.extension().is_some_and(|end| end == SUFFIX) {
                others.extend(self.live_header(&path).map(|header| (path, header)));
            }
        }
        Ok(others)
    }

    fn live_header(&self, path: &Path) -> Option<Header> {
        let mut page = [0; header::SIZE];
        TableFile::new(File::open(path).ok()?, path.to_owned()).read(&mut page, 0).ok()?;
        Header::decode(&page).ok().filter(|found| found.boot_id == self.boot_id)
    }
}

/// Segments first: the fixed part says how many there are.
pub(super) fn write_header(file: &TableFile, header: &Header) -> Result<()> {
    let (fixed, segments) = header.encode();
    file.write(&segments, header::SEGMENTS_AT as u64)?;
    file.write(&fixed, 0)
}

//! One image layer, from its compressed blob to a directory that overlayfs understands.
//!
//! The bytes are a stranger's. No entry reaches a place outside the directory: names are taken apart, `..` is
//! refused, and parents are opened by [`Tree::dir_in_root`], so links made by earlier entries lead nowhere
//! else. Sizes, counts and depth are bounded. Whiteouts become what overlayfs wants to see (character device
//! 0:0, `trusted.overlay.opaque`; kernel Documentation/filesystems/overlayfs.rst), and nothing else in a layer
//! may set attributes of overlayfs.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use dunnage_sys::Errno;
use dunnage_sys::tree::{self, Attributes, Kind, Tree};
use sha2::{Digest, Sha256};
use tar::{Entry, EntryType};

use super::zstd::Frames;

const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT: Kind = Kind::Device { block: false, number: (0, 0) };

/// What a layer may at most be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes once decompressed.
    pub(super) bytes: u64,
    /// Files and directories.
    pub(super) entries: u64,
    /// Directories below each other.
    pub(super) depth: usize,
    /// Bytes of the headers of one entry, long names and attributes included.
    pub(super) header: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000, depth: 512, header: 1 << 20 }
    }
}

/// Digests a layer turned out to have, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digests {
    /// Of the blob.
    pub(super) blob: String,
    /// Of the tar stream inside (`diff_ids` of the image configuration).
    pub(super) diff: String,
}

/// Unpacks `blob` into the empty directory `into`. `lowers` are the layers below, topmost first: a directory
/// that the layer only passes through gets its attributes from there, because overlayfs shows those of the
/// topmost layer.
pub(super) fn unpack(
    blob: impl Read + 'static,
    into: &Path,
    lowers: &[PathBuf],
    limits: Limits,
    cancelled: &AtomicBool,
) -> anyhow::Result<Digests> {
    let blob_hash = Hash::default();
    let diff_hash = Hash::default();
    let budget = Budget(Rc::new(Cell::new(limits.header)));
    let hashed = BufReader::with_capacity(256 << 10, Hashing { source: blob, hash: blob_hash.clone() });
    let mut stream = Metered {
        source: Hashing { source: decompress(hashed)?, hash: diff_hash.clone() },
        total: limits.bytes,
        budget: budget.clone(),
    };
    let mut unpacking = Unpacking {
        root: Tree::open(into)?,
        lowers: lowers.iter().map(|path| Tree::open(path)).collect::<Result<_, _>>()?,
        limits,
        directories: Vec::new(),
    };
    let mut archive = tar::Archive::new(&mut stream);
    let mut entries = archive.entries().context("read the tar stream")?;
    let mut count = 0;
    while let Some(entry) = budget.during(limits.header, || entries.next()) {
        ensure!(!cancelled.load(Ordering::Relaxed), "interrupted");
        count += 1;
        ensure!(count <= limits.entries, "more than {} entries", limits.entries);
        let mut entry = entry.context("read the tar stream")?;
        let name = Path::new(OsStr::from_bytes(&entry.path_bytes())).to_owned();
        unpacking.entry(&mut entry).with_context(|| format!("entry {}", name.display()))?;
        // Whatever follows the entry is headers again.
        io::copy(&mut entry, &mut io::sink()).context("read the tar stream")?;
    }
    unpacking.finish()?;
    // What follows the end mark of the archive counts for both digests.
    io::copy(&mut stream, &mut io::sink()).context("read past the end of the archive")?;
    Ok(Digests { blob: blob_hash.hex(), diff: diff_hash.hex() })
}

/// By the first bytes, since media types have been wrong in the wild.
fn decompress(mut source: impl io::BufRead + 'static) -> anyhow::Result<Box<dyn Read>> {
    let start = source.fill_buf().context("read the blob")?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(source))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(Frames::new(source))
    } else {
        Box::new(source)
    })
}

/// The directory being filled.
struct Unpacking {
    root: Tree,
    lowers: Vec<Tree>,
    limits: Limits,
    /// Times of directories are set last, because filling them changes them.
    directories: Vec<(PathBuf, Attributes)>,
}

impl Unpacking {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> anyhow::Result<()> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let mut path = components(&entry.path_bytes())?;
        let attributes = attributes(entry)?;
        let Some(name) = path.pop() else {
            // The root itself.
            ensure!(kind.is_dir(), "the root of a layer must be a directory");
            return Ok(self.root.set_attributes(OsStr::new("."), attributes)?);
        };
        let parent = self.parent(&path)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(&parent, OsStr::from_bytes(hidden));
        }
        let xattrs = xattrs(entry)?;
        match kind {
            EntryType::Directory => {
                let dir = make_directory(&parent, &name)?;
                for (key, value) in &xattrs {
                    dir.set_xattr(key, value).with_context(|| format!("set {key}"))?;
                }
                let whole = path.iter().chain([&name]).collect();
                self.directories.push((whole, attributes));
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().context("a hard link to nothing")?;
                return self.hard_link(&parent, &name, &target);
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().context("a symbolic link to nothing")?;
                make_room(&parent, &name)?;
                parent.make_symlink(&name, Path::new(OsStr::from_bytes(&target)))?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make_room(&parent, &name)?;
                let mut file = parent.make_file(&name)?;
                io::copy(entry, &mut file).context("write its content")?;
                // The owner first: changing it clears file capabilities (chown(2)).
                parent.set_attributes(&name, attributes)?;
                for (key, value) in &xattrs {
                    tree::set_xattr(&file, key, value).with_context(|| format!("set {key}"))?;
                }
                return Ok(());
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                make_room(&parent, &name)?;
                parent.make_node(&name, node(entry)?)?;
            }
            other => bail!("an entry of the unknown type {other:?}"),
        }
        parent.set_attributes(&name, attributes).context("set its owner, mode and times")
    }

    /// Opens the directory of this path, making what is missing.
    fn parent(&self, path: &[OsString]) -> anyhow::Result<Tree> {
        let whole: PathBuf = path.iter().collect();
        let dir = match self.root.dir_in_root(&whole) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => self.make_parents(path)?,
            Err(errno) => return Err(errno).with_context(|| format!("open {}", whole.display())),
        };
        let depth = dir.depth()?.saturating_sub(self.root.depth()?);
        ensure!(depth <= self.limits.depth, "lies more than {} directories deep", self.limits.depth);
        Ok(dir)
    }

    fn make_parents(&self, path: &[OsString]) -> anyhow::Result<Tree> {
        let mut dir = self.root.dir_in_root(Path::new(""))?;
        let mut walked = PathBuf::new();
        for name in path {
            let above = walked.clone();
            walked.push(name);
            dir = match self.root.dir_in_root(&walked) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    ensure!(dir.kind(name)?.is_none(), "{} is a link to nothing", walked.display());
                    let made = dir.make_dir(name, 0o755)?;
                    if let Some(attributes) = self.attributes_below(&above, name) {
                        dir.set_attributes(name, attributes)?;
                    }
                    made
                }
                Err(errno) => return Err(errno).with_context(|| format!("open {}", walked.display())),
            };
        }
        Ok(dir)
    }

    fn attributes_below(&self, above: &Path, name: &OsStr) -> Option<Attributes> {
        let seen = |lower: &Tree| lower.dir_in_root(above).ok()?.directory_attributes(name).ok()?;
        self.lowers.iter().find_map(seen)
    }

    /// A second name for a file of this layer; one of a layer below cannot be linked to.
    fn hard_link(&self, parent: &Tree, name: &OsStr, target: &[u8]) -> anyhow::Result<()> {
        let mut path = components(target).context("its target")?;
        let from = path.pop().context("a hard link to the root")?;
        let whole: PathBuf = path.iter().collect();
        let shown = String::from_utf8_lossy(target).into_owned();
        let dir = self.root.dir_in_root(&whole).with_context(|| format!("open the folder of {shown}"))?;
        match dir.kind(&from)? {
            Some(Kind::Directory) => bail!("a hard link to the directory {shown}"),
            None => bail!("a hard link to {shown}, which this layer does not have"),
            Some(_) => {}
        }
        make_room(parent, name)?;
        parent.make_link(name, &dir, &from).with_context(|| format!("link to {shown}"))
    }

    fn finish(self) -> anyhow::Result<()> {
        for (path, attributes) in self.directories.into_iter().rev() {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
            // A later entry may have put something else here.
            let Ok(parent) = self.root.dir_in_root(folder) else { continue };
            if parent.kind(name)? == Some(Kind::Directory) {
                parent
                    .set_attributes(name, attributes)
                    .with_context(|| format!("set times of {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The plain names of a path; `/` and `.` say nothing, `..` is refused.
fn components(path: &[u8]) -> anyhow::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => bail!("has `..` in its path"),
            name => {
                ensure!(!name.contains(&0), "has a NUL in its path");
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
    }
    Ok(names)
}

fn attributes(entry: &mut Entry<'_, impl Read>) -> anyhow::Result<Attributes> {
    let header = entry.header();
    let raw = header.as_old();
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).context("an owner beyond 32 bits");
    let mode = or_empty(header.mode().map(u64::from), &raw.mode).context("its mode")? & 0o7777;
    Ok(Attributes {
        uid: id(or_empty(header.uid(), &raw.uid).context("its owner")?)?,
        gid: id(or_empty(header.gid(), &raw.gid).context("its group")?)?,
        mode: u32::try_from(mode).context("its mode")?,
        modified: i64::try_from(or_empty(header.mtime(), &raw.mtime).context("its time")?).unwrap_or(0),
    })
}

/// An empty field is a zero to every other reader of tar files.
fn or_empty(number: io::Result<u64>, field: &[u8]) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { number }
}

/// The extended attributes a container may bring: file capabilities and `user.*`. Those of overlayfs would
/// redirect lookups, and labels belong to the host.
fn xattrs(entry: &mut Entry<'_, impl Read>) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let Some(extensions) = entry.pax_extensions().context("its extended header")? else { return Ok(found) };
    for extension in extensions {
        let extension = extension.context("its extended header")?;
        let Ok(key) = extension.key() else { continue };
        let Some(name) = key.strip_prefix("SCHILY.xattr.") else { continue };
        let wanted =
            name == "security.capability" || name.starts_with("user.") && !name.starts_with("user.overlay.");
        if wanted {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

fn node(entry: &Entry<'_, impl Read>) -> anyhow::Result<Kind> {
    let header = entry.header();
    let number = || -> anyhow::Result<(u32, u32)> {
        let part = |number: io::Result<Option<u32>>| {
            number.context("its device number").map(Option::unwrap_or_default)
        };
        Ok((part(header.device_major())?, part(header.device_minor())?))
    };
    Ok(match header.entry_type() {
        EntryType::Char => Kind::Device { block: false, number: number()? },
        EntryType::Block => Kind::Device { block: true, number: number()? },
        _ => Kind::Fifo,
    })
}

/// Makes a directory, or opens the one an earlier entry made. In the place of a whiteout it hides what the
/// layers below have, so it is opaque.
fn make_directory(parent: &Tree, name: &OsStr) -> anyhow::Result<Tree> {
    let before = parent.kind(name)?;
    if before == Some(Kind::Directory) {
        return Ok(parent.dir(name)?);
    }
    make_room(parent, name)?;
    let dir = parent.make_dir(name, 0o755)?;
    if before == Some(WHITEOUT) {
        dir.set_xattr(OPAQUE, b"y").context("make it opaque")?;
    }
    Ok(dir)
}

/// Removes what an earlier entry put in this place.
fn make_room(parent: &Tree, name: &OsStr) -> anyhow::Result<()> {
    if parent.kind(name)?.is_some() {
        parent.remove(name)?;
    }
    Ok(())
}

/// Hides `name` of the layers below, or all they have in this directory.
fn whiteout(parent: &Tree, name: &OsStr) -> anyhow::Result<()> {
    if name == ".wh..opq" {
        return parent.set_xattr(OPAQUE, b"y").context("make the directory opaque");
    }
    if name.as_bytes().starts_with(b".wh.") {
        // Bookkeeping of aufs, which hides nothing.
        return Ok(());
    }
    ensure!(!matches!(name.as_bytes(), b"" | b"." | b".."), "a whiteout of nothing");
    match parent.kind(name)? {
        None => parent.make_node(name, WHITEOUT).context("make a whiteout"),
        // The layer itself has it again: only what lies below is hidden.
        Some(Kind::Directory) => parent.dir(name)?.set_xattr(OPAQUE, b"y").context("make it opaque"),
        Some(_) => Ok(()),
    }
}

/// A running digest that the stream and its user both hold.
#[derive(Clone, Default)]
struct Hash(Rc<std::cell::RefCell<Sha256>>);

impl Hash {
    fn hex(&self) -> String {
        hex::encode(self.0.borrow().clone().finalize())
    }
}

struct Hashing<R> {
    source: R,
    hash: Hash,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hash.0.borrow_mut().update(&buffer[..count]);
        Ok(count)
    }
}

/// How much the headers of one entry may still read. The `tar` crate keeps long names and attributes in
/// memory whole, and a few kilobytes of gzip can announce gigabytes of them.
#[derive(Clone)]
struct Budget(Rc<Cell<u64>>);

impl Budget {
    fn during<T>(&self, bytes: u64, read: impl FnOnce() -> T) -> T {
        self.0.set(bytes);
        let result = read();
        self.0.set(u64::MAX);
        result
    }
}

/// A reader that ends in an error beyond its limits.
struct Metered<R> {
    source: R,
    total: u64,
    budget: Budget,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let read = count as u64;
        let Some(total) = self.total.checked_sub(read) else {
            return Err(io::Error::other("the layer is larger than any that is unpacked"));
        };
        let Some(budget) = self.budget.0.get().checked_sub(read) else {
            return Err(io::Error::other("the headers of one entry are larger than any that are read"));
        };
        self.total = total;
        self.budget.0.set(budget);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;

use super::*;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// A tar stream written by hand, because the `tar` crate refuses to write what must be refused here.
#[derive(Default)]
struct Tar(Vec<u8>);

/// The fields of one entry.
struct Item<'a> {
    kind: EntryType,
    name: &'a str,
    link: &'a str,
    content: &'a [u8],
    owner: (u64, u64),
    mode: u32,
}

fn item(kind: EntryType, name: &str) -> Item<'_> {
    Item { kind, name, link: "", content: b"", owner: (0, 0), mode: 0o755 }
}

impl Tar {
    fn add(mut self, item: &Item<'_>) -> Self {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..item.name.len()].copy_from_slice(item.name.as_bytes());
        raw.linkname[..item.link.len()].copy_from_slice(item.link.as_bytes());
        header.set_entry_type(item.kind);
        header.set_size(item.content.len() as u64);
        header.set_uid(item.owner.0);
        header.set_gid(item.owner.1);
        header.set_mode(item.mode);
        header.set_mtime(1_000_000);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(item.content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn dir(self, name: &str) -> Self {
        self.add(&item(EntryType::Directory, name))
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.add(&Item { content: content.as_bytes(), mode: 0o644, ..item(EntryType::Regular, name) })
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.add(&Item { link: target, ..item(EntryType::Symlink, name) })
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(&Item { link: target, ..item(EntryType::Link, name) })
    }

    fn pax(self, key: &str, value: &str) -> Self {
        let body = format!(" {key}={value}\n");
        let mut length = body.len();
        while length != length.to_string().len() + body.len() {
            length = length.to_string().len() + body.len();
        }
        let content = format!("{length}{body}");
        self.add(&Item { content: content.as_bytes(), ..item(EntryType::XHeader, "pax") })
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn run(blob: Vec<u8>, into: &Path, lowers: &[PathBuf], limits: Limits) -> anyhow::Result<Digests> {
    unpack(io::Cursor::new(blob), into, lowers, limits, &AtomicBool::new(false))
}

/// Unpacks into a fresh directory `layer` inside another one, so that what leaves it can be seen.
fn unpacked(tar: Tar) -> (tempfile::TempDir, PathBuf) {
    let (dir, layer, result) = tried(tar);
    result.unwrap();
    (dir, layer)
}

fn tried(tar: Tar) -> (tempfile::TempDir, PathBuf, anyhow::Result<Digests>) {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    let result = run(tar.end(), &layer, &[], Limits::default());
    (dir, layer, result)
}

fn refused(tar: Tar) -> String {
    let (dir, _, result) = tried(tar);
    let outside: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside, ["layer"], "something was made outside");
    format!("{:#}", result.unwrap_err())
}

fn opaque(path: &Path) -> bool {
    xattr(path, OPAQUE) == "y"
}

/// Empty when there is none.
fn xattr(path: &Path, name: &str) -> String {
    let mut value = Vec::with_capacity(64);
    match rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => String::from_utf8(value).unwrap(),
        Err(Errno::NODATA) => String::new(),
        Err(errno) => panic!("{name}: {errno}"),
    }
}

#[test]
fn files_links_and_nodes_arrive_as_they_were() {
    let owned =
        Item { content: b"text", owner: (1000, 100), mode: 0o4755, ..item(EntryType::Regular, "bin/tool") };
    let (_dir, layer) = unpacked(
        Tar::default()
            .dir("./")
            .dir("bin/")
            .add(&owned)
            .link("bin/same", "bin/tool")
            .symlink("bin/sh", "/bin/tool")
            .add(&item(EntryType::Fifo, "pipe"))
            .add(&Item { mode: 0o1777, ..item(EntryType::Directory, "tmp") }),
    );
    let tool = std::fs::metadata(layer.join("bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777, tool.mtime()), (1000, 100, 0o4755, 1_000_000));
    assert_eq!((tool.nlink(), tool.ino()), (2, std::fs::metadata(layer.join("bin/same")).unwrap().ino()));
    assert_eq!(std::fs::read_link(layer.join("bin/sh")).unwrap(), Path::new("/bin/tool"));
    assert!(std::fs::symlink_metadata(layer.join("pipe")).unwrap().file_type().is_fifo());
    let tmp = std::fs::metadata(layer.join("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_000_000));
    assert_eq!(std::fs::metadata(layer.join("bin")).unwrap().mtime(), 1_000_000);
}

#[test]
fn no_name_leads_out_of_the_layer() {
    assert!(refused(Tar::default().file("../evil", "x")).contains("`..`"));
    assert!(refused(Tar::default().file("a/../../evil", "x")).contains("`..`"));
    assert!(refused(Tar::default().link("a", "../../etc/passwd")).contains("`..`"));
    assert!(refused(Tar::default().link("a", "/etc/passwd")).contains("open the folder"));
    let (_dir, layer) = unpacked(Tar::default().file("/etc/absolute", "x"));
    assert_eq!(std::fs::read_to_string(layer.join("etc/absolute")).unwrap(), "x");
}

#[test]
fn no_link_leads_out_of_the_layer() {
    // A link to a directory outside, then a file through it.
    let (dir, layer) = unpacked(Tar::default().symlink("out", "../..").file("out/evil", "x"));
    assert!(layer.join("evil").exists() && !dir.path().join("evil").exists());
    let (_dir, layer) =
        unpacked(Tar::default().dir("etc").symlink("esc", "/etc").file("esc/dunnage-evil", "x"));
    assert!(layer.join("etc/dunnage-evil").exists() && !Path::new("/etc/dunnage-evil").exists());
    // A link as the file itself is replaced, not followed.
    let (_dir, layer) = unpacked(Tar::default().symlink("passwd", "/etc/passwd").file("passwd", "mine"));
    assert!(std::fs::symlink_metadata(layer.join("passwd")).unwrap().is_file());
    // A hard link to a link links the link.
    let (_dir, layer) = unpacked(Tar::default().symlink("l", "/etc/passwd").link("hard", "l"));
    assert!(std::fs::symlink_metadata(layer.join("hard")).unwrap().is_symlink());
    // A link to nothing is no way to make a directory somewhere.
    assert!(
        refused(Tar::default().symlink("d", "/none").file("d/x", "x")).contains("d is a link to nothing")
    );
    // Attributes of the link are not set on what it names.
    let before = std::fs::metadata("/etc/passwd").unwrap();
    unpacked(Tar::default().add(&Item {
        link: "/etc/passwd",
        owner: (7, 7),
        ..item(EntryType::Symlink, "l")
    }));
    let after = std::fs::metadata("/etc/passwd").unwrap();
    assert_eq!((before.uid(), before.mtime()), (after.uid(), after.mtime()));
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let (_dir, layer) = unpacked(
        Tar::default()
            .file("a/.wh.gone", "")
            .dir("b")
            .file("b/.wh..wh..opq", "")
            .file(".wh..wh.plnk", "")
            .file(".wh.again", "")
            .dir("again")
            .file("again/new", "x")
            .dir("kept")
            .file(".wh.kept", ""),
    );
    let gone = std::fs::symlink_metadata(layer.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(opaque(&layer.join("b")) && opaque(&layer.join("again")) && opaque(&layer.join("kept")));
    assert!(!opaque(&layer.join("a")));
    let mut names: Vec<_> = std::fs::read_dir(&layer).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "again", "b", "kept"]);
    for name in [".wh.", ".wh..", ".wh..."] {
        assert!(refused(Tar::default().file(name, "")).contains("a whiteout of nothing"), "{name}");
    }
}

#[test]
fn only_harmless_attributes_are_taken_over() {
    let (_dir, layer) = unpacked(
        Tar::default()
            .pax("SCHILY.xattr.user.note", "kept")
            .file("f", "x")
            .pax("SCHILY.xattr.trusted.overlay.redirect", "/etc")
            .dir("d")
            .pax("SCHILY.xattr.user.overlay.opaque", "y")
            .dir("e"),
    );
    assert_eq!(xattr(&layer.join("f"), "user.note"), "kept");
    assert_eq!(xattr(&layer.join("d"), "trusted.overlay.redirect"), "");
    assert_eq!(xattr(&layer.join("e"), "user.overlay.opaque"), "");
}

#[test]
fn a_missing_directory_looks_like_the_one_below() {
    let dir = tempfile::tempdir().unwrap();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    std::fs::create_dir(&lower).unwrap();
    std::fs::create_dir(&upper).unwrap();
    let private = Item { mode: 0o700, owner: (5, 6), ..item(EntryType::Directory, "srv/private") };
    run(Tar::default().dir("srv").add(&private).end(), &lower, &[], Limits::default()).unwrap();
    let tar = Tar::default().file("srv/private/deep/x", "x").end();
    run(tar, &upper, &[lower], Limits::default()).unwrap();
    let made = std::fs::metadata(upper.join("srv/private")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o700, 5, 6));
    assert_eq!(std::fs::metadata(upper.join("srv/private/deep")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn every_limit_ends_the_unpacking() {
    let limits = Limits { bytes: 1 << 20, entries: 10, depth: 5, header: 8 << 10 };
    let reason = |tar: Tar| {
        let dir = tempfile::tempdir().unwrap();
        format!("{:#}", run(tar.end(), dir.path(), &[], limits).unwrap_err())
    };
    assert!(reason(Tar::default().file("big", &"x".repeat(2 << 20))).contains("larger than any"));
    let many = (0..11).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), ""));
    assert!(reason(many).contains("more than 10 entries"));
    assert!(reason(Tar::default().file("1/2/3/4/5/6/x", "")).contains("more than 5 directories deep"));
    // Links cannot be used to get deeper.
    let ladder = Tar::default().dir("1/2/3/4").symlink("s", "1/2/3/4").file("s/5/6/x", "");
    assert!(reason(ladder).contains("more than 5 directories deep"));
    let long = Item { content: &[b'x'; 64 << 10], ..item(EntryType::GNULongName, "n") };
    assert!(reason(Tar::default().add(&long)).contains("headers of one entry"));
}

#[test]
fn a_bomb_of_zeros_is_stopped_by_its_size_and_not_by_the_disk() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&Tar::default().file("small", "x").end()).unwrap();
    for _ in 0..64 {
        packed.write_all(&[0; 64 << 10]).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let error = run(packed.finish().unwrap(), dir.path(), &[], limits).unwrap_err();
    assert!(format!("{error:#}").contains("larger than any"), "{error:#}");
}

#[test]
fn compression_is_recognised_and_both_digests_are_told() {
    let plain = Tar::default().file("f", "content").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd =
        ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    for blob in [plain.clone(), gzip, zstd] {
        let dir = tempfile::tempdir().unwrap();
        let want =
            Digests { blob: hex::encode(Sha256::digest(&blob)), diff: hex::encode(Sha256::digest(&plain)) };
        assert_eq!(run(blob, dir.path(), &[], Limits::default()).unwrap(), want);
        assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), "content");
    }
}

#[test]
fn an_interruption_ends_the_unpacking() {
    let dir = tempfile::tempdir().unwrap();
    let blob = io::Cursor::new(Tar::default().file("f", "x").end());
    let error = unpack(blob, dir.path(), &[], Limits::default(), &AtomicBool::new(true)).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}

#[test]
fn garbage_is_an_error_and_not_a_panic() {
    for seed in 0..64_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut blob = Tar::default().dir("d").file("d/f", "content").symlink("d/l", "f").end();
        for _ in 0..20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = usize::try_from(state % blob.len() as u64).unwrap();
            blob[at] ^= u8::try_from(state >> 56).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir(&layer).unwrap();
        let _either = run(blob, &layer, &[], Limits { bytes: 1 << 20, ..Limits::default() });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "seed {seed}");
    }
}

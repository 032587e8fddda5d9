//! Users and groups by the files of an image, read inside it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use dunnage_sys::classic_mount::{self, Flags};
use dunnage_sys::tree::Tree;
use dunnage_sys::{Call, Errno};

use super::overlay::lowerdir;

/// Larger files of users are not read.
const MAX_FILE: u64 = 16 << 20;

/// `/etc/passwd` and `/etc/group` of an image; empty when it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Users {
    passwd: String,
    group: String,
}

/// Who a container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, in order, without doubles.
    pub(crate) groups: BTreeSet<u32>,
    /// Home directory, when the image knows the user.
    pub(crate) home: Option<String>,
}

impl Users {
    /// Reads the files of stacked layers, lowest first. `look` is an empty directory: several layers are
    /// mounted there for a moment, read-only, so that the kernel finds the files and no rule of overlayfs is
    /// rebuilt here.
    pub(crate) fn read(layers: &[PathBuf], look: &Path) -> anyhow::Result<Self> {
        let tree = match layers {
            [only] => Tree::open(only)?,
            _ => {
                let options = format!("lowerdir={}", lowerdir(layers));
                classic_mount::mount("overlay", look, "overlay", Flags::RDONLY, &options)?;
                let opened = Tree::open(look);
                // The open directory keeps the detached mount alive for as long as it is needed.
                classic_mount::unmount(look)?;
                opened?
            }
        };
        Ok(Self { passwd: file(&tree, "etc/passwd")?, group: file(&tree, "etc/group")? })
    }

    /// Resolves `user[:group]`; nothing is root.
    pub(crate) fn identity(&self, user: &str) -> anyhow::Result<Identity> {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry = self.passwd.lines().filter_map(Entry::passwd).find(|entry| entry.is(user));
        let mut identity = match (&entry, user.parse::<u32>()) {
            (Some(entry), _) => Identity {
                uid: entry.id,
                gid: entry.gid,
                home: Some(entry.home.to_owned()),
                ..Identity::default()
            },
            // A number need not be known; its group is then root's, as CRI has it.
            (None, Ok(uid)) => Identity { uid, ..Identity::default() },
            (None, Err(_)) => bail!("the image has no user `{user}`"),
        };
        if let Some(entry) = &entry {
            identity.groups = self.groups_of(entry.name);
        }
        if let Some(group) = group {
            identity.gid = self.group(group)?;
        }
        ensure!(identity.uid != u32::MAX && identity.gid != u32::MAX, "4294967295 is no id");
        Ok(identity)
    }

    fn group(&self, group: &str) -> anyhow::Result<u32> {
        let found = self.group.lines().filter_map(Entry::group).find(|entry| entry.is(group));
        match (found, group.parse::<u32>()) {
            (Some(entry), _) => Ok(entry.id),
            (None, Ok(gid)) => Ok(gid),
            (None, Err(_)) => bail!("the image has no group `{group}`"),
        }
    }

    fn groups_of(&self, user: &str) -> BTreeSet<u32> {
        let entries = self.group.lines().filter_map(Entry::group);
        entries
            .filter(|entry| entry.members.split(',').any(|member| member == user))
            .map(|entry| entry.id)
            .collect()
    }
}

/// One line of either file.
struct Entry<'a> {
    name: &'a str,
    id: u32,
    gid: u32,
    home: &'a str,
    members: &'a str,
}

impl<'a> Entry<'a> {
    /// `name:password:uid:gid:comment:home:shell` (passwd(5)); lines that are not are passed over.
    fn passwd(line: &'a str) -> Option<Self> {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let (id, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        Some(Self { name: fields[0], id, gid, home: fields.get(5).copied().unwrap_or(""), members: "" })
    }

    /// `name:password:gid:members` (group(5)).
    fn group(line: &'a str) -> Option<Self> {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let id = fields.get(2)?.parse().ok()?;
        Some(Self { name: fields[0], id, gid: id, home: "", members: fields.get(3).copied().unwrap_or("") })
    }

    /// A name that is a number is first looked for as a number, as libcontainer does.
    fn is(&self, user: &str) -> bool {
        user.parse::<u32>().map_or(self.name == user, |id| self.id == id)
    }
}

fn file(tree: &Tree, path: &str) -> anyhow::Result<String> {
    let file = match tree.file_in_root(Path::new(path)) {
        Ok(file) => file,
        // Not there, or in a place where no file can be: an image need not know any users.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(errno).call(|| format!("open /{path} of the image")).map_err(Into::into),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(|| format!("read /{path} of the image"))?;
    ensure!(bytes.len() as u64 <= MAX_FILE, "/{path} of the image is larger than {MAX_FILE} bytes");
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: "root:x:0:0:root:/root:/bin/sh\n# no user\napp:x:1000:100:App:/home/app:/bin/sh\n7:x:8:9::/:\n"
                .to_owned(),
            group: "root:x:0:root\nstaff:x:50:other,app\nwheel:x:10:app\nbroken\n".to_owned(),
        }
    }

    #[test]
    fn users_and_groups_are_found_by_number_or_name() {
        let rows: &[(&str, u32, u32, &[u32])] = &[
            ("", 0, 0, &[0]),
            ("root", 0, 0, &[0]),
            ("app", 1000, 100, &[10, 50]),
            ("1000", 1000, 100, &[10, 50]),
            ("app:staff", 1000, 50, &[10, 50]),
            ("app:7", 1000, 7, &[10, 50]),
            ("4711", 4711, 0, &[]),
            ("4711:4712", 4711, 4712, &[]),
            ("7", 7, 0, &[]),
            (":staff", 0, 50, &[0]),
        ];
        for (user, uid, gid, groups) in rows {
            let identity = users().identity(user).unwrap();
            assert_eq!((identity.uid, identity.gid), (*uid, *gid), "{user}");
            assert_eq!(identity.groups.into_iter().collect::<Vec<_>>(), *groups, "{user}");
        }
        assert_eq!(users().identity("app").unwrap().home.as_deref(), Some("/home/app"));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert_eq!(users().identity("nobody").unwrap_err().to_string(), "the image has no user `nobody`");
        assert_eq!(
            users().identity("app:nogroup").unwrap_err().to_string(),
            "the image has no group `nogroup`"
        );
        assert!(users().identity("4294967295").is_err());
    }

    #[test]
    fn the_files_are_read_inside_the_image_wherever_its_links_point() {
        let dir = tempfile::tempdir().unwrap();
        let make = |layer: &str| {
            let path = dir.path().join(layer);
            std::fs::create_dir_all(path.join("etc")).unwrap();
            path
        };
        let (lower, upper, look) = (make("lower"), make("upper"), make("look"));
        std::fs::write(lower.join("etc/real"), "in:x:5:6::/:\n").unwrap();
        std::os::unix::fs::symlink("/etc/real", upper.join("etc/passwd")).unwrap();
        let stacked = Users::read(&[lower.clone(), upper], &look).unwrap();
        assert_eq!(stacked.identity("in").unwrap().uid, 5);
        assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(look.to_str().unwrap()));
        // Alone, the lower layer has no passwd; above, a link out would find the host's.
        std::os::unix::fs::symlink("/../../../../../etc/passwd", lower.join("etc/passwd")).unwrap();
        assert_eq!(Users::read(&[lower], &look).unwrap(), Users::default());
    }
}

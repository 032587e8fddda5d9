//! The option words of a mount, each turned into what it means to the kernel.
//!
//! Three kinds of words meet in one list: attributes of the mount, flags of the superblock, and parameters of
//! the file system. Words of the first two kinds are known here (mount(8), runtime-spec "Linux mount
//! options"); whatever else is said goes to the file system as it is.

use crate::error::{Checked, invalid, unsupported};
use crate::mount::{Atime, AttributeSet, Attributes, Propagation, PropagationKind, Superblock};

/// What a list of option words asks for. Of contradicting words the last wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// `bind` is `Some(false)`, `rbind` is `Some(true)`.
    pub(super) bind: Option<bool>,
    pub(super) attributes: Attributes,
    pub(super) recursive: Attributes,
    pub(super) propagation: Vec<Propagation>,
    /// Without `read_only`, which follows from the attributes.
    pub(super) superblock: Superblock,
    /// For the file system, in order.
    pub(super) parameters: Vec<(String, Option<String>)>,
}

impl Options {
    /// # Errors
    /// `Unimplemented` for words whose meaning dunnage knows and does not carry out.
    pub(super) fn parse<S: AsRef<str>>(words: &[S]) -> Checked<Self> {
        let mut options = Self::default();
        for word in words {
            options.add(word.as_ref())?;
        }
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Checked<()> {
        if let Some(feature) = unsupported_word(word) {
            return unsupported("options", &format!("{word:?}: {feature}"));
        }
        let known = self.add_general(word)
            || add_attribute(&mut self.attributes, word)
            || word.strip_prefix('r').is_some_and(|word| add_attribute(&mut self.recursive, word))
            || add_superblock(&mut self.superblock, word);
        if known { Ok(()) } else { self.add_parameters(word) }
    }

    fn add_general(&mut self, word: &str) -> bool {
        match word {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            // `defaults` is the absence of all others; `silent` and `loud` are about mount(2)'s kernel log
            // lines, which the new mount API does not have.
            "" | "defaults" | "silent" | "loud" => {}
            _ => match propagation(word) {
                Some(propagation) => self.propagation.push(propagation),
                None => return false,
            },
        }
        true
    }

    // mount(2) took one string, so callers may have several parameters in one word. Commas that are quoted
    // (SELinux contexts) or escaped (overlay paths) are part of a value.
    fn add_parameters(&mut self, word: &str) -> Checked<()> {
        let whole = word.contains('"') || word.contains('\\');
        let words = if whole { vec![word] } else { word.split(',').collect() };
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word, None),
            };
            if name.is_empty() {
                return invalid("options", format!("{word:?} has no name"));
            }
            self.parameters.push((name.to_owned(), value));
        }
        Ok(())
    }
}

fn unsupported_word(word: &str) -> Option<&'static str> {
    match word.split_once('=').map_or(word, |(name, _)| name) {
        "idmap" | "ridmap" => Some("id-mapped mounts are"),
        "remount" => Some("changing a mount that is already there is"),
        "tmpcopyup" => Some("a tmpfs filled from the directory it covers is"),
        _ => None,
    }
}

/// The propagation a word names; the leading `r` makes it recursive.
pub(crate) fn propagation(word: &str) -> Option<Propagation> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let kind = match word {
        "private" => PropagationKind::Private,
        "shared" => PropagationKind::Shared,
        "slave" => PropagationKind::Slave,
        "unbindable" => PropagationKind::Unbindable,
        _ => return None,
    };
    Some(Propagation { kind, recursive })
}

fn add_attribute(attributes: &mut Attributes, word: &str) -> bool {
    let (flag, on): (fn(&mut AttributeSet) -> &mut bool, bool) = match word {
        "ro" => (|set| &mut set.readonly, true),
        "rw" => (|set| &mut set.readonly, false),
        "nosuid" => (|set| &mut set.nosuid, true),
        "suid" => (|set| &mut set.nosuid, false),
        "nodev" => (|set| &mut set.nodev, true),
        "dev" => (|set| &mut set.nodev, false),
        "noexec" => (|set| &mut set.noexec, true),
        "exec" => (|set| &mut set.noexec, false),
        "nodiratime" => (|set| &mut set.nodiratime, true),
        "diratime" => (|set| &mut set.nodiratime, false),
        "nosymfollow" => (|set| &mut set.nosymfollow, true),
        "symfollow" => (|set| &mut set.nosymfollow, false),
        _ => return add_atime(attributes, word),
    };
    *flag(&mut attributes.set) = on;
    *flag(&mut attributes.clear) = !on;
    true
}

fn add_atime(attributes: &mut Attributes, word: &str) -> bool {
    attributes.atime = match word {
        "noatime" => Some(Atime::Noatime),
        "strictatime" => Some(Atime::Strictatime),
        // Without the other two a mount is relatime, since 2.6.30.
        "relatime" | "atime" | "nostrictatime" => Some(Atime::Relatime),
        // The kernel has no mode that this could ask for: it takes back an earlier word.
        "norelatime" => attributes.atime.filter(|&atime| atime != Atime::Relatime),
        _ => return false,
    };
    true
}

fn add_superblock(superblock: &mut Superblock, word: &str) -> bool {
    match word {
        "sync" => superblock.synchronous = true,
        "async" => superblock.synchronous = false,
        "dirsync" => superblock.dirsync = true,
        "lazytime" => superblock.lazytime = true,
        "nolazytime" => superblock.lazytime = false,
        "mand" => superblock.mandlock = true,
        "nomand" => superblock.mandlock = false,
        "iversion" => superblock.iversion = true,
        "noiversion" => superblock.iversion = false,
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse(words).unwrap()
    }

    #[test]
    fn every_attribute_word_sets_or_clears_its_flag() {
        for (set, clear) in [
            ("ro", "rw"),
            ("nosuid", "suid"),
            ("nodev", "dev"),
            ("noexec", "exec"),
            ("nodiratime", "diratime"),
            ("nosymfollow", "symfollow"),
        ] {
            let on = parse(&[set]).attributes;
            let off = parse(&[clear]).attributes;
            assert_eq!((on.set, on.clear), (off.clear, off.set), "{set} and {clear}");
            assert_ne!(on, Attributes::default(), "{set}");
            let recursive = parse(&[&format!("r{set}")]);
            assert_eq!((recursive.recursive, recursive.attributes), (on, Attributes::default()), "r{set}");
        }
    }

    #[test]
    fn of_contradicting_words_the_last_wins() {
        assert_eq!(parse(&["ro", "rw"]).attributes, parse(&["rw"]).attributes);
        assert_eq!(parse(&["noatime", "strictatime"]).attributes.atime, Some(Atime::Strictatime));
        assert_eq!(parse(&["sync", "async"]).superblock, Superblock::default());
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(true));
    }

    #[test]
    fn the_access_time_words_map_to_the_modes_the_kernel_has() {
        for (words, atime) in [
            (&["noatime"][..], Some(Atime::Noatime)),
            (&["noatime", "atime"], Some(Atime::Relatime)),
            (&["relatime"], Some(Atime::Relatime)),
            (&["strictatime", "nostrictatime"], Some(Atime::Relatime)),
            (&["relatime", "norelatime"], None),
            (&["noatime", "norelatime"], Some(Atime::Noatime)),
        ] {
            assert_eq!(parse(words).attributes.atime, atime, "{words:?}");
        }
        assert_eq!(parse(&["rnoatime"]).recursive.atime, Some(Atime::Noatime));
        assert_eq!(parse(&["rrelatime"]).recursive.atime, Some(Atime::Relatime));
    }

    #[test]
    fn propagation_words_keep_their_order() {
        let private = Propagation { kind: PropagationKind::Private, recursive: true };
        let shared = Propagation { kind: PropagationKind::Shared, recursive: false };
        assert_eq!(parse(&["rprivate", "shared"]).propagation, [private, shared]);
    }

    #[test]
    fn unknown_words_go_to_the_file_system_in_order() {
        let some = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        let parsed = parse(&["mode=755,size=64k", "nr_inodes=", "newinstance", "lowerdir=/a\\,b:/c"]);
        let expected = [
            some("mode", "755"),
            some("size", "64k"),
            some("nr_inodes", ""),
            ("newinstance".to_owned(), None),
            some("lowerdir", "/a\\,b:/c"),
        ];
        assert_eq!(parsed.parameters, expected);
    }

    #[test]
    fn words_that_are_not_carried_out_are_refused_by_name() {
        for word in ["idmap", "ridmap", "idmap=uids=0-1-2", "remount", "tmpcopyup"] {
            let refusal = Options::parse(&[word]).unwrap_err().to_string();
            assert!(refusal.contains(word) && refusal.ends_with("not supported yet"), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn no_list_of_words_makes_the_parser_panic(words in prop::collection::vec("\\PC{0,12}", 0..8)) {
            let _ = Options::parse(&words);
        }

        #[test]
        fn a_flag_is_never_both_set_and_cleared(
            words in prop::collection::vec("r?(ro|rw|nosuid|suid|nodev|dev|noexec|exec|atime|noatime)", 0..8),
        ) {
            let parsed = Options::parse(&words).unwrap();
            for Attributes { set, clear, .. } in [parsed.attributes, parsed.recursive] {
                for flag in [
                    |set: AttributeSet| set.readonly,
                    |set: AttributeSet| set.nosuid,
                    |set: AttributeSet| set.nodev,
                    |set: AttributeSet| set.noexec,
                ] {
                    prop_assert!(!flag(set) || !flag(clear));
                }
            }
        }
    }
}

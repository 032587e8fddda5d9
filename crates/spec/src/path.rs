//! Lexical cleaning of paths, before the kernel sees them.

use std::path::{Component, Path, PathBuf};

/// `path` as an absolute path without `.`, `..` and double slashes; `..` never leaves the root.
///
/// Only the text is looked at. Images depend on runc's lexical view of `..` in mount destinations; symlinks
/// are resolved later, inside the rootfs, by descriptor.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

/// `path` cleaned, taken from `base` when it is relative.
pub(crate) fn clean_from(base: &Path, path: &Path) -> PathBuf {
    clean(&base.join(path))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dots_and_double_slashes_go() {
        for (path, cleaned) in [
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("a/b", "/a/b"),
            ("..", "/"),
            ("", "/"),
            ("/...", "/..."),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(cleaned), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_cleaned_path_is_absolute_has_no_dots_and_stays_as_it_is(path in "[a./]{0,24}") {
            let cleaned = clean(Path::new(&path));
            prop_assert!(cleaned.is_absolute());
            prop_assert!(cleaned.components().all(|part| part != Component::ParentDir));
            prop_assert!(!cleaned.to_str().unwrap().contains("//"));
            prop_assert_eq!(clean(&cleaned), cleaned);
        }
    }
}

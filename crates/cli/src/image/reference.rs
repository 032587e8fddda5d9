//! `image:` of a container: which local source it names.

use std::path::{Path, PathBuf};

/// A source on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A directory in OCI image layout.
    Layout { path: PathBuf, tag: Option<String> },
    /// A tar file of an OCI image layout.
    Archive { path: PathBuf, tag: Option<String> },
    /// A plain directory that is the root file system.
    Rootfs { path: PathBuf },
}

/// Why a name is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    /// It names something that would have to be pulled.
    #[error(
        "`{0}` names an image in a registry, and nothing is pulled here; copy it beside the manifest once with \
         `skopeo copy docker://{0} oci-archive:image.tar` and write `image: oci-archive:image.tar`"
    )]
    Registry(String),
    /// A transport of other tools.
    #[error(
        "`{0}`: images are oci:DIRECTORY, oci-archive:FILE or rootfs:DIRECTORY; skopeo copies from one to the other"
    )]
    Transport(String),
    /// A source that is not there, or is not what its prefix says.
    #[error("{path}: {reason}", path = .path.display())]
    Source {
        /// Where it was looked for.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
}

/// Transports of containers-image(5) that are told apart from the name of a registry with a port.
const OTHER_TRANSPORTS: [&str; 6] =
    ["docker-archive", "docker-daemon", "docker", "containers-storage", "dir", "sif"];

impl Reference {
    /// Finds the source `image` names; relative paths start at `folder`, the manifest's.
    ///
    /// # Errors
    /// With the way out, when nothing local is named.
    pub(crate) fn resolve(image: &str, folder: &Path) -> Result<Self, ReferenceError> {
        match image.split_once(':') {
            Some(("oci", rest)) => {
                let (path, tag) = locate(rest, folder)?;
                Self::layout(path, tag)
            }
            Some(("oci-archive", rest)) => {
                let (path, tag) = locate(rest, folder)?;
                Self::archive(path, tag)
            }
            Some(("rootfs", rest)) => {
                let path = folder.join(rest);
                if path.is_dir() {
                    Ok(Self::Rootfs { path })
                } else {
                    Err(missing(path, "no such directory"))
                }
            }
            Some((transport, _)) if OTHER_TRANSPORTS.contains(&transport) => {
                Err(ReferenceError::Transport(image.to_owned()))
            }
            _ => Self::by_shape(image, folder),
        }
    }

    /// A plain path is what it looks like.
    fn by_shape(image: &str, folder: &Path) -> Result<Self, ReferenceError> {
        let archive = image.split(':').next().is_some_and(|path| path.ends_with(".tar"));
        let is_path = image.starts_with(['/', '.']) || archive || folder.join(image).exists();
        if !is_path {
            return Err(ReferenceError::Registry(image.to_owned()));
        }
        let (path, tag) = locate(image, folder)?;
        if path.is_file() {
            Self::archive(path, tag)
        } else if path.join("oci-layout").exists() {
            Self::layout(path, tag)
        } else if path.is_dir() && tag.is_none() {
            Ok(Self::Rootfs { path })
        } else {
            Err(missing(path, "is neither an OCI layout, nor an archive of one, nor a root file system"))
        }
    }

    fn layout(path: PathBuf, tag: Option<String>) -> Result<Self, ReferenceError> {
        if !path.join("oci-layout").is_file() {
            return Err(missing(path, "has no file oci-layout, so it is no OCI image layout"));
        }
        Ok(Self::Layout { path, tag })
    }

    fn archive(path: PathBuf, tag: Option<String>) -> Result<Self, ReferenceError> {
        if !path.is_file() {
            return Err(missing(path, "is no file"));
        }
        Ok(Self::Archive { path, tag })
    }
}

/// Splits `PATH[:TAG]`. A path that exists as it stands has no tag.
fn locate(text: &str, folder: &Path) -> Result<(PathBuf, Option<String>), ReferenceError> {
    let whole = folder.join(text);
    if whole.exists() {
        return Ok((whole, None));
    }
    if let Some((path, tag)) = text.split_once(':')
        && folder.join(path).exists()
    {
        return Ok((folder.join(path), Some(tag.to_owned())));
    }
    Err(missing(whole, "no such file or directory"))
}

fn missing(path: PathBuf, reason: &str) -> ReferenceError {
    ReferenceError::Source { path, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_shapes_name_local_sources() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("layout")).unwrap();
        std::fs::write(at("layout/oci-layout"), "{}").unwrap();
        std::fs::create_dir_all(at("root")).unwrap();
        std::fs::write(at("image.tar"), "").unwrap();
        let tag = |tag: &str| Some(tag.to_owned());
        let rows = [
            ("oci:layout", Reference::Layout { path: at("layout"), tag: None }),
            ("oci:layout:v1", Reference::Layout { path: at("layout"), tag: tag("v1") }),
            ("layout", Reference::Layout { path: at("layout"), tag: None }),
            ("oci-archive:image.tar", Reference::Archive { path: at("image.tar"), tag: None }),
            ("oci-archive:image.tar:a/b:1", Reference::Archive { path: at("image.tar"), tag: tag("a/b:1") }),
            ("./image.tar", Reference::Archive { path: at("./image.tar"), tag: None }),
            ("rootfs:root", Reference::Rootfs { path: at("root") }),
            ("root", Reference::Rootfs { path: at("root") }),
        ];
        for (image, want) in rows {
            assert_eq!(Reference::resolve(image, folder.path()), Ok(want), "{image}");
        }
    }

    #[test]
    fn what_would_have_to_be_pulled_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        for image in ["nginx", "nginx:1.27", "registry.example:5000/team/app:v1", "busybox@sha256:00"] {
            let error = Reference::resolve(image, folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("nothing is pulled") && error.contains("skopeo copy docker://"),
                "{error}"
            );
        }
        let error = Reference::resolve("docker-archive:x.tar", folder.path()).unwrap_err();
        assert!(matches!(error, ReferenceError::Transport(_)));
    }

    #[test]
    fn a_source_that_is_not_there_is_named_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("plain")).unwrap();
        for image in ["oci:none", "oci-archive:none.tar", "rootfs:none", "./none", "oci:plain", "none.tar:v1"]
        {
            let error = Reference::resolve(image, folder.path()).unwrap_err().to_string();
            assert!(error.starts_with(folder.path().to_str().unwrap()), "{image}: {error}");
        }
    }
}

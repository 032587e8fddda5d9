//! The options of a container in the two forms they come in, as one.
//!
//! CRI sends `containerd.runc.v1.Options` to runtimes of the runc family and to all others
//! `runtimeoptions.v1.Options` with the handler's options table in TOML; its keys are those of the runc options.

use std::path::{Path, PathBuf};

use dunnage_api::any::{self, Any};
use dunnage_api::options::{runc, runtime};
use serde::Deserialize;

/// Options as runc's shim knows them, and the keys that have no meaning here.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// What was asked for.
    pub(crate) asked: runc::Options,
    /// Keys of the table that nothing here reads; worth a line in the log.
    pub(crate) ignored: Vec<String>,
}

/// Why options cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    /// Options of some other runtime.
    #[error("options of type {0:?} are not known here")]
    UnknownType(String),
    /// The type is right, the bytes are not.
    #[error("options: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The table that came with the request.
    #[error("options table: {0}")]
    Table(#[from] toml::de::Error),
    /// The file they are in.
    #[error("read options {path}: {error}")]
    File {
        /// `ConfigPath`.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl Options {
    /// Reads the options of `start` or Create. None and empty ones are the defaults.
    pub(crate) fn load(options: Option<&Any>) -> Result<Self, OptionsError> {
        let Some(options) = options.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        if let Some(asked) = any::unpack::<runc::Options>(options)? {
            return Ok(Self { asked, ignored: Vec::new() });
        }
        match any::unpack::<runtime::Options>(options)? {
            Some(general) => Self::from_general(&general),
            None => Err(OptionsError::UnknownType(options.type_url.clone())),
        }
    }

    fn from_general(options: &runtime::Options) -> Result<Self, OptionsError> {
        if !options.config_body.is_empty() {
            return Self::from_table(&String::from_utf8_lossy(&options.config_body));
        }
        if options.config_path.is_empty() {
            return Ok(Self::default());
        }
        let path = Path::new(&options.config_path);
        let text = std::fs::read_to_string(path)
            .map_err(|error| OptionsError::File { path: path.to_owned(), error })?;
        Self::from_table(&text)
    }

    fn from_table(text: &str) -> Result<Self, OptionsError> {
        let table: Table = toml::from_str(text)?;
        Ok(Self {
            asked: runc::Options {
                no_pivot_root: table.no_pivot_root,
                no_new_keyring: table.no_new_keyring,
                shim_cgroup: table.shim_cgroup,
                io_uid: table.io_uid,
                io_gid: table.io_gid,
                binary_name: table.binary_name,
                root: table.root,
                systemd_cgroup: table.systemd_cgroup,
                criu_image_path: table.criu_image_path,
                criu_work_path: table.criu_work_path,
                ..runc::Options::default()
            },
            ignored: table.others.into_keys().collect(),
        })
    }
}

/// Keys as users write them for runc.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Table {
    no_pivot_root: bool,
    no_new_keyring: bool,
    shim_cgroup: String,
    io_uid: u32,
    io_gid: u32,
    binary_name: String,
    root: String,
    systemd_cgroup: bool,
    criu_image_path: String,
    criu_work_path: String,
    #[serde(flatten)]
    others: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn general(body: &str, path: &str) -> Any {
        any::pack(&runtime::Options {
            type_url: "runtimeoptions.v1.Options".into(),
            config_path: path.into(),
            config_body: body.into(),
        })
    }

    #[test]
    fn both_forms_say_the_same() {
        let asked =
            runc::Options { systemd_cgroup: true, shim_cgroup: "/shims".into(), ..runc::Options::default() };
        let table = "SystemdCgroup = true\nShimCgroup = \"/shims\"\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table).unwrap();
        for options in [any::pack(&asked), general(table, ""), general("", file.path().to_str().unwrap())] {
            let loaded = Options::load(Some(&options)).unwrap();
            assert_eq!(loaded, Options { asked: asked.clone(), ignored: vec![] }, "{options:?}");
        }
    }

    #[test]
    fn nothing_and_nothing_in_an_any_are_the_defaults() {
        let empty = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![] };
        for options in [None, Some(&Any::default()), Some(&empty), Some(&general("", ""))] {
            assert_eq!(Options::load(options).unwrap(), Options::default());
        }
    }

    #[test]
    fn keys_without_a_meaning_are_told_and_do_no_harm() {
        let options = general("CriuPath = \"/criu\"\nIoUid = 5\n", "");
        let loaded = Options::load(Some(&options)).unwrap();
        assert_eq!((loaded.asked.io_uid, loaded.ignored), (5, vec!["CriuPath".to_owned()]));
    }

    #[test]
    fn faults_say_where_they_are() {
        let foreign = Any { type_url: "io.kata.Options".into(), value: vec![] };
        for (options, text) in [
            (foreign, "options of type \"io.kata.Options\" are not known here"),
            (general("SystemdCgroup = 3", ""), "options table: TOML parse error at line 1, column 17"),
            (
                general("", "/nowhere/x.toml"),
                "read options /nowhere/x.toml: No such file or directory (os error 2)",
            ),
        ] {
            let error = Options::load(Some(&options)).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }
}

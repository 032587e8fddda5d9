//! Which containers share a serving process: those with the same group, which is the pod's sandbox.

use std::collections::BTreeMap;
use std::path::Path;

use dunnage_spec::annotation::{GROUP, SANDBOX_ID};
use dunnage_spec::{ContainerId, id};
use serde::Deserialize;

/// Why the group of a container cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// The file is there and cannot be read.
    #[error("read config.json: {0}")]
    Read(#[from] std::io::Error),
    /// It is not what a bundle has.
    #[error("config.json: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The annotation cannot be an id.
    #[error("config.json: annotation of the group: {0}")]
    BadName(#[from] id::InvalidId),
}

/// The group that the bundle's annotations name, or the container itself. A bundle without `config.json` is
/// that of a sandbox (containerd's sandbox controller makes none).
pub(crate) fn of(bundle: &Path, id: &ContainerId) -> Result<ContainerId, GroupError> {
    let text = match std::fs::read(bundle.join("config.json")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(id.clone()),
        read => read?,
    };
    let config: Config = serde_json::from_slice(&text)?;
    match [GROUP, SANDBOX_ID].iter().find_map(|name| config.annotations.get(*name)) {
        Some(group) if !group.is_empty() => Ok(group.parse()?),
        _ => Ok(id.clone()),
    }
}

/// All of `config.json` that `start` reads; the rest is checked when the container is made.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(config: Option<&str>) -> Result<String, GroupError> {
        let bundle = tempfile::tempdir().unwrap();
        if let Some(config) = config {
            std::fs::write(bundle.path().join("config.json"), config).unwrap();
        }
        of(bundle.path(), &"own".parse().unwrap()).map(|group| group.to_string())
    }

    #[test]
    fn the_group_is_the_annotation_or_the_container() {
        for (config, expected) in [
            (None, "own"),
            (Some(r#"{"ociVersion": "1.2.0", "process": {"args": []}}"#), "own"),
            (Some(r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#), "pod"),
            (
                Some(
                    r#"{"annotations": {"io.containerd.runc.v2.group": "g", "io.kubernetes.cri.sandbox-id": "pod"}}"#,
                ),
                "g",
            ),
            (Some(r#"{"annotations": {"io.containerd.runc.v2.group": ""}}"#), "own"),
        ] {
            assert_eq!(group(config).unwrap(), expected, "{config:?}");
        }
    }

    #[test]
    fn a_group_that_is_no_name_is_refused() {
        let error = group(Some(r#"{"annotations": {"io.containerd.runc.v2.group": "a/b"}}"#)).unwrap_err();
        assert!(error.to_string().contains("a/b"), "{error}");
    }
}

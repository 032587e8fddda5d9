//! `-info`: what this runtime can do, as containerd and CRI ask for it (2.0 and later).
//!
//! containerd 2.2 asks before every container until it has had one good answer, and CRI takes from the features
//! document whether pods may have recursively read-only mounts and user namespaces.

use std::io::{IsTerminal, Read, Write};

use anyhow::Context;
use dunnage_api::any::{Any, FEATURES_URL};
use dunnage_api::types::{RuntimeInfo, RuntimeVersion};
use prost::Message;

use crate::version;

/// The runtime type under which this binary is found.
const NAME: &str = "io.containerd.dunnage.v1";
/// As `start` has it.
const INPUT_LIMIT: u64 = 10 << 20;

/// Reads the options from standard input and prints the answer to `out`.
pub(crate) fn info(out: &mut impl Write) -> anyhow::Result<()> {
    let mut options = Vec::new();
    let stdin = std::io::stdin();
    // A person who tries it should not have to type a protobuf message.
    if !stdin.is_terminal() {
        stdin.lock().take(INPUT_LIMIT).read_to_end(&mut options).context("read standard input")?;
    }
    let info = runtime_info(&options).context("options on standard input")?;
    out.write_all(&info.encode_to_vec()).context("write the answer")
}

fn runtime_info(options: &[u8]) -> Result<RuntimeInfo, prost::DecodeError> {
    let features = dunnage_spec::features::document().to_string();
    Ok(RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: version::VERSION.to_owned(),
            revision: version::REVISION.to_owned(),
        }),
        options: if options.is_empty() { None } else { Some(Any::decode(options)?) },
        features: Some(Any { type_url: FEATURES_URL.to_owned(), value: features.into_bytes() }),
        ..RuntimeInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_back_and_features_are_json() {
        let options = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0x48, 1] };
        let info = runtime_info(&options.encode_to_vec()).unwrap();
        assert_eq!(info.options, Some(options));
        let features = info.features.unwrap();
        assert_eq!(features.type_url, FEATURES_URL);
        let document: serde_json::Value = serde_json::from_slice(&features.value).unwrap();
        assert!(document["mountOptions"].as_array().unwrap().contains(&"rro".into()));
        assert_eq!(runtime_info(&[]).unwrap().options, None);
    }

    #[test]
    fn input_that_is_no_any_is_an_error() {
        assert!(runtime_info(b"\xff").is_err());
    }
}

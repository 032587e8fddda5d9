//! What `start` prints: the address, in the newest form that this containerd understands.
//!
//! Version 3 is worth the trouble: containerd 2 then sends the calls of a pod's other containers to the same
//! process without executing `start` and `delete` for each of them.
//!
//! | containerd | plain | JSON | protobuf |
//! |---|---|---|---|
//! | 1.6 | yes | no | no |
//! | 1.7 | yes | version 2 | no |
//! | 2.0 to 2.2 | yes | yes | no |
//! | 2.3 | yes | yes | yes |

use dunnage_api::bootstrap::BootstrapResult;
use prost::Message;

use crate::address::Address;

/// What is known of the containerd that waits for the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Containerd {
    /// It sent `BootstrapParams`: 2.3 or later.
    Bootstrap,
    /// It did not set `MAX_SHIM_VERSION`: 1.6.
    BeforeVersions,
    /// 1.7 to 2.2, with its major version if that could be found out.
    Major(Option<u32>),
}

/// The newest Task service of the process that will serve the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Only `containerd.task.v2.Task`: a shim of another kind, or an old one, that has the group already.
    V2,
    /// Both, as ours does.
    V3,
}

/// The bytes to print.
pub(crate) fn reply(containerd: Containerd, serves: Serves, address: &Address) -> Vec<u8> {
    match (containerd, serves) {
        (Containerd::Bootstrap, Serves::V3) => protobuf(3, address),
        (Containerd::Bootstrap, Serves::V2) => protobuf(2, address),
        (Containerd::Major(Some(2..)), Serves::V3) => json(address),
        (Containerd::Major(_), _) | (Containerd::BeforeVersions, _) => address.to_string().into_bytes(),
    }
}

/// Whether the reply depends on what a process that has the group already serves.
pub(crate) fn depends_on_server(containerd: Containerd) -> bool {
    matches!(containerd, Containerd::Bootstrap | Containerd::Major(Some(2..)))
}

/// The last byte is the `c` of `ttrpc`: containerd 2.3.0 to 2.3.3 trim white space off the end before they
/// parse, and a length or a number at the end could be one.
fn protobuf(version: i32, address: &Address) -> Vec<u8> {
    let result = BootstrapResult {
        version,
        address: address.to_string(),
        protocol: "ttrpc".to_owned(),
        ..BootstrapResult::default()
    };
    result.encode_to_vec()
}

fn json(address: &Address) -> Vec<u8> {
    serde_json::json!({"version": 3, "address": address.to_string(), "protocol": "ttrpc"})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address::parse("unix:///run/containerd/s/0a0d").unwrap()
    }

    #[test]
    fn every_containerd_gets_the_newest_form_it_understands() {
        const PLAIN: &str = "unix:///run/containerd/s/0a0d";
        const JSON: &str = r#"{"address":"unix:///run/containerd/s/0a0d","protocol":"ttrpc","version":3}"#;
        const V3: &str = "\x08\x03\x12\x1dunix:///run/containerd/s/0a0d\x1a\x05ttrpc";
        const V2: &str = "\x08\x02\x12\x1dunix:///run/containerd/s/0a0d\x1a\x05ttrpc";
        for (containerd, serves, expected) in [
            // 1.6
            (Containerd::BeforeVersions, Serves::V3, PLAIN),
            (Containerd::BeforeVersions, Serves::V2, PLAIN),
            // 1.7 refuses version 3.
            (Containerd::Major(Some(1)), Serves::V3, PLAIN),
            (Containerd::Major(Some(1)), Serves::V2, PLAIN),
            // 2.0 to 2.2
            (Containerd::Major(Some(2)), Serves::V3, JSON),
            (Containerd::Major(Some(2)), Serves::V2, PLAIN),
            // 1.7 or 2.0 to 2.2: what both understand.
            (Containerd::Major(None), Serves::V3, PLAIN),
            (Containerd::Major(None), Serves::V2, PLAIN),
            // 2.3
            (Containerd::Bootstrap, Serves::V3, V3),
            (Containerd::Bootstrap, Serves::V2, V2),
        ] {
            let printed = String::from_utf8(reply(containerd, serves, &address())).unwrap();
            assert_eq!(printed, expected, "{containerd:?} {serves:?}");
        }
    }

    #[test]
    fn trimming_white_space_changes_no_reply() {
        for containerd in [Containerd::Bootstrap, Containerd::BeforeVersions, Containerd::Major(Some(2))] {
            for serves in [Serves::V2, Serves::V3] {
                let printed = reply(containerd, serves, &address());
                assert_eq!(printed.trim_ascii(), printed, "{containerd:?} {serves:?}");
            }
        }
    }
}

//! `google.protobuf.Any` as containerd writes it.
//!
//! Its type URLs are bare message names, sometimes with a host in front; so only the part after the last `/`
//! says what a value is. JSON values (an OCI process, resources, features) carry a URL that ends in the Go
//! type's name.

use prost::{DecodeError, Message, Name};
pub use prost_types::Any;

/// URL of an OCI features document.
pub const FEATURES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Packs a message under its bare name.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// The name of the packed type: what follows the last `/` of the URL.
#[must_use]
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Unpacks a message when `any` holds one of this type, whatever host its URL names.
///
/// `None` when it holds something else.
///
/// # Errors
/// The type is right but the bytes are not that message.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<Option<M>, DecodeError> {
    if type_name(any) != M::full_name() {
        return Ok(None);
    }
    M::decode(any.value.as_slice()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::TaskExit;
    use crate::options::runc::Options;

    #[test]
    fn a_packed_message_has_a_bare_type_url() {
        assert_eq!(pack(&TaskExit::default()).type_url, "containerd.events.TaskExit");
    }

    #[test]
    fn a_host_in_front_of_the_type_does_not_matter() {
        let mut any = pack(&Options { systemd_cgroup: true, ..Options::default() });
        any.type_url = format!("type.googleapis.com/{}", any.type_url);
        assert!(unpack::<Options>(&any).unwrap().unwrap().systemd_cgroup);
    }

    #[test]
    fn another_type_is_not_unpacked() {
        assert_eq!(unpack::<Options>(&pack(&TaskExit::default())).unwrap(), None);
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0xff] };
        assert!(unpack::<Options>(&any).is_err());
    }
}

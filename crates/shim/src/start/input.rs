//! Standard input of `start`, in the two forms it comes in.
//!
//! Before containerd 2.3 it is an `Any` with the container's options, or nothing; since 2.3 it is always
//! `BootstrapParams`. The bytes do not tell which: an `Any` also parses as the other. The ids in it do, because
//! they repeat the command line.

use dunnage_api::any::{self, Any};
use dunnage_api::bootstrap::{BootstrapParams, LogLevel};
use dunnage_api::options::{runc, runtime};
use prost::{DecodeError, Message, Name};

use crate::args::Args;

/// What came on standard input.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    /// containerd up to 2.2.
    Options(Any),
    /// containerd 2.3 and later.
    Bootstrap(Box<BootstrapParams>),
}

impl Input {
    /// `bytes` are all of it.
    pub(crate) fn parse(bytes: &[u8], args: &Args) -> Result<Self, DecodeError> {
        match BootstrapParams::decode(bytes) {
            Ok(params)
                if params.instance_id == args.id.as_str() && params.namespace == args.namespace.as_str() =>
            {
                Ok(Self::Bootstrap(Box::new(params)))
            }
            _ => Any::decode(bytes).map(Self::Options),
        }
    }

    /// The options of the container.
    pub(crate) fn options(&self) -> Option<&Any> {
        match self {
            Self::Options(options) => Some(options),
            Self::Bootstrap(params) => {
                let mut values = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
                values.find(|value| {
                    let name = any::type_name(value);
                    name == runc::Options::full_name() || name == runtime::Options::full_name()
                })
            }
        }
    }

    /// Where containerd wants the shim's sockets, when it says so.
    pub(crate) fn socket_dir(&self) -> Option<&str> {
        match self {
            Self::Bootstrap(params) => params.socket_dir.as_deref().filter(|dir| !dir.is_empty()),
            Self::Options(_) => None,
        }
    }

    /// Where containerd takes events, when it says so.
    pub(crate) fn ttrpc_address(&self) -> Option<&str> {
        match self {
            Self::Bootstrap(params) => {
                Some(params.containerd_ttrpc_address.as_str()).filter(|address| !address.is_empty())
            }
            Self::Options(_) => None,
        }
    }

    /// Whether containerd logs at debug level or below.
    pub(crate) fn wants_debug(&self) -> bool {
        matches!(self, Self::Bootstrap(params) if params.log_level <= LogLevel::Debug as i32)
    }
}

#[cfg(test)]
mod tests {
    use dunnage_api::bootstrap::Extension;

    use super::*;

    fn args() -> Args {
        let line = "-namespace k8s.io -id pod start";
        match crate::args::Invocation::parse(line.split(' ').map(Into::into)) {
            Ok(crate::args::Invocation::Start(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn params() -> BootstrapParams {
        let options = any::pack(&runc::Options { systemd_cgroup: true, ..runc::Options::default() });
        let other = Any { type_url: "x.Y".into(), value: vec![1] };
        BootstrapParams {
            instance_id: "pod".into(),
            namespace: "k8s.io".into(),
            log_level: LogLevel::Debug.into(),
            containerd_version: "2.3.4".into(),
            containerd_ttrpc_address: "/t".into(),
            extensions: vec![
                Extension { value: None },
                Extension { value: Some(other) },
                Extension { value: Some(options) },
            ],
            socket_dir: Some("/run/s".into()),
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn bootstrap_parameters_are_taken_for_what_they_are() {
        let input = Input::parse(&params().encode_to_vec(), &args()).unwrap();
        assert_eq!(input.options().unwrap().type_url, "containerd.runc.v1.Options");
        assert_eq!(
            (input.socket_dir(), input.ttrpc_address(), input.wants_debug()),
            (Some("/run/s"), Some("/t"), true)
        );
    }

    #[test]
    fn an_any_is_not_taken_for_bootstrap_parameters() {
        let options = any::pack(&runc::Options { shim_cgroup: "/c".into(), ..runc::Options::default() });
        let bytes = options.encode_to_vec();
        // It would parse: this is why the ids are compared.
        assert_eq!(BootstrapParams::decode(bytes.as_slice()).unwrap().instance_id, options.type_url);
        assert_eq!(Input::parse(&bytes, &args()).unwrap(), Input::Options(options));
    }

    #[test]
    fn nothing_is_no_options() {
        let input = Input::parse(&[], &args()).unwrap();
        assert_eq!(input, Input::Options(Any::default()));
        assert_eq!((input.socket_dir(), input.ttrpc_address(), input.wants_debug()), (None, None, false));
    }

    #[test]
    fn bytes_that_are_neither_are_an_error() {
        assert!(Input::parse(b"\x0a\xff", &args()).is_err());
    }
}

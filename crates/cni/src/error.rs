//! Errors as the specification wants them: a code, a sentence, details.

use std::fmt::Display;

use dunnage_net::Kind;
use serde_json::{Value, json};

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Codes of the specification.
pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
pub(crate) const UNSUPPORTED_FIELD: u32 = 2;
pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
pub(crate) const IO: u32 = 5;
pub(crate) const DECODE: u32 = 6;
pub(crate) const INVALID_CONFIG: u32 = 7;
/// Not in the specification's table, but in its library.
pub(crate) const INVALID_NETNS: u32 = 8;
pub(crate) const TRY_AGAIN: u32 = 11;
pub(crate) const UNAVAILABLE: u32 = 50;
/// Codes of this plugin.
pub(crate) const KERNEL: u32 = 100;
pub(crate) const EXISTS: u32 = 101;
pub(crate) const IN_USE: u32 = 102;
pub(crate) const DIFFERENT: u32 = 103;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    pub(crate) code: u32,
    pub(crate) msg: String,
    pub(crate) details: String,
}

impl Error {
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    pub(crate) fn because(mut self, details: impl Display) -> Self {
        self.details = details.to_string();
        self
    }

    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        Self::new(IO, what).because(error)
    }

    /// A configuration that cannot be used.
    pub(crate) fn config(msg: impl Into<String>) -> Self {
        Self::new(INVALID_CONFIG, msg)
    }

    pub(crate) fn to_json(&self, version: &str) -> Value {
        let mut error = json!({"cniVersion": version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            error["details"] = self.details.clone().into();
        }
        error
    }
}

impl From<dunnage_net::Error> for Error {
    fn from(error: dunnage_net::Error) -> Self {
        use dunnage_net::Error as Net;
        let reason = match &error {
            Net::LeftBehind { error, .. } => error,
            error => error,
        };
        let (code, details) = match reason {
            Net::Exhausted { .. } => (TRY_AGAIN, "addresses come back when pods are deleted, or by GC"),
            Net::PortTaken { .. } | Net::Taken { .. } => (IN_USE, ""),
            Net::Attached { .. } => (EXISTS, "ADD may follow only after DEL"),
            Net::NotNetns(_) | Net::OwnNetns(_) => (INVALID_NETNS, ""),
            Net::Invalid { .. } | Net::Foreign { .. } => (INVALID_CONFIG, ""),
            Net::Damaged { .. } => (
                IO,
                "nothing can be leased meanwhile; the file may be removed once no pod of this network runs",
            ),
            other if lacks_support(other) => {
                (KERNEL, "is a kernel module missing, such as nf_tables, veth or bridge?")
            }
            Net::Refused { what, .. } if reason.kind() == Kind::Exists && what.starts_with("create veth") => {
                (EXISTS, "is an interface of that name in the pod already?")
            }
            _ => (KERNEL, ""),
        };
        Self::new(code, error.to_string()).because(details)
    }
}

/// What the kernel says to a family, a table or a link that it does not know.
fn lacks_support(error: &dunnage_net::Error) -> bool {
    use dunnage_sys::Errno;
    let unknown = [Errno::OPNOTSUPP, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT];
    error.errno().is_some_and(|errno| unknown.contains(&errno))
}

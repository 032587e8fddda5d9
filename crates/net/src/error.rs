//! What can go wrong with a pod's network, and the few kinds a caller decides by.

use std::net::IpAddr;
use std::path::PathBuf;

use dunnage_sys::Errno;
use dunnage_sys::error::Named;

use crate::segment::is_placeholder;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A step of the pod's network that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] dunnage_sys::Error),
    /// The kernel refused a netlink request; `detail` is its own explanation where it gave one.
    #[error("{what}: {}{}", Named(*.errno), .detail.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// The request, such as `create bridge dunnage0`.
        what: String,
        /// Why it was refused.
        errno: Errno,
        /// The extended ack of the kernel.
        detail: Option<String>,
    },
    /// The kernel's answer cannot be read.
    #[error("{what}: unreadable answer of the kernel: {reason}")]
    Answer {
        /// The request that was answered.
        what: String,
        /// What is wrong with the answer.
        reason: &'static str,
    },
    /// A name, subnet or number that cannot be used.
    #[error("{what} {value:?}: {reason}")]
    Invalid {
        /// What the value was meant to be.
        what: &'static str,
        /// The value.
        value: String,
        /// Why it cannot be used.
        reason: &'static str,
    },
    /// The path is not a network namespace (any more).
    #[error("{} is not a network namespace: nothing is mounted there, or something else", .0.display())]
    NotNetns(PathBuf),
    /// The path is the network namespace of the host itself.
    #[error("network namespace {} is that of the host", .0.display())]
    OwnNetns(PathBuf),
    /// Every address of the network is leased.
    #[error("no free address in {subnet}: {used} of {total} are leased")]
    Exhausted {
        /// The subnets of the network.
        subnet: String,
        /// Leases now held.
        used: u32,
        /// Addresses there are for pods.
        total: u32,
    },
    /// The owner has an attachment of that name already.
    #[error("{owner} is attached already{}", with_address(*.address))]
    Attached {
        /// Container and interface.
        owner: String,
        /// Its address, or one of 0.0.0.0/8 when it has none.
        address: IpAddr,
    },
    /// Somebody else has the address that was asked for.
    #[error("address {address} is in use")]
    Taken {
        /// The address.
        address: IpAddr,
    },
    /// Another pod has the host port.
    #[error("host port {port} is taken by the pod with address {holder}")]
    PortTaken {
        /// Port and protocol, such as `8080/tcp`.
        port: String,
        /// Pod address that the port leads to.
        holder: String,
    },
    /// A link, table or subnet of the wanted name exists and is something else.
    #[error("{what} {name} exists and {reason}")]
    Foreign {
        /// Kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// How it differs from what is wanted.
        reason: String,
    },
    /// A step failed, and so did undoing what was done before it.
    #[error("{error}; and it could not be undone: {left}")]
    LeftBehind {
        /// The step that failed.
        #[source]
        error: Box<Self>,
        /// What could not be undone, and why.
        left: String,
    },
    /// The lease table cannot be trusted.
    #[error("lease table {}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

fn with_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) if is_placeholder(address) => String::new(),
        address => format!(", with address {address}"),
    }
}

/// What a caller may decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be fulfilled as it is written.
    Invalid,
    /// It is there already.
    Exists,
    /// Something that is needed is not there.
    NotFound,
    /// Try again when others have released addresses or ports.
    Unavailable,
    /// The kernel or the file system refused.
    System,
}

impl Error {
    /// The kind, for decisions.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::LeftBehind { error, .. } => error.kind(),
            Self::Invalid { .. } | Self::Foreign { .. } | Self::OwnNetns(_) => Kind::Invalid,
            Self::NotNetns(_) => Kind::NotFound,
            Self::Attached { .. } => Kind::Exists,
            Self::Exhausted { .. } | Self::Taken { .. } | Self::PortTaken { .. } => Kind::Unavailable,
            Self::Call(_) | Self::Refused { .. } | Self::Answer { .. } | Self::Damaged { .. } => {
                match self.errno() {
                    Some(Errno::EXIST) => Kind::Exists,
                    Some(Errno::NOENT | Errno::NODEV) => Kind::NotFound,
                    _ => Kind::System,
                }
            }
        }
    }

    /// The errno of a refused call or request.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call(error) => Some(error.errno()),
            Self::Refused { errno, .. } => Some(*errno),
            Self::LeftBehind { error, .. } => error.errno(),
            _ => None,
        }
    }
}

/// Turns "it is not there" into `None`; removing what is gone is a success everywhere in this crate.
pub(crate) fn or_absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(None),
        Err(error) => Err(error),
    }
}

//! Names that were checked once: of interfaces and of networks.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Longest interface name, without the NUL (`IFNAMSIZ - 1`).
pub(crate) const IFNAME_MAX: usize = 15;

/// The name of a network interface: 1 to 15 bytes, as `dev_valid_name` of the kernel wants it, and without
/// `%`, which the kernel would replace by a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(String);

impl IfName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |reason| Err(Error::Invalid { what: "interface name", value: text.to_owned(), reason });
        match text {
            "" | "." | ".." => invalid("reserved"),
            _ if text.len() > IFNAME_MAX => invalid("longer than 15 bytes"),
            _ if !text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%')) => {
                invalid("has a space, '/', ':', '%' or a byte that is not ASCII")
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a pod network, usable as a file name: letters, digits, `_`, `.` and `-`, starting with a letter
/// or digit, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NetworkName(String);

impl NetworkName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check_file_name("network name", text, 128)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Accepts what is safe as one component of a path.
pub(crate) fn check_file_name(what: &'static str, text: &str, max: usize) -> Result<()> {
    let invalid = |reason| Err(Error::Invalid { what, value: text.to_owned(), reason });
    if text.len() > max {
        return invalid("too long");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return invalid("does not start with a letter or digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
        return invalid("has other characters than letters, digits, '_', '.' and '-'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_refuse_or_rewrite_are_refused() {
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "veth%d", "sixteen-bytes-xx", "é"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
        for good in ["eth0", "fifteen-bytes-x", "dunnage0", "a.b"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_network_name_cannot_leave_its_directory() {
        for bad in ["", "..", "../x", "a/b", ".hidden", "-x", "a\0b"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
        assert!("pods.v1-a_b".parse::<NetworkName>().is_ok());
    }
}

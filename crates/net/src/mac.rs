//! Link-layer addresses, derived from the IPv4 address so that reusing an address never meets a stale
//! neighbour entry, and so that nothing (udev's `MACAddressPolicy`, a bridge's lowest port) has a reason to
//! change them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use dunnage_sys::Call;

use crate::{Error, Result};

/// An Ethernet address; prints as `da:d0:0a:58:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Of the pod's end of a veth pair.
    pub(crate) fn of_pod(address: Ipv4Addr) -> Self {
        Self::local(0xda, address)
    }

    /// Of the host's end of a veth pair.
    pub(crate) fn of_host_end(address: Ipv4Addr) -> Self {
        Self::local(0xde, address)
    }

    /// Of the bridge that has the gateway address.
    pub(crate) fn of_bridge(gateway: Ipv4Addr) -> Self {
        Self::local(0xd6, gateway)
    }

    /// Another one for each range of a network, of [`Self::of_pod`].
    pub(crate) fn in_range(mut self, range: u8) -> Self {
        self.0[1] ^= range;
        self
    }

    /// Of the pod's end in a network without addresses. It must differ on every host, because such a network may
    /// well reach beyond one.
    pub(crate) fn random_of_pod() -> Result<Self> {
        let [b, c, d, e, f] = random()?;
        Ok(Self([0xda, b, c, d, e, f]))
    }

    /// As [`Self::of_bridge`], where there is no gateway.
    pub(crate) fn random_of_bridge() -> Result<Self> {
        let address: [u8; 4] = random()?;
        Ok(Self::of_bridge(address.into()))
    }

    /// Whether it is one of [`Self::of_bridge`].
    pub(crate) fn is_of_bridge(self) -> bool {
        self.0.starts_with(&[0xd6, 0xd0])
    }

    /// The first bytes 0xd6, 0xda and 0xde have the bits "locally administered" and "unicast".
    fn local(first: u8, address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([first, 0xd0, a, b, c, d])
    }
}

fn random<const COUNT: usize>() -> Result<[u8; COUNT]> {
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0; COUNT];
    let read = File::open(SOURCE).and_then(|mut source| source.read_exact(&mut bytes));
    read.call(|| format!("read {SOURCE}"))?;
    Ok(bytes)
}

/// What a link-layer address is made of where there is no IPv4 address: the last 32 bits, which differ in a subnet.
pub(crate) fn end_of(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

impl FromStr for Mac {
    type Err = Error;

    /// Six bytes in hexadecimal with colons or dashes between them, or three pairs with dots; not a group address, and
    /// not all zeroes, which the kernel would refuse.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |reason| Error::Invalid { what: "link-layer address", value: text.to_owned(), reason };
        let bytes =
            [(':', 2), ('-', 2), ('.', 4)].into_iter().find_map(|(mark, digits)| bytes(text, mark, digits));
        let bytes = bytes.ok_or_else(|| invalid("is not six bytes like 02:00:5e:10:00:01"))?;
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(invalid("is not the address of one interface"));
        }
        Ok(Self(bytes))
    }
}

/// Six bytes that are written with a mark behind each so many digits.
fn bytes(text: &str, mark: char, digits: usize) -> Option<[u8; 6]> {
    let parts: Vec<&str> = text.split(mark).collect();
    let sound = |part: &&str| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(&parts.concat(), 16).ok().filter(|_| parts.iter().all(sound))?;
    let bytes = number.to_be_bytes();
    (parts.len() * digits == 12).then_some(bytes).and_then(|bytes| bytes.last_chunk().copied())
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_and_what_no_interface_can_have_is_refused() {
        let mac: Mac = "02:00:5E:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for other in ["02-00-5e-10-00-FF", "0200.5e10.00ff"] {
            assert_eq!(other.parse::<Mac>().unwrap(), mac);
        }
        for bad in [
            "",
            "02:00-5e:10:00:ff",
            "02005e1000ff",
            "+2:00:5e:10:00:ff",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:01",
            "2:0:5e:10:0:1",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "xx:00:5e:10:00:01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}

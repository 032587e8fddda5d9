//! Addresses, in the words of the reference plugin `host-local`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use dunnage_net::{Range4, Range6, Ranges};
use ipnet::IpNet;
use serde_json::Value;

use crate::bridge;
use crate::error::{Error, Result};
use crate::fields::{Fields, elements};

/// Where `host-local` keeps its leases.
const HOST_LOCAL_DIR: &str = "/var/lib/cni/networks";
/// Types that mean the same here.
const TYPES: [&str; 2] = ["host-local", "dunnage-cni"];

const KEYS: &[&str] = &[
    "type",
    "name",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "ranges",
    "exclude",
    "routes",
    "dataDir",
    "resolvConf",
];
const RANGE_KEYS: &[&str] = &["subnet", "rangeStart", "rangeEnd", "gateway"];

/// `ipam`, unless it says nothing: then pods get interfaces without addresses, as the reference has it. A
/// configuration that says nothing about its interface either is more likely one that comes behind another.
pub(crate) fn of<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>> {
    if bridge::only_adds(fields) {
        return Err(Error::config("ipam is missing").because(
            "behind another plugin of the list prevResult is; for pods without addresses say \"ipam\": {}",
        ));
    }
    let ipam = fields.object("ipam")?;
    let says_nothing =
        |ipam: &Fields<'_>| ipam.iter().all(|(_, value)| value.is_null() || value.as_str() == Some(""));
    Ok(ipam.filter(|ipam| !says_nothing(ipam)))
}

/// Reads the ranges of `ipam`; those that the runtime gives (`ipRanges`) take the place of those of their family.
pub(crate) fn ranges(ipam: &Fields<'_>, dynamic: Option<(String, &Value)>) -> Result<Ranges> {
    let kind = ipam.text("type")?.unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Err(Error::config(format!("{} {kind:?} is not supported", ipam.at("type")))
            .because("addresses are given by this plugin itself, in the words of \"host-local\""));
    }
    ipam.refuse_others(KEYS)?;
    let mut sets = Sets::default();
    if let Some((path, value)) = dynamic {
        for (path, set) in elements(&path, value)? {
            sets.add(&path, &set_of(&path, set)?)?;
        }
    }
    let (has4, has6) = (!sets.v4.is_empty(), sets.v6.is_some());
    let mut configured = Sets::default();
    if ipam.get("subnet").is_some() {
        configured.add(&ipam.at("subnet"), &[range(ipam)?])?;
    }
    for (path, set) in ipam.list("ranges")? {
        configured.add(&path, &set_of(&path, set)?)?;
    }
    if !has4 {
        sets.v4 = configured.v4;
    }
    if !has6 {
        sets.v6 = configured.v6;
    }
    if sets.v4.is_empty() && sets.v6.is_none() {
        return Err(Error::config(format!("{} has no range", ipam.at("ranges"))));
    }
    let exclude = ipam.texts("exclude")?;
    let exclude: Result<Vec<IpNet>> = exclude.iter().map(|text| net(&ipam.at("exclude"), text)).collect();
    Ok(Ranges { v4: sets.v4, v6: sets.v6, exclude: exclude? })
}

/// The directory whose leases are taken over.
pub(crate) fn import(ipam: &Fields<'_>, network: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(ipam.text("dataDir")?.unwrap_or(HOST_LOCAL_DIR)).join(network))
}

/// One set of ranges: a pod gets an address of any of them.
enum Range {
    V4(Range4),
    V6(Range6),
}

#[derive(Default)]
struct Sets {
    v4: Vec<Range4>,
    v6: Option<Range6>,
}

impl Sets {
    /// Each set is one address for every pod, and a pod has one of each family.
    fn add(&mut self, path: &str, set: &[Range]) -> Result<()> {
        let several = |family| {
            Error::config(format!("{path} is a second set of {family} ranges"))
                .because("each set is one more address for every pod, and a pod gets one of each family")
        };
        if set.is_empty() {
            return Err(Error::config(format!("{path} is empty")));
        }
        let had4 = !self.v4.is_empty();
        for range in set {
            match range {
                Range::V4(_) if had4 => return Err(several("IPv4")),
                Range::V4(range) => self.v4.push(range.clone()),
                Range::V6(_) if self.v6.is_some() && set.len() == 1 => return Err(several("IPv6")),
                Range::V6(_) if set.len() > 1 => {
                    return Err(Error::config(format!("{path} has several ranges, one of them IPv6"))
                        .because("several ranges in one set are supported for IPv4 only"));
                }
                Range::V6(range) => self.v6 = Some(range.clone()),
            }
        }
        Ok(())
    }
}

fn set_of(path: &str, set: &Value) -> Result<Vec<Range>> {
    let ranges = elements(path, set)?;
    ranges
        .into_iter()
        .map(|(path, value)| {
            let fields = Fields::of(&path, value)?;
            fields.refuse_others(RANGE_KEYS)?;
            range(&fields)
        })
        .collect()
}

fn range(fields: &Fields<'_>) -> Result<Range> {
    let text = fields.text("subnet")?;
    let text = text.ok_or_else(|| Error::config(format!("{} is missing", fields.at("subnet"))))?;
    let subnet = net(&fields.at("subnet"), text)?;
    if subnet.trunc() != subnet {
        let msg = format!("{} {text} has host bits set", fields.at("subnet"));
        return Err(Error::config(msg).because(format!("the subnet is {}", subnet.trunc())));
    }
    match subnet {
        IpNet::V4(subnet) => {
            let mut range = Range4::of(subnet);
            range.first = fields.parsed::<Ipv4Addr>("rangeStart")?.unwrap_or(range.first);
            range.last = fields.parsed::<Ipv4Addr>("rangeEnd")?.unwrap_or(range.last);
            range.gateway = fields.parsed::<Ipv4Addr>("gateway")?.unwrap_or(range.gateway);
            Ok(Range::V4(range))
        }
        IpNet::V6(subnet) => {
            let mut range = Range6::of(subnet);
            range.first = fields.parsed::<Ipv6Addr>("rangeStart")?.unwrap_or(range.first);
            range.last = fields.parsed::<Ipv6Addr>("rangeEnd")?.unwrap_or(range.last);
            range.gateway = fields.parsed::<Ipv6Addr>("gateway")?.unwrap_or(range.gateway);
            Ok(Range::V6(range))
        }
    }
}

fn net(path: &str, text: &str) -> Result<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|error| address().map_err(|_| error))
        .map_err(|error| Error::config(format!("{path} {text:?} is not a subnet")).because(error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(ipam: &Value) -> Result<Ranges> {
        ranges(&Fields::of("ipam", ipam)?, None)
    }

    #[test]
    fn both_ways_of_host_local_to_say_ranges_are_read() {
        let one = read(&json!({"type": "host-local", "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.99",
            "gateway": "10.1.2.254"})).unwrap();
        assert_eq!(one.v4[0].first.to_string(), "10.1.2.9");
        assert_eq!(one.v4[0].gateway.to_string(), "10.1.2.254");
        let both = read(&json!({"type": "host-local", "ranges": [
            [{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.9.0/24"}], [{"subnet": "fd00::/64"}]], "exclude": ["10.1.2.64/26", "10.1.2.3"]})).unwrap();
        assert_eq!((both.v4.len(), both.v6.is_some(), both.exclude.len()), (2, true, 2));
    }

    #[test]
    fn ranges_of_the_runtime_come_first() {
        let ipam =
            json!({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]});
        let dynamic = json!([[{"subnet": "10.7.0.0/16"}]]);
        let ranges =
            ranges(&Fields::of("ipam", &ipam).unwrap(), Some(("ipRanges".into(), &dynamic))).unwrap();
        assert_eq!(ranges.v4.len(), 1);
        assert_eq!(ranges.v4[0].subnet.to_string(), "10.7.0.0/16");
        assert!(ranges.v6.is_some());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (ipam, says) in [
            (json!({"type": "dhcp"}), "ipam.type \"dhcp\" is not supported"),
            (json!({"type": "host-local"}), "ipam.ranges has no range"),
            (
                json!({"type": "host-local", "subnet": "10.1.2.3/24"}),
                "ipam.subnet 10.1.2.3/24 has host bits set",
            ),
            (
                json!({"type": "host-local", "subnet": "10.1.2/24"}),
                "ipam.subnet \"10.1.2/24\" is not a subnet",
            ),
            (
                json!({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]}),
                "ipam.ranges[1] is a second set of IPv4 ranges",
            ),
            (
                json!({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24", "rangestop": "x"}]]}),
                "unknown key ipam.ranges[0][0].rangestop with value \"x\"",
            ),
            (json!({"type": "host-local", "ranges": [[]]}), "ipam.ranges[0] is empty"),
            (
                json!({"type": "host-local", "subnet": "10.1.2.0/24", "gateway": "me"}),
                "ipam.gateway \"me\" cannot be used",
            ),
        ] {
            assert_eq!(read(&ipam).unwrap_err().msg, says, "{ipam}");
        }
    }
}

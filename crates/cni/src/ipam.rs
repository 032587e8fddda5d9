//! Addresses, in the words of the reference plugin `host-local`.

use std::net::IpAddr;
use std::path::PathBuf;

use dunnage_net::{Range, RangeSet, Ranges};
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

/// Reads the ranges of `ipam`. Sets that the runtime gives (`ipRanges`) come before those, and a range without a
/// set before `ranges`, as with `host-local`: pods have their addresses in this order.
pub(crate) fn ranges(ipam: &Fields<'_>, dynamic: Option<(String, &Value)>) -> Result<Ranges> {
    let kind = ipam.text("type")?.unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Err(Error::config(format!("{} {kind:?} is not supported", ipam.at("type")))
            .because("addresses are given by this plugin itself, in the words of \"host-local\""));
    }
    ipam.refuse_others(KEYS)?;
    let mut sets = Vec::new();
    if let Some((path, value)) = dynamic {
        for (path, set) in elements(&path, value)? {
            sets.push(set_of(&path, set)?);
        }
    }
    if ipam.get("subnet").is_some() {
        sets.push(vec![range(ipam)?]);
    }
    for (path, set) in ipam.list("ranges")? {
        sets.push(set_of(&path, set)?);
    }
    if sets.is_empty() {
        return Err(Error::config(format!("{} has no range", ipam.at("ranges"))));
    }
    let exclude = ipam.texts("exclude")?;
    let exclude: Result<Vec<IpNet>> = exclude.iter().map(|text| net(&ipam.at("exclude"), text)).collect();
    Ok(Ranges { sets, exclude: exclude? })
}

/// The directory whose leases are taken over.
pub(crate) fn import(ipam: &Fields<'_>, network: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(ipam.text("dataDir")?.unwrap_or(HOST_LOCAL_DIR)).join(network))
}

/// One address for every pod.
fn set_of(path: &str, set: &Value) -> Result<RangeSet> {
    let ranges = elements(path, set)?;
    if ranges.is_empty() {
        return Err(Error::config(format!("{path} is empty")));
    }
    let read = |(path, value): (String, &Value)| {
        let fields = Fields::of(&path, value)?;
        fields.refuse_others(RANGE_KEYS)?;
        range(&fields)
    };
    let set: RangeSet = ranges.into_iter().map(read).collect::<Result<_>>()?;
    let is_ipv4 = |range: &Range| range.subnet.addr().is_ipv4();
    if set.iter().any(|range| is_ipv4(range) != is_ipv4(&set[0])) {
        return Err(Error::config(format!("{path} has ranges of both families"))
            .because("a pod gets one address of a set; put the other family into a set of its own"));
    }
    Ok(set)
}

fn range(fields: &Fields<'_>) -> Result<Range> {
    let text = fields.text("subnet")?;
    let text = text.ok_or_else(|| Error::config(format!("{} is missing", fields.at("subnet"))))?;
    let subnet = net(&fields.at("subnet"), text)?;
    if subnet.trunc() != subnet {
        let msg = format!("{} {text} has host bits set", fields.at("subnet"));
        return Err(Error::config(msg).because(format!("the subnet is {}", subnet.trunc())));
    }
    let mut range = Range::of(subnet);
    range.first = fields.parsed::<IpAddr>("rangeStart")?.unwrap_or(range.first);
    range.last = fields.parsed::<IpAddr>("rangeEnd")?.unwrap_or(range.last);
    range.gateway = fields.parsed::<IpAddr>("gateway")?.unwrap_or(range.gateway);
    Ok(range)
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
        assert_eq!(one.sets[0][0].first.to_string(), "10.1.2.9");
        assert_eq!(one.sets[0][0].gateway.to_string(), "10.1.2.254");
        let both = read(&json!({"type": "host-local", "ranges": [
            [{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.9.0/24"}], [{"subnet": "fd00::/64"}]], "exclude": ["10.1.2.64/26", "10.1.2.3"]})).unwrap();
        assert_eq!((both.sets[0].len(), both.sets[1].len(), both.exclude.len()), (2, 1, 2));
    }

    #[test]
    fn sets_keep_their_order_and_those_of_the_runtime_come_first() {
        let ipam = json!({"type": "host-local", "subnet": "10.1.1.0/24",
            "ranges": [[{"subnet": "fd00:1::/64"}, {"subnet": "fd00:2::/64"}], [{"subnet": "10.1.2.0/24"}]]});
        let dynamic = json!([[{"subnet": "10.7.0.0/16"}], [{"subnet": "fd00:7::/64"}]]);
        let ranges =
            ranges(&Fields::of("ipam", &ipam).unwrap(), Some(("ipRanges".into(), &dynamic))).unwrap();
        let subnets: Vec<Vec<String>> = ranges
            .sets
            .iter()
            .map(|set| set.iter().map(|range| range.subnet.to_string()).collect())
            .collect();
        assert_eq!(
            subnets,
            [
                vec!["10.7.0.0/16"],
                vec!["fd00:7::/64"],
                vec!["10.1.1.0/24"],
                vec!["fd00:1::/64", "fd00:2::/64"],
                vec!["10.1.2.0/24"]
            ]
        );
        ranges.check().unwrap();
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
                json!({"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}, {"subnet": "fd00::/64"}]]}),
                "ipam.ranges[1] has ranges of both families",
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

//! Host ports: elements of four maps, keyed by protocol and port, and by the host's address where one is given. Pods
//! whose ports are not source-NATed as usual are elements of sets besides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::layout::{HP4, HP6, HPIP4, HPIP6, HPKEEP4, HPKEEP6, HPMASQ4, HPMASQ6};
use super::table::{
    ELEM_DATA, ELEM_KEY, LIST_ELEM, LIST_ELEMENTS, MESSAGE_HEADER, elements, field, is_taken, key,
};
use super::{Attributes, NftSocket, TABLE, Verb, message};
use crate::channel::{Failed, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, attributes};
use crate::error::or_absent;
use crate::{Error, HostPort, HostPorts, Protocol, Result, SourceNat};

/// The host ports of one pod, checked against its addresses.
#[derive(Debug, Clone)]
pub(crate) struct PodPorts {
    ports: Vec<Element>,
    sources: Vec<Source>,
}

#[derive(Debug, Clone)]
struct Element {
    map: &'static str,
    key: Vec<u8>,
    value: Vec<u8>,
    port: HostPort,
}

/// A pod that is in a set of its own, because of how its ports are source-NATed.
#[derive(Debug, Clone)]
struct Source {
    set: &'static str,
    pod: IpAddr,
}

impl PodPorts {
    /// # Errors
    /// [`Error::Invalid`] for a port zero, an address of a family that the pod does not have, or a port that is
    /// asked for twice.
    pub(crate) fn new(ports: &HostPorts, pod4: Option<Ipv4Addr>, pod6: Option<Ipv6Addr>) -> Result<Self> {
        if let (Some(port), None, None) = (ports.list.first(), pod4, pod6) {
            return Err(invalid(port, "leads to a pod without an address"));
        }
        let mut all: Vec<Element> = Vec::new();
        for port in &ports.list {
            for element in Element::of(port, pod4, pod6)? {
                if all.iter().any(|other| other.map == element.map && other.key == element.key) {
                    return Err(invalid(port, "is asked for twice"));
                }
                all.push(element);
            }
        }
        let pods = [pod4.map(IpAddr::V4), pod6.map(IpAddr::V6)].into_iter().flatten();
        let sources = pods.filter(|_| !ports.is_empty()).filter_map(|pod| Source::of(ports.source_nat, pod));
        Ok(Self { ports: all, sources: sources.collect() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// The elements as the requests have them.
    fn requests(&self, flags: u16) -> impl Iterator<Item = Request> {
        let ports = self.ports.iter().map(move |element| element.new_element(flags));
        ports.chain(self.sources.iter().map(|source| source.request(Verb::NewElement, NLM_F_CREATE)))
    }
}

impl Source {
    fn of(source_nat: SourceNat, pod: IpAddr) -> Option<Self> {
        let [v4, v6] = match source_nat {
            SourceNat::Needed => return None,
            SourceNat::Never => [HPKEEP4, HPKEEP6],
            SourceNat::Always => [HPMASQ4, HPMASQ6],
        };
        Some(Self { set: if pod.is_ipv4() { v4 } else { v6 }, pod })
    }

    fn request(&self, verb: Verb, flags: u16) -> Request {
        let key_ = match self.pod {
            IpAddr::V4(pod) => key(&pod.octets()),
            IpAddr::V6(pod) => key(&pod.octets()),
        };
        elements(verb, flags, self.set, &[key_])
    }
}

impl Element {
    fn of(port: &HostPort, pod4: Option<Ipv4Addr>, pod6: Option<Ipv6Addr>) -> Result<Vec<Self>> {
        if port.host_port == 0 || port.container_port == 0 {
            return Err(invalid(port, "is zero"));
        }
        let v4 = |map, host: &[u8]| pod4.map(|pod4| Self::new(port, map, host, &pod4.octets()));
        let v6 = |map, host: &[u8]| pod6.map(|pod6| Self::new(port, map, host, &pod6.octets()));
        match port.host_ip {
            None => Ok(v4(HP4, &[]).into_iter().chain(v6(HP6, &[])).collect()),
            Some(IpAddr::V4(host)) => {
                let element = if host.is_unspecified() { v4(HP4, &[]) } else { v4(HPIP4, &host.octets()) };
                Ok(vec![element.ok_or_else(|| invalid(port, "is on an IPv4 address, and the pod has none"))?])
            }
            Some(IpAddr::V6(host)) => {
                let element = if host.is_unspecified() { v6(HP6, &[]) } else { v6(HPIP6, &host.octets()) };
                Ok(vec![element.ok_or_else(|| invalid(port, "is on an IPv6 address, and the pod has none"))?])
            }
        }
    }

    fn new(port: &HostPort, map: &'static str, host: &[u8], pod: &[u8]) -> Self {
        let mut key = host.to_vec();
        key.extend([port.protocol.number(), 0, 0, 0]);
        key.extend(padded(port.host_port));
        let mut value = pod.to_vec();
        value.extend(padded(port.container_port));
        Self { map, key, value, port: *port }
    }

    fn pod(&self) -> Option<IpAddr> {
        pod_address(&self.value)
    }

    fn new_element(&self, flags: u16) -> Request {
        let data = key(&self.key).nest(ELEM_DATA, &Attributes::new().bytes(1, &self.value));
        elements(Verb::NewElement, flags, self.map, &[data])
    }
}

/// Parts of a concatenation begin at multiples of four bytes.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn invalid(port: &HostPort, reason: &'static str) -> Error {
    Error::Invalid { what: "host port", value: port.to_string(), reason }
}

impl NftSocket {
    /// Adds all ports or none.
    pub(crate) fn add_ports(&mut self, ports: &PodPorts) -> Result<()> {
        Ok(self.add_ports_behind(Vec::new(), ports)?)
    }

    /// As [`Self::add_ports`], in one transaction with other requests, which come first.
    pub(super) fn add_ports_behind(
        &mut self,
        before: Vec<Request>,
        ports: &PodPorts,
    ) -> std::result::Result<(), Failed> {
        let first = before.len();
        let requests = before.into_iter().chain(ports.requests(NLM_F_CREATE | NLM_F_EXCL));
        let Err(failed) = self.transact(requests.collect()) else {
            return self.forget_stale(ports).map_err(|error| Failed { index: first, error });
        };
        let element = failed.index.checked_sub(first).and_then(|index| ports.ports.get(index));
        match element.filter(|_| is_taken(&failed.error)) {
            Some(element) => Err(Failed { error: self.taken(element), ..failed }),
            None => Err(failed),
        }
    }

    /// After the elements are there, so that no packet in between is decided the old way.
    fn forget_stale(&mut self, ports: &PodPorts) -> Result<()> {
        for element in ports.ports.iter().filter(|element| element.port.protocol == Protocol::Udp) {
            let ipv4 = [HP4, HPIP4].contains(&element.map);
            self.forget_flows_to_port(ipv4, element.port.protocol.number(), element.port.host_port)?;
        }
        Ok(())
    }

    /// Opens ports that a pod had before somebody flushed the table; those that are open already are fine, and
    /// those that somebody else has now are lost.
    pub(crate) fn restore_ports(&mut self, ports: &PodPorts) -> Result<()> {
        for request in ports.requests(NLM_F_CREATE) {
            match self.transact(vec![request]) {
                Err(failed) if !is_taken(&failed.error) => return Err(failed.error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Closes ports of one pod. Those that lead elsewhere by now are left alone.
    pub(crate) fn close_ports(&mut self, ports: &PodPorts) -> Result<()> {
        let mut requests = Vec::new();
        let mut flows: Vec<IpAddr> = Vec::new();
        for element in &ports.ports {
            if self.leads_to(element)?.as_ref() == Some(&element.value) {
                requests.push(elements(Verb::DelElement, 0, element.map, &[key(&element.key)]));
                flows.extend(element.pod());
            }
        }
        for source in &ports.sources {
            if self.has(source)? {
                requests.push(source.request(Verb::DelElement, 0));
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        or_absent(self.transact(requests).map_err(Error::from))?;
        flows.dedup();
        flows.into_iter().try_for_each(|pod| self.forget_flows_to(pod))
    }

    /// What is not as it should be: a sentence for each.
    pub(crate) fn wrong_ports(&mut self, ports: &PodPorts) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for element in &ports.ports {
            if self.leads_to(element)?.as_ref() != Some(&element.value) {
                wrong.push(format!("host port {} does not lead to the pod", element.port));
            }
        }
        for source in &ports.sources {
            if !self.has(source)? {
                wrong.push(format!("{} is not in nftables set {}", source.pod, source.set));
            }
        }
        Ok(wrong)
    }

    fn has(&mut self, source: &Source) -> Result<bool> {
        let answer = self.channel.exchange(&[source.request(Verb::GetElement, 0)], |_| {});
        Ok(or_absent(answer.map_err(Error::from))?.is_some())
    }

    /// The value that the element's key has now.
    fn leads_to(&mut self, element: &Element) -> Result<Option<Vec<u8>>> {
        let get = elements(Verb::GetElement, 0, element.map, &[key(&element.key)]);
        let mut value = None;
        let answer = self.channel.exchange(&[get], |reply| {
            value = parse_elements(reply).into_iter().next().map(|(_, value)| value);
        });
        or_absent(answer.map_err(Error::from))?;
        Ok(value)
    }

    /// Closes every port that leads to an address for which `is_stale` says so.
    pub(crate) fn close_stale_ports(&mut self, is_stale: impl Fn(IpAddr) -> bool) -> Result<usize> {
        let mut requests = Vec::new();
        for map in [HP4, HPIP4, HP6, HPIP6] {
            let stale = |value: &[u8]| pod_address(value).is_some_and(&is_stale);
            let found = self.dump(map)?.into_iter().filter(|(_, value)| stale(value));
            requests.extend(found.map(|(found, _)| elements(Verb::DelElement, 0, map, &[key(&found)])));
        }
        let count = requests.len();
        for set in [HPKEEP4, HPKEEP6, HPMASQ4, HPMASQ6] {
            let stale = |key: &[u8]| address(key).is_some_and(&is_stale);
            let found = self.dump(set)?.into_iter().filter(|(key, _)| stale(key));
            requests.extend(found.map(|(found, _)| elements(Verb::DelElement, 0, set, &[key(&found)])));
        }
        if !requests.is_empty() {
            self.transact(requests)?;
        }
        Ok(count)
    }

    fn taken(&mut self, element: &Element) -> Error {
        let value = self.leads_to(element).ok().flatten();
        let holder = value.as_deref().and_then(pod_address);
        let holder = holder.map_or_else(|| "unknown".to_owned(), |pod| pod.to_string());
        Error::PortTaken { port: element.port.to_string(), holder }
    }

    /// Keys and values of a map or set; none when the table is not there.
    fn dump(&mut self, map: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let wanted = Attributes::new().text(1, TABLE).text(2, map);
        let dump = message(Verb::GetElement, NLM_F_DUMP, wanted, format!("list nftables map {map}"));
        let mut found = Vec::new();
        let answer = self.channel.exchange(&[dump], |reply| found.extend(parse_elements(reply)));
        or_absent(answer.map_err(Error::from))?;
        Ok(found)
    }
}

/// Keys and values of the elements in one answer.
fn parse_elements(reply: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let body = reply.get(MESSAGE_HEADER..).unwrap_or_default();
    let lists = attributes(body).filter(|(kind, _)| *kind == LIST_ELEMENTS);
    let all = lists.flat_map(|(_, list)| attributes(list).filter(|(kind, _)| *kind == LIST_ELEM));
    all.filter_map(|(_, element)| {
        Some((field(element, ELEM_KEY)?, field(element, ELEM_DATA).unwrap_or_default()))
    })
    .collect()
}

/// The pod that a value leads to: four bytes behind the address are the port.
fn pod_address(value: &[u8]) -> Option<IpAddr> {
    address(value.split_last_chunk::<4>()?.0)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk().map(|bytes: &[u8; 4]| Ipv4Addr::from(*bytes).into()),
        16 => bytes.first_chunk().map(|bytes: &[u8; 16]| Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}

//! Host ports as they are written down.

use std::net::IpAddr;

use crate::{HostPort, HostPorts, Protocol, SourceNat};

/// Of [`SourceNat`].
const NEVER: &str = "snat never";
const ALWAYS: &str = "snat always";

/// One port in each line: protocol, port of the host, port of the pod, address of the host or `*`. Before them a line
/// that says whose source addresses the pod sees, unless that is as usual.
pub(super) fn text(ports: &HostPorts) -> String {
    let first = match ports.source_nat {
        SourceNat::Needed => None,
        SourceNat::Never => Some(format!("{NEVER}\n")),
        SourceNat::Always => Some(format!("{ALWAYS}\n")),
    };
    let line = |port: &HostPort| {
        let host = port.host_ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        format!("{} {} {} {host}\n", port.protocol.as_str(), port.host_port, port.container_port)
    };
    first.into_iter().chain(ports.list.iter().map(line)).collect()
}

/// `None` for what [`text`] does not say.
pub(super) fn of_text(text: &str) -> Option<HostPorts> {
    let mut lines = text.lines().peekable();
    let said = [(NEVER, SourceNat::Never), (ALWAYS, SourceNat::Always)];
    let source_nat = said.into_iter().find_map(|(word, nat)| lines.next_if_eq(&word).map(|_| nat));
    Some(HostPorts {
        list: lines.map(port).collect::<Option<_>>()?,
        source_nat: source_nat.unwrap_or_default(),
    })
}

fn port(line: &str) -> Option<HostPort> {
    let mut words = line.split(' ');
    let protocol = Protocol::named(words.next()?)?;
    let mut number = || words.next()?.parse().ok();
    let (host_port, container_port) = (number()?, number()?);
    let host_ip: Option<IpAddr> = match words.next()? {
        "*" => None,
        ip => Some(ip.parse().ok()?),
    };
    Some(HostPort { host_ip, host_port, container_port, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_back() {
        let port = |host_ip: Option<&str>, protocol| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 8080,
            container_port: 80,
            protocol,
        };
        let list = vec![
            port(None, Protocol::Tcp),
            port(Some("192.0.2.1"), Protocol::Udp),
            port(Some("2001:db8::1"), Protocol::Sctp),
        ];
        for source_nat in [SourceNat::Needed, SourceNat::Never, SourceNat::Always] {
            let ports = HostPorts { list: list.clone(), source_nat };
            assert_eq!(of_text(&text(&ports)).unwrap(), ports);
        }
    }
}

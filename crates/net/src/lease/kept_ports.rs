//! The host ports of a pod, written down next to the lease table.
//!
//! Written before the first of them is opened, removed after the last is closed. A file without its last line was
//! cut short by a crash, so nothing in it was ever opened.

use std::net::IpAddr;

use crate::{HostPort, Protocol};

const END: &str = "end";

/// One port in each line: protocol, port of the host, port of the pod, address of the host or `*`.
pub(super) fn encode(ports: &[HostPort]) -> String {
    let line = |port: &HostPort| {
        let host = port.host_ip.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        format!("{} {} {} {host}\n", port.protocol.as_str(), port.host_port, port.container_port)
    };
    ports.iter().map(line).chain([format!("{END}\n")]).collect()
}

/// `None` for what was cut short or changed.
pub(super) fn decode(text: &str) -> Option<Vec<HostPort>> {
    let lines = text.strip_suffix('\n')?;
    let lines = lines.strip_suffix(END)?;
    lines.lines().map(port).collect()
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
    fn ports_read_back_unless_they_were_cut_short() {
        let port = |host_ip: Option<&str>, protocol| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 8080,
            container_port: 80,
            protocol,
        };
        let ports = [
            port(None, Protocol::Tcp),
            port(Some("192.0.2.1"), Protocol::Udp),
            port(Some("2001:db8::1"), Protocol::Sctp),
        ];
        let text = encode(&ports);
        assert_eq!(decode(&text).unwrap(), ports);
        for length in 0..text.len() {
            assert_eq!(decode(&text[..length]), None, "{length}");
        }
    }
}

//! What a runtime asks for one pod: `runtimeConfig`, `args.cni` and CNI_ARGS, the first of which counts most.

use std::net::IpAddr;

use dunnage_net::{HostPort, HostPorts, LinkOptions, Mac, PodRequest, Protocol, Shape, SourceNat};
use ipnet::IpNet;

use crate::bridge;
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::fields::Fields;

/// Longest text that the kernel takes to keep beside a link (`IFALIASZ`, less the NUL there and that of the message).
const ALIAS_MAX: usize = 254;

/// Keys by which an entry asks for what `portmap`, `bandwidth` or `tuning` give.
pub(crate) const KEYS: &[&str] = &[
    "capabilities",
    "runtimeConfig",
    "args",
    "dataDir",
    "mtu",
    "snat",
    "markMasqBit",
    "masqAll",
    "conditionsV4",
    "conditionsV6",
    "externalSetMarkChain",
    "ingressRate",
    "ingressBurst",
    "egressRate",
    "egressBurst",
    "shapedSubnets",
    "unshapedSubnets",
    "sysctl",
    "mac",
    "promisc",
    "allmulti",
    "txQLen",
];

const RUNTIME_KEYS: &[&str] = &[
    "portMappings",
    "ipRanges",
    "ips",
    "mac",
    "bandwidth",
    "dns",
    "aliases",
    "cgroupPath",
    "infinibandGUID",
    "deviceID",
    "CNIDeviceInfoFile",
    "io.kubernetes.cri.pod-annotations",
];

/// Reads all but the ranges and DNS.
pub(crate) fn request(fields: &Fields<'_>, environment: &Environment) -> Result<PodRequest> {
    let runtime = fields.object("runtimeConfig")?;
    let cni = match fields.object("args")? {
        Some(args) => args.object("cni")?,
        None => None,
    };
    if let Some(runtime) = &runtime {
        runtime.refuse_others(RUNTIME_KEYS)?;
        for key in ["infinibandGUID", "deviceID"] {
            runtime.refuse_if(
                key,
                runtime.get(key).is_some(),
                "pods get a veth pair, no device of the host",
            )?;
        }
    }
    let places: Vec<&Fields<'_>> = [runtime.as_ref(), cni.as_ref()].into_iter().flatten().collect();
    let (to_pod, from_pod) = bandwidth(fields, runtime.as_ref())?;
    Ok(PodRequest {
        ports: HostPorts { list: ports(runtime.as_ref())?, source_nat: source_nat(fields)? },
        mac: mac(fields, &places, environment)?,
        addresses: addresses(&places, environment)?,
        alias: alias(runtime.as_ref(), environment)?,
        to_pod,
        from_pod,
        link: link(fields)?,
        sysctls: sysctls(fields, environment)?,
    })
}

/// As for `tuning`. The MTU is that of the network, unless this comes behind the plugin that made the interface.
fn link(fields: &Fields<'_>) -> Result<LinkOptions> {
    let mtu = fields.number("mtu")?.filter(|mtu| *mtu > 0 && bridge::only_adds(fields));
    Ok(LinkOptions {
        promiscuous: fields.flag("promisc")?.unwrap_or(false),
        all_multicast: fields.flag("allmulti")?.unwrap_or(false),
        queue_length: fields.number("txQLen")?,
        mtu,
    })
}

fn ports(runtime: Option<&Fields<'_>>) -> Result<Vec<HostPort>> {
    let Some(runtime) = runtime else { return Ok(Vec::new()) };
    runtime.objects("portMappings")?.iter().map(port).collect()
}

/// As for `portmap`, where `masqAll` counts only with `snat`.
pub(crate) fn source_nat(fields: &Fields<'_>) -> Result<SourceNat> {
    let all = fields.flag("masqAll")?.unwrap_or(false);
    Ok(match fields.flag("snat")? {
        Some(false) => SourceNat::Never,
        _ if all => SourceNat::Always,
        _ => SourceNat::Needed,
    })
}

fn port(fields: &Fields<'_>) -> Result<HostPort> {
    fields.refuse_others(&["hostPort", "containerPort", "protocol", "hostIP"])?;
    let number = |key| {
        let number: Option<u16> = fields.number(key)?;
        let number = number.filter(|number| *number > 0);
        number.ok_or_else(|| Error::config(format!("{} is missing or zero", fields.at(key))))
    };
    let name = fields.text("protocol")?.unwrap_or("tcp").to_ascii_lowercase();
    let protocol = Protocol::named(&name).ok_or_else(|| {
        Error::config(format!("{} {name:?} is not a protocol with ports", fields.at("protocol")))
            .because("there are tcp, udp and sctp")
    })?;
    let host_ip: Option<IpAddr> = fields.parsed("hostIP")?;
    Ok(HostPort {
        host_ip: host_ip.map(|ip| ip.to_canonical()),
        host_port: number("hostPort")?,
        container_port: number("containerPort")?,
        protocol,
    })
}

/// A link-layer address can also be said in the configuration itself, as for the plugin `tuning`.
fn mac(fields: &Fields<'_>, places: &[&Fields<'_>], environment: &Environment) -> Result<Option<Mac>> {
    for place in places {
        if let Some(mac) = place.parsed("mac")? {
            return Ok(Some(mac));
        }
    }
    match environment.arg("MAC") {
        Some(text) => {
            let mac = text
                .parse()
                .map_err(|error| Error::config("MAC of CNI_ARGS cannot be used").because(error))?;
            Ok(Some(mac))
        }
        None => fields.parsed("mac"),
    }
}

fn addresses(places: &[&Fields<'_>], environment: &Environment) -> Result<Vec<IpAddr>> {
    for place in places {
        let texts = place.texts("ips")?;
        if !texts.is_empty() {
            return texts.iter().map(|text| address(&place.at("ips"), text)).collect();
        }
    }
    let texts = environment.arg("IP").unwrap_or_default();
    texts.split(',').filter(|text| !text.is_empty()).map(|text| address("IP of CNI_ARGS", text)).collect()
}

/// With or without a prefix, which is that of the network whatever it says.
fn address(path: &str, text: &str) -> Result<IpAddr> {
    let with_prefix = || text.parse::<IpNet>().map(|net| net.addr());
    text.parse::<IpAddr>()
        .or_else(|error| with_prefix().map_err(|_| error))
        .map_err(|error| Error::config(format!("{path} {text:?} is not an address")).because(error))
}

/// What people call the pod, with its aliases.
fn alias(runtime: Option<&Fields<'_>>, environment: &Environment) -> Result<String> {
    let namespace = environment.arg("K8S_POD_NAMESPACE").map(|name| format!("{name}/")).unwrap_or_default();
    let mut words: Vec<String> =
        environment.arg("K8S_POD_NAME").map(|name| format!("{namespace}{name}")).into_iter().collect();
    if let Some(runtime) = runtime {
        words.extend(runtime.texts("aliases")?);
    }
    let text = words.join(" ");
    let end = (0..=text.len().min(ALIAS_MAX)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Ok(text[..end].to_owned())
}

/// In bits, towards the pod and from it: of the runtime, or else of the configuration as for `bandwidth`.
fn bandwidth(fields: &Fields<'_>, runtime: Option<&Fields<'_>>) -> Result<(Option<Shape>, Option<Shape>)> {
    let of_runtime = match runtime {
        Some(runtime) => runtime.object("bandwidth")?,
        None => None,
    };
    if let Some(of_runtime) = &of_runtime {
        of_runtime.refuse_others(&["ingressRate", "ingressBurst", "egressRate", "egressBurst"])?;
    }
    let fields = of_runtime.as_ref().unwrap_or(fields);
    let shape = |rate, burst| {
        let (rate_bits, burst) = (fields.number::<u64>(rate)?, fields.number::<u64>(burst)?);
        let Some(bits) = rate_bits.filter(|bits| *bits > 0) else { return Ok(None) };
        let shape = Shape::of_bits(bits, burst);
        shape.map(Some).ok_or_else(|| Error::config(format!("{} is below a byte a second", fields.at(rate))))
    };
    Ok((shape("ingressRate", "ingressBurst")?, shape("egressRate", "egressBurst")?))
}

/// Switches of the pod's namespace, as for `tuning`: with dots or slashes, and `IFNAME` for the interface.
fn sysctls(fields: &Fields<'_>, environment: &Environment) -> Result<Vec<(String, String)>> {
    let Some(sysctls) = fields.object("sysctl")? else { return Ok(Vec::new()) };
    let ifname = environment.owner()?.ifname().as_str();
    let mut all = Vec::new();
    for (key, value) in sysctls.iter() {
        let path = key.replace('.', "/");
        let parts: Vec<&str> =
            path.split('/').map(|part| if part == "IFNAME" { ifname } else { part }).collect();
        let value =
            value.as_str().ok_or_else(|| Error::config(format!("{} is not a string", sysctls.at(key))))?;
        let sound = parts.len() > 1
            && parts[0] == "net"
            && parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
        if !sound {
            let msg = format!("{} is not a switch of a network namespace", sysctls.at(key));
            return Err(Error::config(msg).because("its name begins with net."));
        }
        all.push((parts[1..].join("/"), value.to_owned()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(config: &Value) -> Result<PodRequest> {
        request(
            &Fields::of("", config).unwrap(),
            &Environment::for_test("CNI_ARGS", "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web"),
        )
    }

    #[test]
    fn what_containerd_sends_is_read_with_its_capital_letters() {
        let request = read(&json!({"runtimeConfig": {
            "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "udp", "HostIP": "192.0.2.1"},
                             {"HostPort": 8081, "ContainerPort": 81, "Protocol": "TCP", "HostIP": ""}],
            "bandwidth": {"IngressRate": 8_000_000, "IngressBurst": 4_294_967_295u64, "EgressRate": 0, "EgressBurst": 0},
            "io.kubernetes.cri.pod-annotations": {"a": "b"},
            "aliases": ["www"]}})).unwrap();
        assert_eq!(request.ports.list[0].to_string(), "8080/udp");
        assert_eq!(request.ports.list[0].host_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!((request.ports.list[1].protocol, request.ports.list[1].host_ip), (Protocol::Tcp, None));
        assert_eq!(request.to_pod, Shape::of_bits(8_000_000, None));
        assert_eq!(request.from_pod, None);
        assert_eq!(request.alias, "prod/web www");
    }

    #[test]
    fn the_runtime_counts_more_than_args_and_those_more_than_the_environment() {
        let all = json!({"runtimeConfig": {"mac": "02:00:00:00:00:01", "ips": ["10.0.0.7/24"]},
            "args": {"cni": {"mac": "02:00:00:00:00:02", "ips": ["10.0.0.8"]}}});
        let request = read(&all).unwrap();
        assert_eq!(request.mac.unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!(request.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        let request = read(&json!({"args": all["args"]})).unwrap();
        assert_eq!(request.mac.unwrap().to_string(), "02:00:00:00:00:02");
    }

    #[test]
    fn switches_are_those_of_the_namespace_only() {
        let request =
            read(&json!({"sysctl": {"net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/arp_filter": "1"}}))
                .unwrap();
        let keys: Vec<&str> = request.sysctls.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["core/somaxconn", "ipv4/conf/eth0/arp_filter"]);
        for bad in ["kernel.hostname", "net/../kernel/hostname", "net"] {
            assert!(read(&json!({"sysctl": {bad: "x"}})).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_that_cannot_be_are_refused_by_place() {
        for (port, says) in [
            (
                json!({"hostPort": 0, "containerPort": 80}),
                "runtimeConfig.portMappings[0].hostPort is missing or zero",
            ),
            (
                json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}),
                "runtimeConfig.portMappings[0].protocol \"icmp\" is not a protocol with ports",
            ),
            (
                json!({"hostPort": 70000, "containerPort": 80}),
                "runtimeConfig.portMappings[0].hostPort is not a number in range",
            ),
        ] {
            assert_eq!(read(&json!({"runtimeConfig": {"portMappings": [port]}})).unwrap_err().msg, says);
        }
    }
}

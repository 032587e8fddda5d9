//! A configuration: the keys that people have for `bridge` and its companions, checked and understood once.

use std::net::IpAddr;
use std::path::PathBuf;

use dunnage_net::{NetworkConfig, NetworkName, PodRequest, Ranges};
use serde_json::{Value, json};

use crate::bridge;
use crate::capability;
use crate::env::Environment;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::forward;
use crate::ipam;
use crate::routes::Routes;
use crate::version::Version;

const STATE_DIR: &str = "/run/dunnage/ipam";
/// What `bridge` makes when nothing is said.
const BRIDGE: &str = "cni0";

/// Keys of the specification, and of this plugin; those of the reference plugins are where they are read.
const KEYS: &[&str] = &[
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "prevResult",
    "dns",
    "ipam",
    "disableCheck",
    "disableGC",
    "stateDir",
];

/// What the plugin is in a list of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It makes the pod's interface.
    Interface,
    /// It brings loopback up: its type, and so the name of the program, is `loopback`.
    Loopback,
    /// It has no addresses to give, and comes behind itself: it adds host ports, limits and options to a pod,
    /// and lets packets pass.
    Addition,
}

/// A configuration that can be used.
#[derive(Debug)]
pub(crate) struct Conf<'a> {
    pub(crate) version: Version,
    pub(crate) role: Role,
    pub(crate) network: NetworkConfig,
    pub(crate) routes: Routes,
    pub(crate) request: PodRequest,
    /// Whether packets of pods are to pass other people's forward chains.
    pub(crate) lets_pass: bool,
    /// As it is told in a result; null when there is nothing to tell.
    pub(crate) dns: Value,
    pub(crate) prev_result: Option<&'a Value>,
}

impl<'a> Conf<'a> {
    pub(crate) fn parse(fields: &Fields<'a>, version: Version, environment: &Environment) -> Result<Self> {
        let role = role(fields, environment)?;
        let prev_result = fields.get("prevResult");
        let mut conf = Self {
            version,
            role,
            network: unconfigured(fields)?,
            routes: Routes::default(),
            request: PodRequest::default(),
            lets_pass: false,
            dns: Value::Null,
            prev_result,
        };
        if role == Role::Loopback {
            return Ok(conf);
        }
        fields.refuse_others(&[KEYS, bridge::KEYS, capability::KEYS, forward::KEYS].concat())?;
        refuse_unsupported(fields)?;
        conf.lets_pass = forward::asks(fields, role == Role::Addition)?;
        if environment.owner().is_ok() {
            conf.request = capability::request(fields, environment)?;
        }
        if role == Role::Interface {
            (conf.network, conf.routes) = network(fields)?;
            conf.dns = dns(fields)?;
        }
        Ok(conf)
    }
}

/// What is needed to take back what a network has, whatever else its configuration says.
pub(crate) fn unconfigured(fields: &Fields<'_>) -> Result<NetworkConfig> {
    Ok(NetworkConfig {
        name: name(fields)?,
        state_dir: PathBuf::from(fields.text("stateDir")?.unwrap_or(STATE_DIR)),
        ..NetworkConfig::local()
    })
}

/// The network of a configuration that makes interfaces, and the routes of its pods.
pub(crate) fn network(fields: &Fields<'_>) -> Result<(NetworkConfig, Routes)> {
    let ipam = ipam::of(fields)?;
    let bridging = bridge::bridging(fields, ipam.is_some())?;
    let mode = bridge::mode(fields, &bridging, ipam.is_some())?;
    let network = NetworkConfig {
        bridge: fields.parsed("bridge")?.unwrap_or(BRIDGE.parse()?),
        mtu: fields.number("mtu")?.filter(|mtu| *mtu > 0),
        mode,
        bridging,
        ..unconfigured(fields)?
    };
    let (network, routes) = match ipam {
        Some(ipam) => with_addresses(network, fields, &ipam)?,
        None => (without_addresses(network, fields)?, Routes::default()),
    };
    network.check()?;
    Ok((network, routes))
}

fn with_addresses(
    network: NetworkConfig,
    fields: &Fields<'_>,
    ipam: &Fields<'_>,
) -> Result<(NetworkConfig, Routes)> {
    let runtime = fields.object("runtimeConfig")?;
    let dynamic =
        runtime.as_ref().and_then(|runtime| Some((runtime.at("ipRanges"), runtime.get("ipRanges")?)));
    let ranges = ipam::ranges(ipam, dynamic)?;
    let is_default_gateway = fields.flag("isDefaultGateway")?.unwrap_or(false);
    let routes = Routes::parse(ipam, network.mode, is_default_gateway, &ranges)?;
    let network = NetworkConfig {
        ranges,
        masquerade: fields.flag("ipMasq")?.unwrap_or(false),
        routes: routes.all(),
        import: Some(ipam::import(ipam, fields.text("name")?.unwrap_or_default())?),
        ..network
    };
    Ok((network, routes))
}

/// Pods have interfaces on a bridge, and nothing is known here about who has which address there.
fn without_addresses(network: NetworkConfig, fields: &Fields<'_>) -> Result<NetworkConfig> {
    let runtime = fields.object("runtimeConfig")?;
    if let Some(runtime) = runtime.filter(|runtime| runtime.get("ipRanges").is_some()) {
        return Err(Error::config(format!("{} needs ipam", runtime.at("ipRanges"))));
    }
    Ok(NetworkConfig { ranges: Ranges::none(), masquerade: false, routes: Vec::new(), ..network })
}

/// Behind `cni-`, so that it is not the network of `dunnage pod run`, which is called `local`.
fn name(fields: &Fields<'_>) -> Result<NetworkName> {
    let name = fields.text("name")?.ok_or_else(|| Error::config("name is missing"))?;
    let checked = name.parse::<NetworkName>().and_then(|_| format!("cni-{name}").parse());
    checked.map_err(|error| Error::config("name cannot be used").because(error))
}

fn role(fields: &Fields<'_>, environment: &Environment) -> Result<Role> {
    if fields.text("type")? == Some("loopback") {
        return Ok(Role::Loopback);
    }
    // STATUS comes without prevResult: there the keys tell alone.
    let comes_behind = match environment.owner() {
        Ok(_) => bridge::only_adds(fields) && fields.get("prevResult").is_some(),
        Err(_) => bridge::only_adds(fields),
    };
    Ok(if comes_behind { Role::Addition } else { Role::Interface })
}

/// Options of the plugins that this one takes the place of, and that it does not have.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    let filled = |key: &str| Ok::<bool, Error>(!fields.list(key)?.is_empty());
    capability::source_nat(fields)?;
    for key in ["conditionsV4", "conditionsV6"] {
        fields.refuse_if(key, filled(key)?, "host ports are elements of a map, without conditions")?;
    }
    let chain = fields.text("externalSetMarkChain")?.is_some();
    let instead =
        "host ports are source-NATed in the table of this plugin, where no chain of iptables can be called";
    fields.refuse_if("externalSetMarkChain", chain, instead)?;
    for key in ["shapedSubnets", "unshapedSubnets"] {
        fields.refuse_if(key, filled(key)?, "bandwidth is limited whoever the pod talks to")?;
    }
    forward::refuse_unsupported(fields)
}

/// Of the runtime, or else of the configuration, or else of the file that `ipam` names.
fn dns(fields: &Fields<'_>) -> Result<Value> {
    if let Some(runtime) = fields.object("runtimeConfig")?
        && let Some(dns) = runtime.object("dns")?
    {
        dns.refuse_others(&["servers", "searches", "options"])?;
        let (servers, searches) = (dns.texts("servers")?, dns.texts("searches")?);
        return told_dns(servers, None, searches, dns.texts("options")?);
    }
    if let Some(dns) = fields.object("dns")? {
        dns.refuse_others(&["nameservers", "domain", "search", "options"])?;
        let (servers, search) = (dns.texts("nameservers")?, dns.texts("search")?);
        let told = told_dns(servers, dns.text("domain")?.map(str::to_owned), search, dns.texts("options")?)?;
        if !told.is_null() {
            return Ok(told);
        }
    }
    match fields.object("ipam")?.map(|ipam| ipam.text("resolvConf")).transpose()?.flatten() {
        Some(path) => resolv_conf(path),
        None => Ok(Value::Null),
    }
}

fn told_dns(
    servers: Vec<String>,
    domain: Option<String>,
    search: Vec<String>,
    options: Vec<String>,
) -> Result<Value> {
    for server in &servers {
        // That of a link has the link behind it.
        let address = server.split_once('%').map_or(server.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() {
            return Err(Error::config(format!("dns: {server:?} is not the address of a name server")));
        }
    }
    let mut told = json!({});
    for (key, list) in [("nameservers", servers), ("search", search), ("options", options)] {
        if !list.is_empty() {
            told[key] = list.into();
        }
    }
    if let Some(domain) = domain {
        told["domain"] = domain.into();
    }
    let empty = told.as_object().is_some_and(serde_json::Map::is_empty);
    Ok(if empty { Value::Null } else { told })
}

/// As resolv.conf(5) says; what is not understood there is left out.
fn resolv_conf(path: &str) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(&format!("read {path}"), &error))?;
    let (mut servers, mut domain, mut search, mut options) = (Vec::new(), None, Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => servers.extend(words.next()),
            Some("domain") => domain = words.next(),
            Some("search") => search.extend(words),
            Some("options") => options.extend(words),
            _ => {}
        }
    }
    told_dns(servers, domain, search, options)
}

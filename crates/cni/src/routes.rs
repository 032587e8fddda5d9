//! Routes of pods: what `ipam.routes` says, and default routes.

use dunnage_net::{Attachment, Mode, PodRoute, Ranges};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::version::Version;

const KEYS: &[&str] = &["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];

/// Routes as they are wanted, and whether the default routes are said with their next hop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routes {
    /// As the configuration lists them.
    pub(crate) listed: Vec<PodRoute>,
    /// Default routes by the gateway, of families that the list has none for.
    pub(crate) default: bool,
    /// What a routed pod needs besides to reach the others.
    pub(crate) to_pods: Vec<IpNet>,
}

impl Routes {
    /// `default`: whether the configuration asks for default routes (`isDefaultGateway`).
    pub(crate) fn parse(ipam: &Fields<'_>, mode: Mode, default: bool, ranges: &Ranges) -> Result<Self> {
        let listed: Result<Vec<PodRoute>> = ipam.objects("routes")?.iter().map(route).collect();
        let listed = listed?;
        // A pod with nothing but its own address reaches nobody without a route.
        let default = default || mode == Mode::Routed && listed.is_empty();
        let lacks_default = !default && !listed.iter().any(is_default);
        let to_pods = match mode {
            Mode::Routed if lacks_default => ranges.nets(),
            _ => Vec::new(),
        };
        Ok(Self { listed, default, to_pods })
    }

    /// All of them, for the pods.
    pub(crate) fn all(&self) -> Vec<PodRoute> {
        let mut all = self.listed.clone();
        if self.default {
            let missing = |route: &PodRoute| {
                !all.iter().any(|other| is_default(other) && other.destination == route.destination)
            };
            let missing: Vec<PodRoute> = PodRoute::defaults().into_iter().filter(missing).collect();
            all.extend(missing);
        }
        let listed =
            |net: &IpNet| self.listed.iter().any(|route| route.destination == *net && route.table.is_none());
        all.extend(self.to_pods.iter().filter(|net| !listed(net)).copied().map(PodRoute::to));
        all
    }

    /// As a result tells them: those of the list as they are listed, the others with their next hop.
    pub(crate) fn told(&self, attachment: &Attachment, version: Version) -> Vec<Value> {
        let listed = self.listed.len();
        let has = |route: &PodRoute| gateway(route, attachment).is_some();
        let routes = self.all().into_iter().enumerate().filter(|(_, route)| has(route));
        routes
            .map(|(number, route)| {
                let next_hop = if number < listed { route.gateway } else { gateway(&route, attachment) };
                tell(&route, next_hop, version)
            })
            .collect()
    }
}

fn gateway(route: &PodRoute, attachment: &Attachment) -> Option<std::net::IpAddr> {
    attachment.first(route.destination.addr().is_ipv4()).map(|address| address.gateway)
}

fn tell(route: &PodRoute, next_hop: Option<std::net::IpAddr>, version: Version) -> Value {
    let mut told = json!({"dst": route.destination.to_string()});
    if let Some(gateway) = next_hop {
        told["gw"] = gateway.to_string().into();
    }
    if version >= Version::V1_1_0 {
        let numbers = [
            ("mtu", route.mtu),
            ("advmss", route.advmss),
            ("priority", route.priority),
            ("table", route.table),
            ("scope", route.scope.map(u32::from)),
        ];
        for (key, number) in numbers {
            if let Some(number) = number {
                told[key] = number.into();
            }
        }
    }
    told
}

fn is_default(route: &PodRoute) -> bool {
    route.destination.prefix_len() == 0 && route.table.is_none()
}

fn route(fields: &Fields<'_>) -> Result<PodRoute> {
    fields.refuse_others(KEYS)?;
    let destination = fields.parsed::<IpNet>("dst")?;
    let missing = || Error::config(format!("{} is missing", fields.at("dst")));
    let gateway = fields.parsed("gw")?;
    let destination = destination.ok_or_else(missing)?.trunc();
    let other_family = |gateway: &std::net::IpAddr| gateway.is_ipv4() != destination.addr().is_ipv4();
    if gateway.as_ref().is_some_and(other_family) {
        return Err(Error::config(format!(
            "{} is of another family than {}",
            fields.at("gw"),
            fields.at("dst")
        )));
    }
    Ok(PodRoute {
        destination,
        gateway,
        mtu: fields.number("mtu")?,
        advmss: fields.number("advmss")?,
        priority: fields.number("priority")?,
        table: fields.number("table")?,
        scope: fields.number("scope")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(routes: &Value, mode: Mode, default: bool) -> Vec<String> {
        let ipam = json!({"routes": routes});
        let ranges = Ranges::of("10.0.0.0/24".parse().unwrap(), None);
        let routes = Routes::parse(&Fields::of("ipam", &ipam).unwrap(), mode, default, &ranges).unwrap();
        routes.all().iter().map(|route| route.destination.to_string()).collect()
    }

    #[test]
    fn a_routed_pod_reaches_at_least_the_other_pods() {
        assert_eq!(parse(&json!([]), Mode::Routed, false), ["0.0.0.0/0", "::/0"]);
        assert_eq!(
            parse(&json!([{"dst": "192.0.2.0/24"}]), Mode::Routed, false),
            ["192.0.2.0/24", "10.0.0.0/24"]
        );
        assert_eq!(parse(&json!([{"dst": "0.0.0.0/0"}]), Mode::Routed, true), ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn a_bridged_pod_gets_what_is_listed() {
        assert!(parse(&json!([]), Mode::Bridged, false).is_empty());
        assert_eq!(parse(&json!([]), Mode::Bridged, true), ["0.0.0.0/0", "::/0"]);
    }
}

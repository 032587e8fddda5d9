//! Results, in the shape of each version, and what is read of the results of others.

use dunnage_net::{Attachment, Mode, PodAddress};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::conf::Conf;
use crate::env::Environment;
use crate::error::Result;
use crate::fields::Fields;
use crate::version::Version;

/// What ADD tells: what the plugins before have told, with the pod's interface added.
pub(crate) fn of_attachment(
    conf: &Conf<'_>,
    environment: &Environment,
    attachment: &Attachment,
) -> Result<Value> {
    let mut result = match conf.prev_result {
        Some(before) => before.clone(),
        None => json!({}),
    };
    result["cniVersion"] = conf.version.as_str().into();
    let before = list(&mut result, "interfaces").len();
    let interfaces = interfaces(conf, environment, attachment);
    let index = before + interfaces.len() - 1;
    list(&mut result, "interfaces").extend(interfaces);
    list(&mut result, "ips").extend(ips(conf.version, attachment, index));
    let routes = conf.routes.told(attachment, conf.version);
    list(&mut result, "routes").extend(routes);
    for key in ["ips", "routes"] {
        if list(&mut result, key).is_empty() {
            let _ = result.as_object_mut().and_then(|result| result.remove(key));
        }
    }
    if !conf.dns.is_null() {
        result["dns"] = conf.dns.clone();
    } else if result.get("dns").is_none() {
        result["dns"] = json!({});
    }
    Ok(result)
}

/// Behind another plugin, what that one has told.
pub(crate) fn passed_on(conf: &Conf<'_>) -> Value {
    let mut result = conf.prev_result.cloned().unwrap_or_else(|| json!({}));
    result["cniVersion"] = conf.version.as_str().into();
    result
}

/// The bridge, where there is one, the host's end, and last the pod's.
fn interfaces(conf: &Conf<'_>, environment: &Environment, attachment: &Attachment) -> Vec<Value> {
    let mut all = Vec::new();
    if conf.network.mode == Mode::Bridged {
        all.push(json!({"name": attachment.bridge.as_str()}));
    }
    all.push(json!({"name": attachment.host_ifname.as_str(), "mac": attachment.host_mac.to_string()}));
    all.push(json!({
        "name": attachment.ifname.as_str(),
        "mac": attachment.mac.to_string(),
        "sandbox": environment.netns_path(),
    }));
    if let Some(mtu) = conf.network.mtu.filter(|_| conf.version >= Version::V1_1_0) {
        all.iter_mut().for_each(|interface| interface["mtu"] = mtu.into());
    }
    all
}

fn ips(version: Version, attachment: &Attachment, interface: usize) -> Vec<Value> {
    let tell = |PodAddress { net, gateway }: &PodAddress| {
        let mut ip =
            json!({"address": net.to_string(), "gateway": gateway.to_string(), "interface": interface});
        if version < Version::V1_0_0 {
            ip["version"] = if gateway.is_ipv4() { "4" } else { "6" }.into();
        }
        ip
    };
    attachment.addresses.iter().map(tell).collect()
}

/// A list of a result, empty when there is none.
fn list<'a>(result: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    if !result[key].is_array() {
        result[key] = json!([]);
    }
    result[key].as_array_mut().expect("it was just made a list")
}

/// What of an attachment is missing from a result that says what was made: a sentence each.
pub(crate) fn missing(result: &Value, netns: &str, attachment: &Attachment) -> Result<Vec<String>> {
    let result = Fields::of("prevResult", result)?;
    let mut found = Vec::new();
    let mut index = None;
    for (number, interface) in result.objects("interfaces")?.iter().enumerate() {
        let here = interface.text("sandbox")? == Some(netns);
        if here && interface.text("name")? == Some(attachment.ifname.as_str()) {
            index = Some(number);
            let mac = interface.text("mac")?.map(str::to_ascii_lowercase);
            if mac.is_some_and(|mac| mac != attachment.mac.to_string()) {
                found.push(format!("prevResult has another link-layer address for {}", attachment.ifname));
            }
        }
    }
    let Some(index) = index else {
        found.push(format!("prevResult does not have interface {} in {netns}", attachment.ifname));
        return Ok(found);
    };
    let mut addresses = Vec::new();
    for ip in result.objects("ips")? {
        if ip.number::<usize>("interface")?.is_none_or(|number| number == index) {
            addresses.extend(ip.parsed::<IpNet>("address")?);
        }
    }
    let ours = attachment.addresses.iter().map(|address| address.net);
    for address in ours.filter(|address| !addresses.contains(address)) {
        found.push(format!("prevResult does not have address {address} on {}", attachment.ifname));
    }
    Ok(found)
}

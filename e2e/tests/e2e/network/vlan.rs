//! VLANs on the bridge of `dunnage-cni`: for kernels whose bridges keep them apart.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Node, alone};
use crate::place::{OUTSIDE, Place, UPLINK, connects, run};

const ASIDE: &str = "not on this machine: its kernel is without VLANs on bridges (BRIDGE_VLAN_FILTERING)";

/// Whether bridges of this kernel keep VLANs apart: one without ignores that it is asked to.
fn has_vlans() -> Result<bool> {
    let ask = "ip link add name vlans type bridge vlan_filtering 1 && ip -d link show vlans";
    let told = Command::new("unshare").args(["--net", "sh", "-c", ask]).output().context("start unshare")?;
    Ok(String::from_utf8_lossy(&told.stdout).contains("vlan_filtering 1"))
}

/// Our plugin alone, with pods on a bridge and more keys.
fn on_a_bridge(keys: &Value) -> Value {
    let mut plugins = alone();
    plugins[0]["bridge"] = json!("cni0");
    plugins[0]["isGateway"] = json!(true);
    for (key, value) in keys.as_object().into_iter().flatten() {
        plugins[0][key] = value.clone();
    }
    plugins
}

/// That nobody answers, not even with a refusal. Whoever were let through would be refused at once: nobody listens
/// there.
fn nobody_answers(from: &Place, to: (IpAddr, u16)) -> Result<()> {
    let tried = from.run(|| TcpStream::connect_timeout(&to.into(), Duration::from_secs(3)));
    let unheard = [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable];
    ensure!(tried.as_ref().is_err_and(|error| unheard.contains(&error.kind())), "{tried:?}");
    Ok(())
}

#[tokio::test]
async fn pods_in_a_vlan_reach_each_other_and_outside_and_nobody_else_on_their_bridge_reaches_them()
-> Result<()> {
    if !has_vlans()? {
        println!("{ASIDE}");
        return Ok(());
    }
    let node = Node::new(&on_a_bridge(&json!({"vlan": 7}))).await?;
    let (a, b) = (node.plain("a").await?, node.plain("b").await?);
    let (to_a, to_b) = (node.addresses(&a).await?[0], node.addresses(&b).await?[0]);
    let (in_a, in_b) = (node.place(&a).await?, node.place(&b).await?);
    ensure!(connects(&in_b, &in_a, 81, (to_a, 81))? == to_b, "pod to pod");
    connects(&node.host, &in_a, 81, (to_a, 81)).context("host to pod")?;
    ensure!(connects(&in_a, &node.outside, 81, (OUTSIDE, 81))? == UPLINK, "pod to outside");

    for arguments in [
        "netns add stranger",
        "link add stranger0 master cni0 type veth peer name eth0 netns stranger",
        "link set stranger0 up",
        "-n stranger addr add 10.88.200.1/16 dev eth0",
        "-n stranger link set eth0 up",
    ] {
        run("ip", arguments)?;
    }
    let stranger = Place::open(Path::new("/run/netns/stranger"))?;
    nobody_answers(&stranger, (to_a, 81)).context("somebody who is in no VLAN")?;
    drop((in_a, in_b, stranger));
    run("ip", "link del stranger0")?;
    run("ip", "netns del stranger")?;
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

/// Gives a pod an interface in a VLAN of its own making, by its `eth0`.
fn join_vlan(pod: &Place, vlan: u16, address: &str) -> Result<()> {
    for arguments in [
        format!("link add link eth0 name eth0.{vlan} type vlan id {vlan}"),
        format!("addr add {address} dev eth0.{vlan}"),
        format!("link set eth0.{vlan} up"),
    ] {
        pod.run(|| run("ip", &arguments).map_err(io::Error::other))?;
    }
    Ok(())
}

#[tokio::test]
async fn pods_on_a_trunk_reach_each_other_by_its_vlans_and_by_none_besides() -> Result<()> {
    if !has_vlans()? {
        println!("{ASIDE}");
        return Ok(());
    }
    let trunk = json!({"vlanTrunk": [{"id": 7}, {"minID": 20, "maxID": 29}]});
    let node = Node::new(&on_a_bridge(&trunk)).await?;
    let (a, b) = (node.plain("a").await?, node.plain("b").await?);
    let (to_a, to_b) = (node.addresses(&a).await?[0], node.addresses(&b).await?[0]);
    let (in_a, in_b) = (node.place(&a).await?, node.place(&b).await?);
    ensure!(connects(&in_b, &in_a, 81, (to_a, 81))? == to_b, "pod to pod without a tag");
    connects(&node.host, &in_a, 81, (to_a, 81)).context("host to pod without a tag")?;
    ensure!(connects(&in_a, &node.outside, 81, (OUTSIDE, 81))? == UPLINK, "pod to outside without a tag");

    for vlan in [7, 20, 29, 30] {
        join_vlan(&in_a, vlan, &format!("10.99.{vlan}.1/24"))?;
        join_vlan(&in_b, vlan, &format!("10.99.{vlan}.2/24"))?;
    }
    for vlan in [7, 20, 29] {
        let (at_a, at_b) = ([10, 99, vlan, 1], [10, 99, vlan, 2]);
        let seen = connects(&in_b, &in_a, 82, (at_a.into(), 82)).with_context(|| format!("VLAN {vlan}"))?;
        ensure!(seen == IpAddr::from(at_b), "VLAN {vlan}: {seen}");
    }
    nobody_answers(&in_b, ([10, 99, 30, 1].into(), 82)).context("a VLAN that is not in the trunk")?;
    drop((in_a, in_b));
    for pod in [a, b] {
        node.cri.remove_pod(&pod).await?;
    }
    node.require_nothing_left().await
}

#[tokio::test]
async fn a_pod_is_in_its_own_vlans_alone_when_the_default_one_is_not_preserved() -> Result<()> {
    if !has_vlans()? {
        println!("{ASIDE}");
        return Ok(());
    }
    // Where the address of a pod is whose frames are checked, the bridge is told for each of its VLANs.
    let keys = json!({"vlan": 7, "vlanTrunk": [{"id": 9}, {"minID": 20, "maxID": 22}], "preserveDefaultVlan": false,
        "macspoofchk": true});
    let node = Node::new(&on_a_bridge(&keys)).await?;
    let pod = node.plain("a").await?;
    let address = node.addresses(&pod).await?[0];
    let IpAddr::V4(v4) = address else { bail!("{address} is not of IPv4") };
    let told = run("bridge", &format!("vlan show dev dnp{:08x}", u32::from(v4)))?;
    let vlans: Vec<u16> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(vlans == [7, 9, 20, 21, 22] && told.contains("7 PVID Egress Untagged"), "{told}");
    connects(&node.host, &node.place(&pod).await?, 81, (address, 81)).context("host to pod")?;
    node.cri.remove_pod(&pod).await?;
    node.require_nothing_left().await
}

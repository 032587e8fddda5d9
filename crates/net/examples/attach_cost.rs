//! What attaching and detaching cost without a program of their own: `attach_cost NETNS STATE_DIR NETWORK SUBNET`.
//!
//! Works in that network namespace. Reads lines `add NETNS ID PORT` and `del ID` from stdin, answers each with a
//! line of microseconds. `make bench` drives it beside `e2e/floor/net.c`, which sends the bare messages.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use dunnage_net::{HostPort, Netns, NetworkConfig, Owner, PodNetwork, Protocol, Ranges};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, state_dir, name, subnet] = &arguments[..] else {
        bail!("usage: attach_cost NETNS STATE_DIR NETWORK SUBNET");
    };
    let config = NetworkConfig {
        name: name.parse()?,
        state_dir: state_dir.into(),
        ranges: Ranges::of(subnet.parse()?, None),
        ..NetworkConfig::local()
    };
    Netns::open(Path::new(host))?.run(|| serve(config))?
}

fn serve(config: NetworkConfig) -> anyhow::Result<()> {
    let mut network = PodNetwork::open(config)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let took = match words[..] {
            ["add", netns, id, port] => add(&mut network, Path::new(netns), id, port.parse()?),
            ["del", id] => del(&mut network, id),
            _ => bail!("{line:?} is not understood"),
        };
        println!("{:.1}", took.context(line)?);
    }
    Ok(())
}

fn add(network: &mut PodNetwork, netns: &Path, id: &str, port: u16) -> anyhow::Result<f64> {
    let owner = Owner::new(id, "eth0".parse()?)?;
    let netns = Netns::open(netns)?;
    let ports = [HostPort { host_ip: None, host_port: port, container_port: 80, protocol: Protocol::Tcp }];
    let started = Instant::now();
    network.attach(&owner, &netns, &ports)?;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}

fn del(network: &mut PodNetwork, id: &str) -> anyhow::Result<f64> {
    let owner = Owner::new(id, "eth0".parse()?)?;
    let started = Instant::now();
    network.detach(&owner)?;
    Ok(started.elapsed().as_secs_f64() * 1e6)
}

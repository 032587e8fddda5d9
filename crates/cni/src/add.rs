//! ADD: gives a container its interface.

use dunnage_net::PodNetwork;

use crate::conf::{Conf, Role};
use crate::env::Environment;
use crate::error::{Error, INVALID_CONFIG, Result};
use crate::{loopback, output, result};

pub(crate) fn run(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    match conf.role {
        Role::Loopback => loopback::add(environment, conf),
        Role::Ports => open_ports(environment, conf),
        Role::Interface => attach(environment, conf),
    }
}

fn attach(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    let (owner, netns) = (environment.owner()?, environment.netns()?);
    let mut network = PodNetwork::open(conf.network.clone())?;
    let first = !network.has_begun();
    let attachment = network.attach_pod(owner, &netns, &conf.request)?;
    if first {
        // Once for each boot: containerd copies it to its log.
        network.warnings()?.iter().for_each(|warning| output::note(warning));
    }
    let told = result::of_attachment(conf, environment, &attachment).and_then(|result| output::json(&result));
    // A runtime that did not hear of the interface does not know it: nothing may be left.
    told.inspect_err(|_| drop(network.detach(owner)))
}

/// Behind itself in the list, in the place of `portmap`, `bandwidth` or `firewall`.
fn open_ports(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    if !conf.request.ports.is_empty() {
        let mut network = PodNetwork::open(conf.network.clone())?;
        let owner = environment.owner()?;
        if network.attachment(owner)?.is_none() {
            return Err(Error::new(INVALID_CONFIG, "host ports are supported for pods of this plugin only")
                .because(format!("{owner} was attached by another plugin of the list")));
        }
        network.open_ports(owner, &conf.request.ports)?;
    }
    let asks_for_more = conf.request.to_pod.is_some() || conf.request.from_pod.is_some();
    if asks_for_more || !conf.request.sysctls.is_empty() || conf.request.mac.is_some() {
        return Err(Error::new(
            INVALID_CONFIG,
            "only host ports can be asked for behind the plugin that makes the interface",
        )
        .because("put bandwidth, sysctl and mac, or their capabilities, into its configuration"));
    }
    output::json(&result::passed_on(conf))
}

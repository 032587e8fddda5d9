//! ADD: gives a container its interface.

use dunnage_net::{Detached, LinkOptions, Owner, PodNetwork};

use crate::conf::{Conf, Role};
use crate::env::Environment;
use crate::error::{Error, INVALID_CONFIG, Result};
use crate::{forward, loopback, output, result};

pub(crate) fn run(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    match conf.role {
        Role::Loopback => loopback::add(environment, conf),
        Role::Addition => add_to(environment, conf),
        Role::Interface => attach(environment, conf),
    }
}

fn attach(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    let (owner, netns) = (environment.owner()?, environment.netns()?);
    let mut network = PodNetwork::open(conf.network.clone())?;
    let first = !network.has_begun();
    let attachment = network.attach_pod(owner, &netns, &conf.request)?;
    if conf.lets_pass {
        forward::let_pass(&mut network, owner)
            .inspect_err(|_| take_back(&mut network, owner, conf.lets_pass))?;
    }
    if first {
        // Once for each boot: containerd copies it to its log.
        match network.warnings() {
            Ok(warnings) => warnings.iter().for_each(|warning| output::note(warning)),
            // The pod is attached all the same.
            Err(error) => output::note(&format!("who drops what this host forwards is unknown: {error}")),
        }
    }
    let told = result::of_attachment(conf, environment, &attachment).and_then(|result| output::json(&result));
    // A runtime that did not hear of the interface does not know it: nothing may be left.
    told.inspect_err(|_| take_back(&mut network, owner, conf.lets_pass))
}

fn take_back(network: &mut PodNetwork, owner: &Owner, lets_pass: bool) {
    let detached = network.release(owner, None);
    let _ = detached.map(|detached| detached.map(Detached::destroy));
    if lets_pass {
        let _ = network.stop_passing_if_unused();
    }
}

/// Behind itself in the list, in the place of `portmap`, `bandwidth`, `tuning` or `firewall`.
fn add_to(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    let request = &conf.request;
    if request.mac.is_some() {
        return Err(Error::new(INVALID_CONFIG, "mac can be asked for only where the interface is made")
            .because("put it, or its capability, into the configuration that has ipam"));
    }
    let asks_for_interface = request.to_pod.is_some() || request.from_pod.is_some();
    let asks_for_link = request.link != LinkOptions::default() || !request.sysctls.is_empty();
    if asks_for_interface || asks_for_link || !request.ports.is_empty() || conf.lets_pass {
        let mut network = PodNetwork::open(conf.network.clone())?;
        let owner = environment.owner()?;
        if network.attachment(owner)?.is_none() {
            return Err(Error::new(INVALID_CONFIG, "only pods of this plugin can be given more")
                .because(format!("{owner} was attached by another plugin of the list")));
        }
        network.add_to_pod(owner, &environment.netns()?, request)?;
        if conf.lets_pass {
            forward::let_pass(&mut network, owner)?;
        }
    }
    output::json(&result::passed_on(conf))
}

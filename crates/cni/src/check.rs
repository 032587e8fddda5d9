//! CHECK: whether a container's interface is as it was made.

use dunnage_net::{Owner, PodNetwork};

use crate::conf::{Conf, Role};
use crate::env::Environment;
use crate::error::{DIFFERENT, Error, Result};
use crate::{loopback, result};

pub(crate) fn run(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    if conf.role == Role::Loopback {
        return loopback::check(environment);
    }
    let missing = || Error::config("prevResult is missing").because("CHECK compares with what ADD has told");
    let told = conf.prev_result.ok_or_else(missing)?;
    let (owner, netns) = (environment.owner()?, environment.netns()?);
    let mut network = PodNetwork::open(conf.network.clone())?;
    let Some(attachment) = network.attachment(owner)? else {
        return Err(different(&[format!("{owner} has no address lease")]));
    };
    if conf.role == Role::Addition {
        // The plugin before is this one, and has compared everything else.
        let mut found = network.addition_differences(owner, &netns, &conf.request)?;
        found.extend(passage_differences(&mut network, owner, conf)?);
        return verdict(&found);
    }
    let mut found = result::missing(told, environment.netns_path(), &attachment)?;
    found.extend(network.differences(owner, &netns, &conf.request)?);
    found.extend(passage_differences(&mut network, owner, conf)?);
    verdict(&found)
}

fn passage_differences(network: &mut PodNetwork, owner: &Owner, conf: &Conf<'_>) -> Result<Vec<String>> {
    if conf.lets_pass { Ok(network.passage_differences(owner)?) } else { Ok(Vec::new()) }
}

fn verdict(found: &[String]) -> Result<()> {
    if found.is_empty() { Ok(()) } else { Err(different(found)) }
}

fn different(found: &[String]) -> Error {
    Error::new(DIFFERENT, "the container's network is not as it was made").because(found.join("; "))
}

//! STATUS: whether ADD can work. Waits for nobody, because runtimes ask every few seconds.
//!
//! A network whose addresses are all leased is available: saying otherwise would have a kubelet evict the pods
//! that have them.

use dunnage_net::PodNetwork;

use crate::conf::{Conf, Role};
use crate::error::{Error, Result, UNAVAILABLE};

pub(crate) fn run(conf: Conf<'_>) -> Result<()> {
    if conf.role != Role::Interface {
        return Ok(());
    }
    let healthy = PodNetwork::open(conf.network).and_then(|mut network| network.health());
    healthy.map_err(|error| {
        let error = Error::from(error);
        let details =
            if error.details.is_empty() { error.msg } else { format!("{}; {}", error.msg, error.details) };
        Error::new(UNAVAILABLE, "pods cannot be attached").because(details)
    })
}

//! The plugin `loopback`: brings `lo` of a container up.

use serde_json::json;

use crate::conf::Conf;
use crate::env::Environment;
use crate::error::{DIFFERENT, Error, Result};
use crate::version::Version;
use crate::{output, result};

pub(crate) fn add(environment: &Environment, conf: &Conf<'_>) -> Result<()> {
    let netns = environment.netns()?;
    dunnage_net::bring_up_loopback(&netns)?;
    if conf.prev_result.is_some() {
        return output::json(&result::passed_on(conf));
    }
    let ip = |address: &str, family: &str| {
        let mut ip = json!({"address": address, "interface": 0});
        if conf.version < Version::V1_0_0 {
            ip["version"] = family.into();
        }
        ip
    };
    output::json(&json!({
        "cniVersion": conf.version.as_str(),
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": environment.netns_path()}],
        "ips": [ip("127.0.0.1/8", "4"), ip("::1/128", "6")],
        "dns": {},
    }))
}

pub(crate) fn check(environment: &Environment) -> Result<()> {
    if dunnage_net::loopback_is_up(&environment.netns()?)? {
        return Ok(());
    }
    Err(Error::new(DIFFERENT, "loopback of the container is down"))
}

//! What dunnage does not do, refused by its name. Values that ask for nothing pass.

use crate::error::{Checked, invalid, unsupported};
use crate::json;

/// Accepts every 1.x: newer versions only add members, and refusing them broke every container of a node
/// when a caller was upgraded first (crun 1.14.2).
pub(super) fn version(version: Option<&str>) -> Checked<()> {
    let Some(version) = version else { return invalid("ociVersion", "is missing") };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match core.split('.').collect::<Vec<_>>()[..] {
        ["1", minor, patch] if is_number(minor) && is_number(patch) => Ok(()),
        [major, minor, patch] if is_number(major) && is_number(minor) && is_number(patch) => {
            invalid("ociVersion", format!("{version:?} is not a version 1"))
        }
        _ => invalid("ociVersion", format!("{version:?} is no semantic version")),
    }
}

pub(super) fn unsupported_top_level(config: &json::Config) -> Checked<()> {
    if config.vm.as_ref().is_some_and(|vm| !json::is_blank(vm)) {
        return unsupported("vm", "virtual machines are");
    }
    let Some(hooks) = &config.hooks else { return Ok(()) };
    for (name, hooks) in [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ] {
        if asks(hooks) {
            return unsupported(format!("hooks.{name}"), "hooks are");
        }
    }
    Ok(())
}

/// Fields are named relative to `linux`.
pub(super) fn unsupported_linux(linux: &json::Linux) -> Checked<()> {
    if asks(&linux.uid_mappings) {
        return unsupported("uidMappings", "user namespaces are");
    }
    if asks(&linux.gid_mappings) {
        return unsupported("gidMappings", "user namespaces are");
    }
    if linux.time_offsets.as_ref().is_some_and(|offsets| !json::is_blank(offsets)) {
        return unsupported("timeOffsets", "time namespaces are");
    }
    if linux.net_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return unsupported("netDevices", "network devices moved into the container are");
    }
    if linux.intel_rdt.as_ref().is_some_and(|rdt| !json::is_blank(rdt)) {
        return unsupported("intelRdt", "cache and memory bandwidth allocation is");
    }
    if linux.memory_policy.as_ref().is_some_and(is_policy) {
        return unsupported("memoryPolicy", "NUMA memory policies are");
    }
    if linux.personality.as_ref().is_some_and(is_personality) {
        return unsupported("personality", "execution domains are");
    }
    Ok(())
}

fn asks<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn is_policy(policy: &json::MemoryPolicy) -> bool {
    let default = matches!(policy.mode.as_deref(), None | Some("" | "MPOL_DEFAULT"));
    let nodes = policy.nodes.as_ref().is_some_and(|nodes| !nodes.is_empty());
    !default || nodes || asks(&policy.flags)
}

// LINUX is the domain every process has.
fn is_personality(personality: &json::Personality) -> bool {
    let default = matches!(personality.domain.as_deref(), None | Some("" | "LINUX"));
    !default || asks(&personality.flags)
}

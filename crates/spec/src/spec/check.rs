//! Checks a whole `config.json`: each part by its own module, and what holds between the parts.

use std::path::{Path, PathBuf};

use crate::ContainerId;
use crate::document;
use crate::error::{Checked, Error, Within as _, invalid, unsupported};
use crate::json;
use crate::mount::{Mount, Propagation, PropagationKind, propagation};
use crate::namespace::Namespaces;
use crate::path::{clean, clean_from};
use crate::process::Process;
use crate::resources::{CgroupPath, Resources};
use crate::seccomp::Profile;
use crate::spec::{Device, Root, Spec, Sysctl, refuse};

impl Spec {
    /// Checks the text of a `config.json`. Relative paths are taken from `bundle`, an absolute path; `id`
    /// names the cgroup when the spec gives no path.
    ///
    /// # Errors
    /// `InvalidArgument` when it can never work, `Unimplemented` when it asks for what dunnage does not do.
    pub fn from_json(text: &[u8], bundle: &Path, id: &ContainerId) -> Result<Self, Error> {
        let document = "config.json";
        let config = document::parse(document, text)?;
        Self::check(config, bundle, id).map_err(|refusal| Error::Refused { document, refusal })
    }

    fn check(config: json::Config, bundle: &Path, id: &ContainerId) -> Checked<Self> {
        refuse::version(config.oci_version.as_deref())?;
        refuse::unsupported_top_level(&config)?;
        let mut warnings = Vec::new();
        let linux = config.linux.unwrap_or_default();
        refuse::unsupported_linux(&linux).within(|| "linux")?;
        let namespaces = Namespaces::check(linux.namespaces.unwrap_or_default()).within(|| "linux")?;
        if !namespaces.mount.is_own() {
            return unsupported("linux.namespaces", "containers in the host's mount namespace are");
        }
        let propagation = root_propagation(linux.rootfs_propagation).within(|| "linux")?;
        let check_process = |process| Process::check(process, &mut warnings).within(|| "process");
        let process = config.process.map(check_process).transpose()?;
        Ok(Self {
            root: root(config.root, propagation, bundle).within(|| "root")?,
            process,
            mounts: mounts(config.mounts.unwrap_or_default(), bundle, &mut warnings)?,
            hostname: host_name("hostname", config.hostname, &namespaces)?,
            domainname: host_name("domainname", config.domainname, &namespaces)?,
            devices: Device::check_all(linux.devices.unwrap_or_default()).within(|| "linux")?,
            sysctls: Sysctl::check_all(linux.sysctl.unwrap_or_default(), &namespaces)
                .within(|| "linux.sysctl")?,
            masked_paths: paths(linux.masked_paths, "linux.maskedPaths")?,
            readonly_paths: paths(linux.readonly_paths, "linux.readonlyPaths")?,
            seccomp: linux
                .seccomp
                .map(|seccomp| Profile::check(seccomp, &mut warnings).within(|| "linux.seccomp"))
                .transpose()?,
            mount_label: linux.mount_label.filter(|label| !label.is_empty()),
            cgroup: CgroupPath::check(linux.cgroups_path.as_deref(), id).within(|| "linux")?,
            resources: Resources::check(linux.resources.unwrap_or_default(), &mut warnings)
                .within(|| "linux.resources")?,
            annotations: config.annotations.unwrap_or_default(),
            namespaces,
            warnings,
        })
    }
}

fn root(root: Option<json::Root>, propagation: Propagation, bundle: &Path) -> Checked<Root> {
    let Some(root) = root else { return invalid("", "is missing") };
    let Some(path) = root.path.filter(|path| !path.is_empty()) else { return invalid("path", "is missing") };
    let path = clean_from(bundle, Path::new(&path));
    if path == Path::new("/") {
        return invalid("path", "is the root file system of the host");
    }
    Ok(Root { path, readonly: root.readonly.unwrap_or(false), propagation })
}

fn root_propagation(word: Option<String>) -> Checked<Propagation> {
    let word = word.unwrap_or_default();
    match propagation(&word) {
        Some(propagation) => Ok(propagation),
        None if word.is_empty() => Ok(Propagation { kind: PropagationKind::Private, recursive: true }),
        None => invalid("rootfsPropagation", format!("{word:?} is no propagation")),
    }
}

fn mounts(listed: Vec<json::Mount>, bundle: &Path, warnings: &mut Vec<String>) -> Checked<Vec<Mount>> {
    let check = |(i, mount)| Mount::check(mount, bundle, warnings).within(|| format!("mounts[{i}]"));
    listed.into_iter().enumerate().map(check).collect()
}

// In the host's UTS namespace it would rename the host.
fn host_name(field: &str, name: Option<String>, namespaces: &Namespaces) -> Checked<Option<String>> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    if !namespaces.uts.is_own() {
        return invalid(field, "needs a UTS namespace in linux.namespaces");
    }
    // __NEW_UTS_LEN.
    if name.len() > 64 {
        return invalid(field, format!("{name:?} is longer than 64 bytes"));
    }
    Ok(Some(name))
}

fn paths(listed: Option<Vec<String>>, field: &str) -> Checked<Vec<PathBuf>> {
    let check = |(i, path): (usize, String)| {
        let at = || format!("{field}[{i}]");
        if !path.starts_with('/') {
            return invalid(at(), format!("{path:?} is not absolute"));
        }
        let cleaned = clean(Path::new(&path));
        if cleaned == Path::new("/") {
            return invalid(at(), format!("{path:?} is the root file system itself"));
        }
        Ok(cleaned)
    };
    listed.unwrap_or_default().into_iter().enumerate().map(check).collect()
}

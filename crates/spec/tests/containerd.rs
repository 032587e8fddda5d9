//! What containerd writes is read as it means it. The fixtures are in the form of containerd 1.6 (cgroup v1,
//! cgroupfs driver) and 2.x (cgroup v2, systemd driver), from CRI and from `ctr`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use dunnage_spec::annotation::{Kubernetes, Role, group};
use dunnage_spec::mount::{Atime, Attributes, PropagationKind};
use dunnage_spec::process::{RlimitResource, WindowSize};
use dunnage_spec::resources::{CgroupPath, DeviceRuleKind, Limit};
use dunnage_spec::seccomp::{Action, Arch};
use dunnage_spec::{
    Bundle, ContainerId, ErrorKind, Mount, MountSource, Namespace, NamespaceKind, Qos, QosClass, QosEvidence,
    Spec,
};

const SANDBOX: &str = "0f6d1c0f1a5e4b7c8d9e0a1b2c3d4e5f60718293a4b5c6d7e8f9012345678901";

fn id() -> ContainerId {
    "c1".parse().unwrap()
}

fn load(fixture: &str) -> Spec {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let text = std::fs::read(file).unwrap();
    Spec::from_json(&text, Path::new("/run/bundle"), &id()).unwrap()
}

fn mount<'a>(spec: &'a Spec, destination: &str) -> &'a Mount {
    spec.mounts.iter().find(|mount| mount.destination == Path::new(destination)).unwrap()
}

#[test]
fn a_bundle_is_read_from_its_directory() {
    let bundle = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ctr-2.x-v2.json");
    std::fs::copy(fixture, bundle.path().join("config.json")).unwrap();
    let loaded = Bundle::load(bundle.path(), &id()).unwrap();
    assert_eq!(loaded.directory, bundle.path());
    assert_eq!(loaded.spec.root.path, bundle.path().join("rootfs"));
}

#[test]
fn a_bundle_without_a_config_tells_which_file_is_missing() {
    let bundle = tempfile::tempdir().unwrap();
    let error = Bundle::load(bundle.path(), &id()).unwrap_err();
    let file = bundle.path().join("config.json");
    assert_eq!(error.to_string(), format!("read {}: ENOENT (No such file or directory)", file.display()));
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn a_container_of_cri_1_6_on_cgroup_v1() {
    let spec = load("cri-1.6-v1-container.json");
    assert_eq!(spec.warnings, Vec::<String>::new());
    assert_eq!(spec.root.path, Path::new("/run/bundle/rootfs"));
    assert_eq!(
        (spec.root.propagation.kind, spec.root.propagation.recursive),
        (PropagationKind::Private, true)
    );

    let process = spec.process.as_ref().unwrap();
    assert_eq!(process.args, ["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"]);
    assert_eq!((process.user.uid, process.user.umask, process.terminal), (0, 0o022, None));
    // The usual 14, from chown to audit_write.
    assert_eq!(process.capabilities.bounding, 0xa804_25fb);
    assert_eq!((process.capabilities.inheritable, process.capabilities.ambient), (0, 0));
    assert_eq!(process.rlimits[0].resource, RlimitResource::Nofile);
    assert_eq!(process.oom_score_adj, Some(992));
    assert_eq!(process.apparmor_profile.as_deref(), Some("cri-containerd.apparmor.d"));

    let pod = "/kubepods/burstable/pod7d2f8f0e-4e5d-4f6f-9d5e-0c6a54b1f3a1";
    let CgroupPath::Cgroupfs(cgroup) = &spec.cgroup else { panic!("{:?}", spec.cgroup) };
    assert!(cgroup.starts_with(pod));
    let qos = Qos::of(&spec).unwrap();
    assert_eq!(qos.class, QosClass::Burstable);
    assert_eq!(qos.evidence, QosEvidence::CgroupPath(cgroup.to_str().unwrap().to_owned()));

    assert_eq!(spec.resources.memory.limit, Some(Limit::To(128 << 20)));
    assert_eq!(spec.resources.cpu.quota_us, Some(Limit::To(50_000)));
    let deny_all = spec.resources.devices[0];
    assert_eq!((deny_all.allow, deny_all.kind, deny_all.major), (false, DeviceRuleKind::All, None));
    assert!(deny_all.access.read && deny_all.access.write && deny_all.access.mknod);
}

#[test]
fn namespaces_of_a_pod_are_joined_by_path() {
    let spec = load("cri-2.x-v2-container.json");
    let join = |path: &str| Namespace::Join(PathBuf::from(path));
    for (kind, expected) in [
        (NamespaceKind::Pid, Namespace::New),
        (NamespaceKind::Mount, Namespace::New),
        (NamespaceKind::Cgroup, Namespace::New),
        (NamespaceKind::Ipc, join("/proc/4242/ns/ipc")),
        (NamespaceKind::Uts, join("/proc/4242/ns/uts")),
        (NamespaceKind::Network, join("/var/run/netns/cni-2d0b4f8e-1111-2222-3333-444455556666")),
    ] {
        assert_eq!(*spec.namespaces.get(kind), expected, "{kind:?}");
    }
    assert_eq!(*load("cri-1.6-v1-container.json").namespaces.get(NamespaceKind::Cgroup), Namespace::Host);
}

#[test]
fn a_container_of_cri_2_on_cgroup_v2() {
    let spec = load("cri-2.x-v2-container.json");
    let CgroupPath::Systemd { slice, prefix, .. } = &spec.cgroup else { panic!("{:?}", spec.cgroup) };
    assert_eq!(slice, "kubepods-burstable-pod7d2f8f0e_4e5d_4f6f_9d5e_0c6a54b1f3a1.slice");
    assert_eq!(prefix, "cri-containerd");
    assert_eq!(Qos::of(&spec).unwrap().class, QosClass::Burstable);
    assert_eq!(spec.resources.memory.swap, spec.resources.memory.limit);
    assert_eq!(spec.resources.unified["memory.oom.group"], "1");
    assert!(spec.process.as_ref().unwrap().no_new_privileges);
    assert_eq!(spec.process.as_ref().unwrap().user.additional_gids, [101, 2000]);

    let profile = spec.seccomp.as_ref().unwrap();
    assert_eq!(profile.default_action, Action::Errno(1));
    assert_eq!(profile.architectures, [Arch::X86_64, Arch::X86, Arch::X32]);
    assert!(profile.flags.spec_allow && !profile.flags.log);
    assert_eq!(profile.rules.last().unwrap().action, Action::Errno(38));
}

#[test]
fn mounts_of_cri_mean_what_their_options_say() {
    let spec = load("cri-2.x-v2-container.json");

    let MountSource::FileSystem { fs_type, source, options, superblock } = &mount(&spec, "/dev").source
    else {
        panic!("/dev is a tmpfs");
    };
    assert_eq!((fs_type.as_str(), source.as_str(), superblock.read_only), ("tmpfs", "tmpfs", false));
    let some = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
    assert_eq!(*options, [some("mode", "755"), some("size", "65536k")]);
    assert_eq!(mount(&spec, "/dev").attributes.atime, Some(Atime::Strictatime));
    assert!(mount(&spec, "/dev").attributes.set.nosuid);

    let MountSource::FileSystem { superblock, .. } = &mount(&spec, "/sys").source else {
        panic!("/sys is sysfs")
    };
    assert!(superblock.read_only && mount(&spec, "/sys").attributes.set.readonly);
    assert_eq!(mount(&spec, "/sys/fs/cgroup").source, MountSource::Cgroup);

    let hosts = mount(&spec, "/etc/hosts");
    assert!(matches!(hosts.source, MountSource::Bind { recursive: true, .. }));
    assert!(hosts.attributes.clear.readonly && hosts.propagation[0].recursive);
    assert_eq!((hosts.propagation.len(), hosts.propagation[0].kind), (1, PropagationKind::Private));

    let secrets = mount(&spec, "/var/run/secrets/kubernetes.io/serviceaccount");
    assert!(secrets.attributes.set.readonly && secrets.recursive.set.readonly);
    assert_eq!(hosts.recursive, Attributes::default());
}

#[test]
fn a_sandbox_of_cri_is_known_as_one() {
    let spec = load("cri-1.6-v1-sandbox.json");
    let kubernetes = Kubernetes::from_annotations(&spec.annotations).unwrap();
    assert_eq!((kubernetes.role, kubernetes.sandbox_id.as_str()), (Role::Sandbox, SANDBOX));
    assert_eq!(kubernetes.pod.name.as_deref(), Some("web-0"));
    assert_eq!(group(&spec.annotations), Some(SANDBOX));
    assert_eq!(spec.hostname.as_deref(), Some("web-0"));
    assert!(spec.root.readonly);
    let sysctls: Vec<_> =
        spec.sysctls.iter().map(|sysctl| (sysctl.path.as_str(), sysctl.value.as_str())).collect();
    let expected =
        [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];
    assert_eq!(sysctls, expected);
}

#[test]
fn a_container_of_ctr_has_no_pod_and_no_class() {
    let spec = load("ctr-2.x-v2.json");
    assert_eq!(spec.cgroup, CgroupPath::Cgroupfs("/default/shell".into()));
    assert_eq!(
        spec.process.as_ref().unwrap().terminal.unwrap().size,
        Some(WindowSize { rows: 40, columns: 132 })
    );
    assert!(spec.annotations.is_empty());
    assert_eq!(Kubernetes::from_annotations(&spec.annotations), None);
    assert_eq!(Qos::of(&spec), None);
}

use super::*;
use crate::bundle::{Machine, SandboxBundle};
use crate::image::{Config, Image};
use crate::manifest::Pod;
use dunnage_spec::{Bundle, Namespace, NamespaceKind, QosClass};

const MACHINE: Machine = Machine {
    unified: false,
    swap_accounting: true,
    memory: 8 << 30,
    bounding: (1 << 41) - 1,
    lowest_oom_score_adj: -1000,
};

/// One pod with all its parts in a directory of its own.
struct Fixture {
    dir: tempfile::TempDir,
    pod: Pod,
    image: Image,
    users: Users,
    machine: Machine,
}

impl Fixture {
    fn new(spec: &str) -> Self {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop}}\nspec:\n  restartPolicy: \
             Never\n{spec}"
        );
        let config = Config {
            entrypoint: vec!["/bin/app".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "A=image".to_owned()],
            user: Some("7:8".to_owned()),
            ..Config::default()
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            pod: Pod::parse(Path::new("pod.yaml"), &text).unwrap(),
            image: Image { layers: Vec::new(), config },
            users: Users::default(),
            machine: MACHINE,
        }
    }

    fn frame<'a>(&'a self, cgroup_parent: &'a str) -> PodFrame<'a> {
        PodFrame {
            pod: &self.pod,
            uid: "u-1",
            sandbox_id: "sandbox1",
            class: self.pod.qos_class(),
            cgroup_parent,
            netns: (!self.pod.host_network).then_some(Path::new("/run/netns/x")),
            hostname: "web",
            machine: self.machine,
        }
    }

    fn files(&self) -> PodFiles {
        // Without the mount of shared memory, which no document needs.
        PodFiles::at(self.dir.path())
    }

    fn write(&self) -> anyhow::Result<dunnage_spec::Spec> {
        let parent = kubelet::cgroup_parent("/dunnage", self.pod.qos_class(), "u-1");
        let frame = self.frame(&parent);
        let volumes = self
            .pod
            .volumes
            .iter()
            .map(|volume| (volume.name.clone(), Prepared { path: self.dir.path().join(&volume.name) }));
        let bundle = ContainerBundle {
            frame: &frame,
            container: &self.pod.containers[0],
            image: &self.image,
            users: &self.users,
            files: &self.files(),
            volumes: &volumes.collect(),
            sandbox_pid: 4711,
            folder: self.dir.path(),
        };
        let folder = tempfile::tempdir().unwrap();
        bundle.write(folder.path(), "c1")?;
        Ok(Bundle::load(folder.path(), &"c1".parse().unwrap()).unwrap().spec)
    }

    fn spec(&self) -> dunnage_spec::Spec {
        self.write().unwrap()
    }
}

fn container(lines: &str) -> Fixture {
    Fixture::new(&format!("  containers:\n    - name: c\n      image: x\n{lines}"))
}

#[test]
fn a_container_joins_the_sandbox_and_runs_what_image_and_manifest_say() {
    let spec =
        container("      env: [{name: A, value: pod}, {name: B, value: \"1\"}]\n      args: [x]\n").spec();
    let process = spec.process.as_ref().unwrap();
    assert_eq!(process.args, ["/bin/app", "x"]);
    assert_eq!(process.env, ["PATH=/bin", "HOSTNAME=web", "HOME=/", "A=pod", "B=1"]);
    assert_eq!((process.user.uid, process.user.gid), (7, 8));
    assert_eq!(process.oom_score_adj, Some(1000));
    let path = |kind| match spec.namespaces.get(kind) {
        Namespace::Join(path) => Some(path.display().to_string()),
        _ => None,
    };
    assert_eq!(path(NamespaceKind::Network).as_deref(), Some("/run/netns/x"));
    assert_eq!(path(NamespaceKind::Ipc).as_deref(), Some("/proc/4711/ns/ipc"));
    assert_eq!(path(NamespaceKind::Uts).as_deref(), Some("/proc/4711/ns/uts"));
    assert_eq!(path(NamespaceKind::Pid), None);
    let kubernetes = dunnage_spec::annotation::Kubernetes::from_annotations(&spec.annotations).unwrap();
    assert_eq!(kubernetes.container_name.as_deref(), Some("c"));
    assert_eq!(kubernetes.pod.namespace.as_deref(), Some("shop"));
    assert_eq!(dunnage_spec::Qos::of(&spec).unwrap().class, QosClass::BestEffort);
    assert!(spec.seccomp.is_some());
}

#[test]
fn limits_arrive_as_the_kubelet_would_send_them() {
    let fixture = container("      resources: {requests: {cpu: 250m}, limits: {cpu: 1, memory: 64Mi}}\n");
    let spec = fixture.spec();
    assert_eq!(spec.resources.cpu.shares, Some(256));
    assert_eq!(spec.resources.cpu.quota_us, Some(dunnage_spec::resources::Limit::To(100_000)));
    assert_eq!(spec.resources.memory.limit, Some(dunnage_spec::resources::Limit::To(64 << 20)));
    assert_eq!(spec.resources.memory.swap, Some(dunnage_spec::resources::Limit::To(64 << 20)));
    // 64 MiB of 8 GiB.
    assert_eq!(spec.process.as_ref().unwrap().oom_score_adj, Some(993));
    let unified = Fixture { machine: Machine { unified: true, ..MACHINE }, ..fixture };
    assert_eq!(unified.spec().resources.unified["memory.oom.group"], "1");
}

#[test]
fn a_score_this_process_may_not_set_is_raised_to_one_it_may() {
    let guaranteed = container("      resources: {limits: {cpu: 1, memory: 64Mi}}\n");
    assert_eq!(guaranteed.spec().process.unwrap().oom_score_adj, Some(-997));
    let weak = Fixture { machine: Machine { lowest_oom_score_adj: 10, ..MACHINE }, ..guaranteed };
    assert_eq!(weak.spec().process.unwrap().oom_score_adj, Some(10));
}

#[test]
fn the_manifest_says_who_runs_and_root_is_refused_where_it_must_not() {
    let user =
        container("      securityContext: {runAsUser: 1000, runAsGroup: 5, runAsNonRoot: true}\n").spec();
    let user = user.process.unwrap().user;
    assert_eq!((user.uid, user.gid), (1000, 5));
    let root = container("      securityContext: {runAsUser: 0, runAsNonRoot: true}\n").write().unwrap_err();
    assert!(root.to_string().starts_with("runAsNonRoot"), "{root}");
    let groups = Fixture::new(
        "  securityContext: {fsGroup: 30, supplementalGroups: [40]}\n  containers: [{name: c, image: x}]\n",
    );
    assert_eq!(groups.spec().process.unwrap().user.additional_gids, [8, 30, 40]);
}

#[test]
fn volumes_take_the_place_of_defaults_and_outer_ones_come_first() {
    let fixture = Fixture::new(
        "  volumes: [{name: v}]\n  containers:\n    - name: c\n      image: x\n      volumeMounts:\n        - {name: v, \
         mountPath: /data/inner, readOnly: true}\n        - {name: v, mountPath: /data}\n        - {name: v, \
         mountPath: /etc/hosts/}\n",
    );
    let spec = fixture.spec();
    let places: Vec<String> =
        spec.mounts.iter().map(|mount| mount.destination.display().to_string()).collect();
    let at = |place: &str| places.iter().position(|other| other == place);
    assert!(at("/data") < at("/data/inner"), "{places:?}");
    assert_eq!(places.iter().filter(|place| place.trim_end_matches('/') == "/etc/hosts").count(), 1);
    assert!(at("/etc/resolv.conf").is_some() && at("/dev/shm").is_some());
}

#[test]
fn an_image_without_anything_to_run_says_so() {
    let mut fixture = container("");
    fixture.image.config.entrypoint.clear();
    assert!(fixture.write().unwrap_err().to_string().starts_with("nothing to run"));
}

#[test]
fn a_profile_beside_the_manifest_is_used() {
    let fixture =
        container("      securityContext: {seccompProfile: {type: Localhost, localhostProfile: p.json}}\n");
    assert!(format!("{:#}", fixture.write().unwrap_err()).contains("p.json"));
    std::fs::write(fixture.dir.path().join("p.json"), r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    assert!(fixture.spec().seccomp.is_some());
    let open = container("      securityContext: {seccompProfile: {type: Unconfined}}\n");
    assert!(open.spec().seccomp.is_none());
}

#[test]
fn the_sandbox_holds_the_namespaces_and_nothing_else() {
    let fixture = container("");
    let parent = kubelet::cgroup_parent("/dunnage", QosClass::BestEffort, "u-1");
    let frame = fixture.frame(&parent);
    let folder = tempfile::tempdir().unwrap();
    let files = fixture.files();
    let sandbox = SandboxBundle {
        frame: &frame,
        program: Path::new("/bin/true"),
        resolv_conf: &files.resolv_conf,
        shm: &files.shm,
    };
    sandbox.write(folder.path()).unwrap();
    let spec = Bundle::load(folder.path(), &"sandbox1".parse().unwrap()).unwrap().spec;
    assert_eq!(spec.process.as_ref().unwrap().args, ["/pause", "__pause"]);
    assert_eq!(spec.process.as_ref().unwrap().capabilities, dunnage_spec::process::Capabilities::default());
    assert_eq!(spec.hostname.as_deref(), Some("web"));
    let role = dunnage_spec::annotation::Kubernetes::from_annotations(&spec.annotations).unwrap().role;
    assert_eq!(role, dunnage_spec::annotation::Role::Sandbox);
}

use super::*;
use crate::manifest::{HostPathKind, Seccomp, Source};

/// A pod with these lines under `spec:`, indented by two.
fn with_spec(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n{spec}")
}

fn parse(text: &str) -> Result<Pod, ManifestError> {
    Pod::parse(Path::new("pod.yaml"), text)
}

fn pod(spec: &str) -> Pod {
    parse(&with_spec(spec)).unwrap()
}

/// The messages a manifest is refused with.
fn faults(spec: &str) -> Vec<String> {
    parse(&with_spec(spec)).unwrap_err().to_string().lines().map(str::to_owned).collect()
}

/// One container, with these lines, indented by six.
fn with_container(lines: &str) -> String {
    format!("  restartPolicy: Never\n  containers:\n    - name: c\n      image: rootfs:x\n{lines}")
}

fn container(lines: &str) -> Container {
    pod(&with_container(lines)).containers.remove(0)
}

#[test]
fn an_ordinary_pod_is_read_whole() {
    let pod = pod(r#"
  restartPolicy: OnFailure
  hostname: web
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 5
  securityContext: {runAsUser: 1000, fsGroup: 2000, supplementalGroups: [3000, 4000]}
  volumes:
    - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 64Mi}}
    - {name: host, hostPath: {path: /srv, type: Directory}}
    - {name: plain}
  initContainers:
    - {name: prepare, image: "oci:img", command: [sh, -c, "true"]}
  containers:
    - name: server
      image: oci-archive:x.tar:v1
      command: ["/bin/server", "--port=$(PORT)", "$(UNKNOWN)"]
      args: ["$$(PORT)"]
      env:
        - {name: PORT, value: "80"}
        - {name: URL, value: "http://x:$(PORT)/$(LATER)"}
        - {name: LATER, value: "1"}
        - {name: EMPTY}
      workingDir: /srv
      ports: [{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}]
      resources:
        requests: {cpu: 0.1, memory: 32Mi}
        limits: {cpu: "1", memory: 64Mi}
      securityContext:
        runAsUser: 1001
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
        seccompProfile: {type: Localhost, localhostProfile: profiles/x.json}
      volumeMounts:
        - {name: scratch, mountPath: /tmp}
        - {name: host, mountPath: /host, readOnly: true, mountPropagation: HostToContainer}
"#);
    assert_eq!((pod.name.as_str(), pod.namespace.as_str(), pod.hostname.as_str()), ("p", "default", "web"));
    assert_eq!((pod.restart, pod.grace), (RestartPolicy::OnFailure, Duration::from_secs(5)));
    assert_eq!((pod.fs_group, pod.supplemental_groups.as_slice()), (Some(2000), &[3000, 4000][..]));
    assert!(pod.share_process_namespace && !pod.host_network);
    assert_eq!(pod.volumes[0].source, Source::EmptyDir { memory: true, size_limit: Some(64 << 20) });
    let host = Source::HostPath { path: "/srv".to_owned(), kind: HostPathKind::Directory };
    assert_eq!(pod.volumes[1].source, host);
    assert_eq!(pod.volumes[2].source, Source::EmptyDir { memory: false, size_limit: None });
    assert_eq!(pod.init_containers[0].security.user, Some(1000));
    let server = &pod.containers[0];
    assert_eq!(server.command, ["/bin/server", "--port=80", "$(UNKNOWN)"]);
    assert_eq!(server.args, ["$(PORT)"]);
    let env: Vec<_> = server.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["PORT=80", "URL=http://x:80/$(LATER)", "LATER=1", "EMPTY="]);
    assert_eq!(server.resources.cpu.request.unwrap().millis(), 100);
    assert_eq!(server.resources.memory.limit.unwrap().whole(), 64 << 20);
    let security = &server.security;
    assert_eq!(security.user, Some(1001));
    assert!(security.no_new_privileges && security.read_only_root && security.drop.all);
    assert_eq!(security.seccomp, Seccomp::Localhost("profiles/x.json".to_owned()));
    assert!(server.mounts[1].read_only && server.mounts[1].from_host && !server.mounts[0].read_only);
    assert_eq!(server.ports[1].protocol, dunnage_net::Protocol::Udp);
}

#[test]
fn a_field_nobody_reads_is_refused_with_its_place_and_path() {
    assert_eq!(
        faults(&with_container("      comand: [x]\n      resources: {limits: {gpu/x: 1}}\n")),
        [
            "pod.yaml:10:7: spec.containers[0].comand: is no field that dunnage knows; did you mean `command`?",
            "pod.yaml:11:28: spec.containers[0].resources.limits[gpu/x]: is not supported: only cpu and memory are",
        ]
    );
    let top = parse("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspecs: {}\n").unwrap_err().to_string();
    assert!(
        top.contains("pod.yaml:4:1: specs: is no field that dunnage knows; did you mean `spec`?"),
        "{top}"
    );
    assert!(top.contains("spec: is missing"), "{top}");
}

#[test]
fn a_field_that_would_change_the_run_is_refused_by_name() {
    for (lines, path) in [
        ("      securityContext: {privileged: true}\n", "spec.containers[0].securityContext.privileged"),
        ("      livenessProbe: {}\n", "spec.containers[0].livenessProbe"),
        ("      lifecycle: {}\n", "spec.containers[0].lifecycle"),
        ("      envFrom: []\n", "spec.containers[0].envFrom"),
        ("      tty: true\n", "spec.containers[0].tty"),
        ("      restartPolicy: Always\n", "spec.containers[0].restartPolicy"),
        ("      imagePullPolicy: Always\n", "spec.containers[0].imagePullPolicy"),
        ("      env: [{name: X, valueFrom: {}}]\n", "spec.containers[0].env[0].valueFrom"),
        ("  hostPID: true\n", "spec.hostPID"),
        ("  hostUsers: false\n", "spec.hostUsers"),
        ("  nodeSelector: {a: b}\n", "spec.nodeSelector"),
        ("  dnsPolicy: ClusterFirst\n", "spec.dnsPolicy"),
        ("  runtimeClassName: gvisor\n", "spec.runtimeClassName"),
        ("  serviceAccountName: x\n", "spec.serviceAccountName"),
        ("  volumes: [{name: x, secret: {}}]\n", "spec.volumes[0].secret"),
        ("  securityContext: {sysctls: []}\n", "spec.securityContext.sysctls"),
    ] {
        let faults = faults(&with_container(lines));
        assert_eq!(faults.len(), 1, "{lines}: {faults:?}");
        assert!(faults[0].contains(&format!(": {path}: ")), "{lines}: {faults:?}");
        assert!(faults[0].contains("not supported"), "{lines}: {faults:?}");
    }
}

#[test]
fn fields_that_say_nothing_on_one_machine_pass() {
    let pod = parse(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a.b\n  namespace: n\n  labels: {app: x}\n  \
         annotations: {k.io/x: \"1\"}\n  creationTimestamp: null\n  uid: u\nspec:\n  restartPolicy: Never\n  \
         dnsPolicy: Default\n  tolerations: []\n  enableServiceLinks: true\n  automountServiceAccountToken: \
         false\n  hostPID: false\n  runtimeClassName: dunnage\n  os: {name: linux}\n  containers:\n    - name: \
         c\n      image: rootfs:x\n      tty: false\n      imagePullPolicy: Never\n      resources: {}\n      \
         livenessProbe: ~\nstatus: {phase: Running}\n",
    )
    .unwrap();
    assert_eq!((pod.hostname.as_str(), pod.namespace.as_str()), ("a.b", "n"));
    assert_eq!(pod.annotations["k.io/x"], "1");
    assert_eq!(pod.grace, DEFAULT_GRACE);
}

#[test]
fn the_restart_policy_must_be_stated_and_end() {
    let missing = faults("  containers: [{name: c, image: x}]\n");
    assert!(missing[0].contains("spec.restartPolicy: must be stated: Never or OnFailure"), "{missing:?}");
    let always = faults("  restartPolicy: Always\n  containers: [{name: c, image: x}]\n");
    assert!(
        always[0].starts_with("pod.yaml:6:18: spec.restartPolicy: Always is not supported"),
        "{always:?}"
    );
}

#[test]
fn values_of_another_type_are_refused_as_kubernetes_refuses_them() {
    let faults = faults(&with_container(
        "      args: [1, yes, ok]\n      env: [{name: A, value: 80}]\n      ports: [{containerPort: 70000}]\n",
    ));
    assert_eq!(
        faults,
        [
            "pod.yaml:10:14: spec.containers[0].args[0]: a string is wanted, this is a number; write \"1\"",
            "pod.yaml:10:17: spec.containers[0].args[1]: a string is wanted, this is a boolean; write \"yes\"",
            "pod.yaml:11:30: spec.containers[0].env[0].value: a string is wanted, this is a number; write \"80\"",
            "pod.yaml:12:31: spec.containers[0].ports[0].containerPort: 70000 is not a whole number from 1 to 65535",
        ]
    );
}

#[test]
fn resources_are_checked_against_each_other() {
    let request = faults(&with_container("      resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}\n"));
    assert!(
        request[0].contains("resources.requests.cpu: the request 2 is more than the limit 1.5"),
        "{request:?}"
    );
    let slip = faults(&with_container("      resources: {limits: {memory: 400m}}\n"));
    assert!(slip[0].contains("0.4 bytes; memory comes in whole bytes"), "{slip:?}");
    let unit = faults(&with_container("      resources: {limits: {cpu: 1x}}\n"));
    assert!(unit[0].starts_with("pod.yaml:10:33: spec.containers[0].resources.limits.cpu: `1x`"), "{unit:?}");
    let limit_only = container("      resources: {limits: {cpu: 1}}\n");
    assert_eq!(limit_only.resources.cpu.request, limit_only.resources.cpu.limit);
}

#[test]
fn host_ports_are_read_with_their_address() {
    let ports = container(
        "      ports: [{containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}, {containerPort: 53, hostPort: 53, \
         hostIP: 0.0.0.0, protocol: UDP}]\n",
    )
    .ports;
    let first = ports[0].host.unwrap();
    assert_eq!((first.host_port, first.container_port, first.host_ip), (8080, 80, "127.0.0.1".parse().ok()));
    assert_eq!(ports[1].host.unwrap().host_ip, None);
    let faults =
        faults(&with_container("      ports: [{containerPort: 80, hostPort: 8080, hostIP: localhost}]\n"));
    assert!(faults[0].contains("hostIP: `localhost` is no IP address"), "{faults:?}");
    let other = self::faults(&format!(
        "{}  hostNetwork: true\n",
        with_container("      ports: [{containerPort: 80, hostPort: 8080}]\n")
    ));
    assert!(other[0].contains("with hostNetwork the host port is the container's port"), "{other:?}");
}

#[test]
fn names_must_fit_and_be_the_only_ones() {
    let faults = faults(
        "  restartPolicy: Never\n  volumes: [{name: v}, {name: v}, {name: V}]\n  containers:\n    - {name: c, \
         image: x, volumeMounts: [{name: w, mountPath: /a}, {name: v, mountPath: b}]}\n    - {name: c, image: x}\n",
    );
    let texts =
        ["another volume is called `v`", "`V` must be", "no volume `w`", "absolute path", "called `c`"];
    assert_eq!(faults.len(), texts.len(), "{faults:?}");
    for text in texts {
        assert!(faults.iter().any(|fault| fault.contains(text)), "{text}: {faults:?}");
    }
}

#[test]
fn capabilities_are_named_as_in_a_pod() {
    let faults = faults(&with_container(
        "      securityContext: {capabilities: {add: [CAP_NET_ADMIN, NET_FLY, SYS_ADMIN]}, \
         allowPrivilegeEscalation: false}\n",
    ));
    assert!(faults[0].contains("written without CAP_ in a Pod: `NET_ADMIN`"), "{faults:?}");
    assert!(faults[1].contains("`NET_FLY` is no capability"), "{faults:?}");
    assert!(faults[2].contains("cannot be false beside capabilities.add SYS_ADMIN"), "{faults:?}");
}

#[test]
fn the_class_follows_the_rule_of_kubernetes() {
    let class = |inits: &str, containers: &str| {
        let init = if inits.is_empty() { String::new() } else { format!("  initContainers: [{inits}]\n") };
        pod(&format!("  restartPolicy: Never\n{init}  containers: [{containers}]\n")).qos_class()
    };
    let both = "limits: {cpu: 1, memory: 1Mi}";
    let bare = "{name: b, image: x}";
    let full = format!("{{name: f, image: x, resources: {{{both}}}}}");
    assert_eq!(class("", bare), QosClass::BestEffort);
    assert_eq!(class("", &full), QosClass::Guaranteed);
    assert_eq!(class("", &format!("{full}, {bare}")), QosClass::Burstable);
    assert_eq!(class("{name: i, image: x}", &full), QosClass::Burstable);
    let with = |resources: &str| class("", &format!("{{name: a, image: x, resources: {{{resources}}}}}"));
    assert_eq!(with("limits: {memory: 1Mi}"), QosClass::Burstable);
    assert_eq!(with("requests: {cpu: 0}"), QosClass::BestEffort);
    assert_eq!(with(&format!("{both}, requests: {{cpu: 500m}}")), QosClass::Burstable);
    assert_eq!(with(&format!("{both}, requests: {{cpu: 1000m, memory: 1024Ki}}")), QosClass::Guaranteed);
}

#[test]
fn what_is_not_a_pod_says_so() {
    let deployment =
        parse("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {}\n").unwrap_err();
    assert!(deployment.to_string().contains("kind: `Deployment` is not supported: `pod run` runs one Pod"));
    let list = parse("- a\n").unwrap_err().to_string();
    assert!(list.contains("pod.yaml:1:1: a mapping is wanted, this is a list"), "{list}");
    let broken = parse("a: [\n").unwrap_err().to_string();
    assert!(broken.starts_with("pod.yaml:1:4: not YAML: "), "{broken}");
}

#[test]
fn the_host_name_is_the_name_of_the_pod_cut_to_what_linux_takes() {
    let name = format!("{}.{}", "a".repeat(62), "b".repeat(10));
    let text = with_spec("  restartPolicy: Never\n  containers: [{name: c, image: x}]\n")
        .replace("name: p", &format!("name: {name}"));
    assert_eq!(parse(&text).unwrap().hostname, "a".repeat(62));
}

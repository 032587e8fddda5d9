//! What must hold for the plan of every spec: the order of its steps, its slots and its text.

mod fixture;

use std::path::PathBuf;

use dunnage_plan::{FilterCache, HostFacts, Phase, Plan, Slot, Step};
use dunnage_spec::mount::{Atime, AttributeSet, Attributes, Mount, MountSource, Superblock};
use dunnage_spec::namespace::{Namespace, NamespaceKind};
use dunnage_spec::process::{Capabilities, Process, Rlimit, RlimitResource, Terminal, User};
use dunnage_spec::seccomp::{Action, Arch, Flags, Profile};
use dunnage_spec::{Device, DeviceKind, Spec, Sysctl};
use proptest::prelude::*;

use fixture::{CRI_APP, CTR_RUN, MINIMAL, edited, error, lower, parsed, place, v1};

type Is = fn(&Step) -> bool;

macro_rules! is {
    ($pattern:pat) => {
        (|step| matches!(step, $pattern)) as Is
    };
}

/// Every step of the first kind stands before every step of the second, and why a container breaks otherwise.
const ORDER: [(Is, Is, &str); 32] = [
    (
        is!(Step::SetOomScore(_)),
        is!(Step::JoinNamespace { .. }),
        "a joined mount namespace has another /proc",
    ),
    (is!(Step::JoinCgroups), is!(Step::NewCgroupNamespace), "its root is the cgroup of that moment"),
    (is!(Step::NewCgroupNamespace), is!(Step::MountFileSystem { .. }), "a cgroup mount shows its root"),
    (is!(Step::SetRootPropagation(_)), is!(Step::AttachRootfs(_)), "the mount would reach the host"),
    (is!(Step::AttachRootfs(_)), is!(Step::MountFileSystem { .. }), "targets are below the root"),
    (is!(Step::AttachRootfs(_)), is!(Step::BindMount { .. }), "targets are below the root"),
    (is!(Step::MountFileSystem { .. }), is!(Step::MakeNode { .. }), "the node would be covered"),
    (is!(Step::MakeNode { .. }), is!(Step::SetReadonly { .. }), "no node in a read-only /dev"),
    (is!(Step::BindMount { .. }), is!(Step::PivotRoot), "the host's sources are gone then"),
    (is!(Step::OpenPrivateProc), is!(Step::WriteSysctl { .. }), "the register is empty"),
    (is!(Step::OpenPrivateProc), is!(Step::SetApparmorProfile(_)), "the register is empty"),
    (is!(Step::MountFileSystem { .. }), is!(Step::Mask { .. }), "the mask would be covered"),
    (is!(Step::MakeReadonly { .. }), is!(Step::Mask { .. }), "the mask would be covered"),
    (is!(Step::Mask { .. }), is!(Step::PivotRoot), "the host's /dev/null is gone then"),
    (is!(Step::PivotRoot), is!(Step::SetRootReadonly), "/ would be the host's"),
    (is!(Step::MakeWorkingDirectory(_)), is!(Step::SetRootReadonly), "no directory in a read-only root"),
    (is!(Step::SetStreams { .. }), is!(Step::SetIds { .. }), "the user cannot change owners"),
    (is!(Step::PivotRoot), is!(Step::SetStreams { .. }), "the null device would be the host's"),
    (
        is!(Step::MakeWorkingDirectory(_)),
        is!(Step::SetUmask(_)),
        "the directory would get the program's mask",
    ),
    (is!(Step::SetRlimit(_)), is!(Step::SetIds { .. }), "raising needs CAP_SYS_RESOURCE"),
    (is!(Step::SetApparmorProfile(_)), is!(Step::SetRlimit(_)), "the label is written to a file"),
    (is!(Step::SetApparmorProfile(_)), is!(Step::SetNoNewPrivileges), "the transition may be refused"),
    (is!(Step::ChangeDirectory(_)), is!(Step::SetIds { .. }), "without privileges"),
    (is!(Step::DropBounding { .. }), is!(Step::SetIds { .. }), "needs CAP_SETPCAP"),
    (is!(Step::KeepCapabilities(true)), is!(Step::SetIds { .. }), "the permitted set would be gone"),
    (is!(Step::SetGroups(_)), is!(Step::SetIds { .. }), "needs CAP_SETGID"),
    (is!(Step::SetIds { .. }), is!(Step::RetryChangeDirectory(_)), "the retry is the user's"),
    (is!(Step::RetryChangeDirectory(_)), is!(Step::VerifyWorkingDirectory), "CVE-2024-21626"),
    (is!(Step::SetIds { .. }), is!(Step::SetCapabilities { .. }), "the change of user empties the sets"),
    (is!(Step::SetCapabilities { .. }), is!(Step::SetAmbient(_)), "ambient needs permitted and inheritable"),
    (is!(Step::SetAmbient(_)), is!(Step::FindProgram), "the lookup is the user's"),
    (is!(Step::FindProgram), is!(Step::Ready), "a missing program fails the create"),
];

fn out_of_order(plan: &Plan) -> Option<&'static str> {
    let broken = |(first, second, why): &(Is, Is, &'static str)| {
        let last = plan.steps.iter().rposition(|planned| first(&planned.step));
        let next = plan.steps.iter().position(|planned| second(&planned.step));
        last.zip(next).filter(|(last, next)| last > next).map(|_| *why)
    };
    ORDER.iter().find_map(broken)
}

fn phases_go_backwards(plan: &Plan) -> bool {
    !plan.steps.is_sorted_by_key(|planned| planned.phase)
}

/// A plan with every step that [`ORDER`] speaks of, on v1.
fn rich() -> Plan {
    let host = HostFacts { apparmor: true, ..v1() };
    let namespaces = r#"[{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
        {"type": "network", "path": "/run/netns/a"}]"#;
    let spec = edited(
        CTR_RUN,
        &[
            ("/linux/namespaces", namespaces),
            ("/linux/sysctl", r#"{"net.ipv4.ip_forward": "1"}"#),
            ("/root/readonly", "true"),
            ("/process/cwd", r#""/srv""#),
            ("/process/oomScoreAdj", "100"),
            ("/process/apparmorProfile", r#""tight""#),
            ("/mounts/-", r#"{"destination": "/tmp", "type": "tmpfs", "options": ["ro"]}"#),
            ("/mounts/-", r#"{"destination": "/data", "type": "bind", "source": "/data"}"#),
        ],
    );
    lower(&spec, &host)
}

#[test]
fn every_rule_of_the_order_is_about_steps_that_exist_and_notices_when_they_are_swapped() {
    for (first, second, why) in ORDER {
        let mut plan = rich();
        let find = |is: Is| plan.steps.iter().position(|planned| is(&planned.step));
        let (Some(first), Some(second)) = (find(first), find(second)) else {
            panic!("no step for the rule `{why}` in\n{plan}")
        };
        assert_eq!(out_of_order(&plan), None, "\n{plan}");
        plan.steps.swap(first, second);
        assert!(out_of_order(&plan).is_some(), "swapped {first} and {second}, and `{why}` holds");
    }
}

#[test]
fn a_filter_that_needs_privileges_is_loaded_before_the_ids_change() {
    let plan = lower(&parsed(CRI_APP), &v1());
    let load = place(&plan, is!(Step::LoadSeccomp(_)));
    assert_eq!(load + 1, place(&plan, is!(Step::SetIds { .. })), "{plan}");
    assert!(load > place(&plan, is!(Step::SetGroups(_))), "{plan}");
}

#[test]
fn a_filter_that_needs_none_is_loaded_right_before_execve() {
    let plan = lower(&edited(CRI_APP, &[("/process/noNewPrivileges", "true")]), &v1());
    let load = place(&plan, is!(Step::LoadSeccomp(_)));
    assert_eq!(load + 1, place(&plan, is!(Step::Execute)), "{plan}");
    assert!(load > place(&plan, is!(Step::SetNoNewPrivileges)), "{plan}");
}

#[test]
fn nofile_is_the_last_limit() {
    let plan = lower(&parsed(CTR_RUN), &v1());
    let limits = plan.steps.iter().filter_map(|planned| match &planned.step {
        Step::SetRlimit(limit) => Some(limit.resource),
        _ => None,
    });
    assert_eq!(limits.collect::<Vec<_>>(), [RlimitResource::Core, RlimitResource::Nofile]);
}

#[test]
fn a_volume_at_dev_keeps_the_nodes_of_the_host() {
    let dev = r#"{"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}"#;
    let plan = lower(&edited(CTR_RUN, &[("/mounts/1", dev)]), &v1());
    assert!(!plan.steps.iter().any(|planned| planned.phase == Phase::Devices), "{plan}");
}

#[test]
fn a_read_only_dev_is_sealed_after_its_console_is_there() {
    let dev = r#"{"destination": "/dev", "type": "devtmpfs", "options": ["ro"]}"#;
    let plan = lower(&edited(CTR_RUN, &[("/mounts/1", dev), ("/process/terminal", "true")]), &v1());
    assert!(
        place(&plan, is!(Step::OpenTerminal { console: true, .. }))
            < place(&plan, is!(Step::SetReadonly { .. }))
    );
}

#[test]
fn the_home_of_the_user_is_filled_in_only_when_it_is_missing() {
    let home = |env: &str| {
        let plan = lower(&edited(MINIMAL, &[("/process/env", env)]), &v1());
        plan.program.unwrap().env.into_iter().map(|one| one.into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(home(r#"["A=1"]"#), ["A=1", "HOME=/home/web"]);
    assert_eq!(home(r#"["HOME=", "A=1"]"#), ["A=1", "HOME=/home/web"]);
    assert_eq!(home(r#"["HOME=/x", "HOMER=1"]"#), ["HOME=/x", "HOMER=1"]);
}

#[test]
fn an_unknown_home_is_the_root() {
    let own = dunnage_plan::RootfsFacts::default();
    let plan = dunnage_plan::lower(&parsed(MINIMAL), &v1(), &own, &mut FilterCache::default()).unwrap();
    assert_eq!(plan.program.unwrap().env, [c"HOME=/".to_owned()]);
}

#[test]
fn a_program_is_looked_up_like_execvp_does() {
    let candidates = |args: &str, env: &str| {
        let plan = lower(&edited(MINIMAL, &[("/process/args", args), ("/process/env", env)]), &v1());
        let candidates = plan.program.unwrap().candidates;
        candidates.into_iter().map(|one| one.into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(candidates(r#"["sh"]"#, r#"["PATH=/bin:/sbin/"]"#), ["/bin/sh", "/sbin/sh"]);
    assert_eq!(candidates(r#"["sh"]"#, r#"["PATH=:rel"]"#), ["./sh", "rel/sh"]);
    assert_eq!(candidates(r#"["./sh"]"#, r#"["PATH=/bin"]"#), ["./sh"]);
    assert_eq!(candidates(r#"["/bin/sh"]"#, "[]"), ["/bin/sh"]);
    assert_eq!(candidates(r#"["sh"]"#, "[]").len(), 6);
}

#[test]
fn errors_name_the_field() {
    let message = |config, edits: &[(&str, &str)]| error(&edited(config, edits), &v1()).to_string();
    assert_eq!(
        message(MINIMAL, &[("/process/apparmorProfile", r#""tight""#)]),
        "process.apparmorProfile: AppArmor is not enabled on this host"
    );
    assert_eq!(
        message(MINIMAL, &[("/process/selinuxLabel", r#""a:b:c:d""#)]),
        "process.selinuxLabel: SELinux is not enabled on this host"
    );
    assert_eq!(message(MINIMAL, &[("/process/args", r#"[""]"#)]), "process.args[0]: is empty");
    let joined = ("/linux/namespaces", r#"[{"type": "mount", "path": "/proc/7/ns/mnt"}]"#);
    assert_eq!(
        message(MINIMAL, &[joined, ("/root/readonly", "true")]),
        "root.readonly: needs a new mount namespace: in a joined one it would outlive the container"
    );
}

#[test]
fn a_host_without_apparmor_runs_what_wants_no_confinement() {
    let plan = lower(&edited(MINIMAL, &[("/process/apparmorProfile", r#""unconfined""#)]), &v1());
    assert!(!plan.steps.iter().any(|planned| matches!(planned.step, Step::SetApparmorProfile(_))));
}

#[test]
fn containers_that_share_a_profile_share_its_filter() {
    let spec = parsed(CRI_APP);
    let other = Profile { default_action: Action::Allow, ..spec.seccomp.clone().unwrap() };
    let mut filters = FilterCache::default();
    let mut filter = |spec: &Spec| {
        let plan = dunnage_plan::lower(spec, &v1(), &fixture::own(&v1()), &mut filters).unwrap();
        plan.steps.into_iter().find_map(|planned| match planned.step {
            Step::LoadSeccomp(filter) => Some(filter.program),
            _ => None,
        })
    };
    let (first, second) = (filter(&spec).unwrap(), filter(&spec).unwrap());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    let third = filter(&Spec { seccomp: Some(other), ..spec }).unwrap();
    assert_ne!(first, third);
}

#[test]
fn a_step_reads_as_the_object_of_an_error() {
    let plan = lower(&edited(CTR_RUN, &[("/hostname", r#""web-0""#)]), &v1());
    let text: Vec<_> = plan.steps.iter().map(|planned| plan.step(planned).to_string()).collect();
    for wanted in [
        "mount proc on /proc (nosuid nodev noexec)",
        "set hostname web-0",
        "mask /proc/kcore",
        "find sh",
        "execute sh",
    ] {
        assert!(text.iter().any(|one| one == wanted), "{wanted} in {text:#?}");
    }
}

#[test]
fn values_of_the_environment_are_not_printed() {
    let text = lower(&edited(MINIMAL, &[("/process/env", r#"["TOKEN=s3cret"]"#)]), &v1()).to_string();
    assert!(!text.contains("s3cret") && text.contains("2 variables"), "{text}");
}

proptest! {
    #[test]
    fn every_plan_is_in_order(spec in spec(), host in host()) {
        let mut filters = FilterCache::default();
        let own = fixture::own(&host);
        let plan = match dunnage_plan::lower(&spec, &host, &own, &mut filters) {
            Ok(plan) => plan,
            Err(error) => {
                // Only what a generated spec may get wrong.
                let shares_mounts = spec.namespaces.mount != Namespace::New;
                let has_label = spec.process.is_some_and(|process| process.apparmor_profile.is_some());
                prop_assert!(shares_mounts || (has_label && !host.apparmor), "{}", error);
                return Ok(());
            }
        };
        check(&plan)?;
        check_slots(&plan)?;
        prop_assert_eq!(plan.program.is_some(), spec.process.is_some());
        let mounts = plan.steps.iter().filter(|planned| planned.phase == Phase::Mounts).count();
        prop_assert!(mounts >= spec.mounts.len());
        if let Some(process) = &spec.process {
            prop_assert_eq!(filter_is_late(&plan), spec.seccomp.as_ref().map(|_| process.no_new_privileges));
            let exec = dunnage_plan::lower_exec(process, &spec, &host, &own, &mut filters).unwrap();
            check(&exec)?;
            check_exec(&exec, &spec)?;
            prop_assert_eq!(filter_is_late(&exec), filter_is_late(&plan));
        }
    }
}

/// Whether the filter is loaded behind the gate; `None` without a filter.
fn filter_is_late(plan: &Plan) -> Option<bool> {
    let mut steps = plan.steps.iter();
    steps
        .find(|planned| matches!(planned.step, Step::LoadSeccomp(_)))
        .map(|planned| planned.phase > Phase::Gate)
}

fn check(plan: &Plan) -> Result<(), TestCaseError> {
    prop_assert!(!phases_go_backwards(plan), "{plan}");
    prop_assert_eq!(out_of_order(plan), None, "\n{}", plan);
    let last = plan.steps.last().map(|planned| &planned.step);
    prop_assert_eq!(last == Some(&Step::Execute), plan.program.is_some(), "{}", plan);
    let gate: Vec<_> = plan.steps.iter().filter(|planned| planned.phase == Phase::Gate).collect();
    prop_assert!(
        matches!((&gate[0].step, &gate[1].step), (Step::Ready, Step::AwaitStart)) && gate.len() == 2
    );
    let text = plan.to_string();
    prop_assert!(!text.chars().any(|one| one.is_control() && one != '\n'), "{text:?}");
    let phases: std::collections::HashSet<_> = plan.steps.iter().map(|planned| planned.phase).collect();
    let program = plan.program.as_ref().map_or(1, |program| if program.candidates.len() > 1 { 2 } else { 1 });
    let lines = 1 + plan.slots.len() + phases.len() + plan.steps.len() + program;
    prop_assert_eq!(text.lines().count(), lines, "{}", text);
    Ok(())
}

fn check_slots(plan: &Plan) -> Result<(), TestCaseError> {
    let joined = plan.steps.iter().filter_map(|planned| match &planned.step {
        Step::JoinNamespace { slot, kind } => Some((*slot, *kind)),
        _ => None,
    });
    let pid = plan.pid_namespace.map(|slot| (slot, NamespaceKind::Pid));
    let mut used: Vec<_> = joined.chain(pid).collect();
    used.sort();
    prop_assert_eq!(used.len(), plan.slots.len(), "{}", plan);
    for (index, ((slot, kind), filled)) in used.iter().zip(&plan.slots).enumerate() {
        prop_assert_eq!(usize::from(slot.0), index);
        prop_assert!(matches!(filled, Slot::Namespace { kind: of, .. } if of == kind), "{}", plan);
    }
    Ok(())
}

/// An exec joins by the pidfd of init what the container has of its own, and mounts and makes nothing.
fn check_exec(plan: &Plan, spec: &Spec) -> Result<(), TestCaseError> {
    let own: Vec<_> =
        NamespaceKind::ALL.into_iter().filter(|kind| spec.namespaces.get(*kind).is_own()).collect();
    prop_assert_eq!(plan.slots.len(), usize::from(!own.is_empty()));
    prop_assert!(plan.slots.iter().all(|slot| *slot == Slot::Init));
    prop_assert_eq!(plan.pid_namespace.is_some(), own.contains(&NamespaceKind::Pid));
    prop_assert!(plan.new_namespaces.is_empty());
    let joined = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::JoinInit { kinds, .. } => Some(kinds.clone()),
        _ => None,
    });
    let wanted: Vec<_> = own.into_iter().filter(|kind| *kind != NamespaceKind::Pid).collect();
    prop_assert_eq!(joined.unwrap_or_default(), wanted);
    let strange = |step: &Step| {
        matches!(
            step,
            Step::MountFileSystem { .. }
                | Step::BindMount { .. }
                | Step::MakeNode { .. }
                | Step::WriteSysctl { .. }
                | Step::SetHostname(_)
                | Step::PivotRoot
                | Step::SetRootReadonly
                | Step::OpenTerminal { console: true, .. }
        )
    };
    prop_assert!(!plan.steps.iter().any(|planned| strange(&planned.step)), "{}", plan);
    Ok(())
}

fn host() -> impl Strategy<Value = HostFacts> {
    (0..64_u8, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(last_capability, unified_cgroup, apparmor, kcore)| HostFacts {
            last_capability,
            unified_cgroup,
            apparmor,
            selinux: false,
            kcore,
        },
    )
}

prop_compose! {
    fn spec()(
        namespaces in prop::collection::vec(namespace(), 6),
        shares_mounts in prop::bool::weighted(0.1),
        process in prop::option::weighted(0.9, process()),
        mounts in prop::collection::vec(mount(), 0..8),
        devices in prop::collection::vec(device(), 0..4),
        readonly in any::<bool>(),
        names in prop::collection::vec("[^\0]{1,8}", 3),
        masked in prop::collection::vec(path(), 0..3),
        with_filter in any::<bool>(),
    ) -> Spec {
        let mut spec = parsed(MINIMAL);
        for (kind, namespace) in NamespaceKind::ALL.into_iter().zip(namespaces) {
            *spec.namespaces.get_mut(kind) = namespace;
        }
        if !shares_mounts {
            spec.namespaces.mount = Namespace::New;
        }
        spec.root.readonly = readonly;
        spec.process = process;
        spec.mounts = mounts;
        spec.devices = devices;
        spec.hostname = Some(names[0].clone());
        spec.sysctls = vec![Sysctl { path: "net/x".to_owned(), value: names[1].clone() }];
        spec.domainname = spec.namespaces.uts.is_own().then(|| names[2].clone());
        spec.readonly_paths = masked.clone();
        spec.masked_paths = masked;
        spec.seccomp = with_filter.then(profile);
        spec
    }
}

fn namespace() -> impl Strategy<Value = Namespace> {
    prop_oneof![Just(Namespace::Host), Just(Namespace::New), path().prop_map(Namespace::Join)]
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec("[^/\0.][^/\0]{0,3}", 1..4)
        .prop_map(|parts| PathBuf::from(format!("/{}", parts.join("/"))))
}

prop_compose! {
    fn process()(
        args in prop::collection::vec("[^\0]{1,8}", 1..4),
        env in prop::collection::vec("[A-Z]{1,4}=[^\0]{0,8}", 0..4),
        cwd in path(),
        terminal in any::<bool>(),
        (uid, gid, umask) in (0..u32::MAX, 0..u32::MAX, 0..0o1000_u32),
        additional_gids in prop::collection::vec(0..u32::MAX, 0..3),
        capabilities in prop::collection::vec(any::<u64>(), 5),
        no_new_privileges in any::<bool>(),
        limits in prop::sample::subsequence(vec![RlimitResource::Nofile, RlimitResource::Core, RlimitResource::As], 0..4),
        oom_score_adj in prop::option::of(-1000..=1000),
        apparmor_profile in prop::option::weighted(0.2, "[a-z]{1,8}"),
    ) -> Process {
        let limit = |resource| Rlimit { resource, soft: 1, hard: 2 };
        Process {
            args,
            env,
            cwd,
            terminal: terminal.then(Terminal::default),
            user: User { uid, gid, additional_gids, umask },
            capabilities: Capabilities {
                bounding: capabilities[0],
                effective: capabilities[1],
                inheritable: capabilities[2],
                permitted: capabilities[3],
                ambient: capabilities[4],
            },
            no_new_privileges,
            rlimits: limits.into_iter().map(limit).collect(),
            oom_score_adj,
            apparmor_profile,
            selinux_label: None,
        }
    }
}

prop_compose! {
    fn mount()(
        destination in prop_oneof![path(), Just(PathBuf::from("/dev")), Just(PathBuf::from("/proc"))],
        source in source(),
        attributes in attributes(),
        recursive in attributes(),
    ) -> Mount {
        Mount { destination, source, attributes, recursive, propagation: Vec::new() }
    }
}

fn source() -> impl Strategy<Value = MountSource> {
    let fs_type = prop::sample::select(vec!["proc", "tmpfs", "sysfs", "devpts", "ext4"]);
    let options = prop::collection::vec(("[a-z]{1,4}", prop::option::of("[^\0]{0,4}")), 0..3);
    prop_oneof![
        Just(MountSource::Cgroup),
        (path(), any::<bool>()).prop_map(|(path, recursive)| MountSource::Bind { path, recursive }),
        (fs_type, options, any::<bool>()).prop_map(|(fs_type, options, read_only)| MountSource::FileSystem {
            fs_type: fs_type.to_owned(),
            source: "none".to_owned(),
            options,
            superblock: Superblock { read_only, ..Superblock::default() },
        }),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let atime =
        prop::option::of(prop::sample::select(vec![Atime::Relatime, Atime::Noatime, Atime::Strictatime]));
    (any::<bool>(), any::<bool>(), any::<bool>(), atime).prop_map(|(readonly, nosuid, noexec, atime)| {
        Attributes {
            set: AttributeSet { readonly, nosuid, ..AttributeSet::default() },
            clear: AttributeSet { noexec, ..AttributeSet::default() },
            atime,
        }
    })
}

fn device() -> impl Strategy<Value = Device> {
    let kind = prop_oneof![
        Just(DeviceKind::Fifo),
        (0..4096_u32, 0..256_u32).prop_map(|(major, minor)| DeviceKind::Char { major, minor }),
        (0..4096_u32, 0..256_u32).prop_map(|(major, minor)| DeviceKind::Block { major, minor }),
    ];
    (path(), kind, 0..0o1000_u32).prop_map(|(path, kind, mode)| Device { path, kind, mode, uid: 1, gid: 2 })
}

fn profile() -> Profile {
    Profile {
        default_action: Action::Allow,
        architectures: vec![Arch::X86_64],
        flags: Flags::default(),
        rules: Vec::new(),
    }
}

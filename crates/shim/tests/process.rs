//! The process contract with the real binary: `start` as each containerd calls it, the process it leaves behind,
//! and how that process ends. Runs as root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dunnage_api::any::{self, Any};
use dunnage_api::bootstrap::{BootstrapParams, BootstrapResult, Extension};
use dunnage_api::options::runc;
use dunnage_api::task::{ConnectRequest, ShutdownRequest, TaskClient, V2};
use dunnage_api::ttrpc::Client;
use prost::Message;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-dunnage-v1");
const NAMESPACE: &str = "shim-test";
const PATIENCE: Duration = Duration::from_secs(30);

/// A bundle, a directory for sockets, and whatever serving processes appear; all of it goes at the end.
struct Fixture {
    directory: tempfile::TempDir,
    id: String,
}

impl Fixture {
    fn new(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let id =
            format!("t{}", directory.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        fs::create_dir(directory.path().join("bundle")).unwrap();
        fs::write(directory.path().join("bundle/config.json"), config).unwrap();
        dunnage_sys::fifo::make(&directory.path().join("bundle/log")).unwrap();
        Self { directory, id }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The shim as containerd executes it: both output streams in one pipe.
    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", NAMESPACE, "-address", "/run/containerd/containerd.sock"])
            .args(["-publish-binary", "/usr/bin/containerd", "-id", &self.id, action])
            .current_dir(self.path("bundle"))
            .env_remove("MAX_SHIM_VERSION")
            .env("TTRPC_ADDRESS", self.path("ttrpc"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn params(&self, options: &runc::Options) -> Vec<u8> {
        BootstrapParams {
            instance_id: self.id.clone(),
            namespace: NAMESPACE.into(),
            containerd_version: "2.3.4".into(),
            containerd_ttrpc_address: self.path("events").display().to_string(),
            extensions: vec![Extension { value: Some(any::pack(options)) }],
            socket_dir: Some(self.path("s").display().to_string()),
            ..BootstrapParams::default()
        }
        .encode_to_vec()
    }

    fn start(&self) -> BootstrapResult {
        let output = run(self.command("start"), &self.params(&runc::Options::default()));
        BootstrapResult::decode(succeeded(&output)).unwrap()
    }

    /// The serving processes of this test: our binary, in the test's own namespace, with exactly this id.
    ///
    /// They are killed at the end, so nothing else may ever match.
    fn processes(&self) -> Vec<u32> {
        let start = [SHIM, "-namespace", NAMESPACE, "-id", &self.id].map(str::as_bytes);
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.starts_with(&start) && words.contains(&b"-socket".as_slice())
        })
        .collect()
    }

    fn server(&self) -> u32 {
        let processes = self.processes();
        assert_eq!(processes.len(), 1, "{processes:?}");
        processes[0]
    }

    fn wait_until_nobody_is_left(&self) {
        wait_until(|| self.processes().is_empty());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, "KILL");
        }
    }
}

/// Signals one serving process of this test.
fn kill(pid: u32, signal: &str) {
    assert!(pid > 1);
    Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
}

fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The reply; nothing may have been printed besides.
fn succeeded(output: &Output) -> &[u8] {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    &output.stdout
}

fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "nothing happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn socket(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap())
}

fn connected<T>(address: &str, test: impl AsyncFnOnce(TaskClient) -> T) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let client = Client::connect(socket(address)).await.unwrap();
        test(TaskClient::new(client).timeout(PATIENCE)).await
    })
}

/// The pid that the shim itself gives, under both names of the service.
fn shim_pid(address: &str) -> u32 {
    let request = ConnectRequest { id: "nobody".into() };
    connected(address, async |client| {
        let pid = client.connect(&request).await.unwrap().shim_pid;
        assert_eq!(client.named(V2).connect(&request).await.unwrap().shim_pid, pid);
        pid
    })
}

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn a_reply_to_containerd_2_3_names_a_socket_that_is_served() {
    let fixture = Fixture::new("{}");
    let reply = fixture.start();
    assert_eq!((reply.version, reply.protocol.as_str()), (3, "ttrpc"));
    assert_eq!(shim_pid(&reply.address), fixture.server());
    assert_eq!(fs::read_to_string(fixture.path("bundle/address")).unwrap(), reply.address);
    let socket = fs::metadata(socket(&reply.address)).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(fixture.path("s")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn containerd_1_6_gets_a_plain_address() {
    let fixture = Fixture::new("{}");
    let options = any::pack(&runc::Options { systemd_cgroup: true, ..runc::Options::default() });
    for input in [options.encode_to_vec(), Vec::new()] {
        let output = run(fixture.command("start"), &input);
        let address = String::from_utf8(succeeded(&output).to_vec()).unwrap();
        assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
        assert_eq!(shim_pid(&address), fixture.server());
    }
    kill(fixture.server(), "TERM");
    fixture.wait_until_nobody_is_left();
}

#[test]
fn a_containerd_of_unknown_version_gets_a_plain_address() {
    let fixture = Fixture::new("{}");
    let mut command = fixture.command("start");
    command.env("MAX_SHIM_VERSION", "2");
    let output = run(command, &[]);
    assert!(succeeded(&output).starts_with(b"unix:///run/containerd/s/"), "{output:?}");
    kill(fixture.server(), "TERM");
    fixture.wait_until_nobody_is_left();
}

#[test]
fn the_serving_process_shares_nothing_with_whoever_started_it() {
    let fixture = Fixture::new("{}");
    fixture.start();
    let pid = fixture.server();
    shim_pid(&fixture.start().address);

    let proc = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    for stream in 0..3 {
        assert_eq!(fs::read_link(proc(&format!("fd/{stream}"))).unwrap(), Path::new("/dev/null"));
    }
    assert_eq!(fs::read_link(proc("cwd")).unwrap(), Path::new("/"));
    let stat = fs::read_to_string(proc("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(
        (fields[2], fields[3]),
        (pid.to_string().as_str(), pid.to_string().as_str()),
        "group and session"
    );
    assert_eq!(status(pid, "Name"), "containerd-shim");
    assert_eq!(status(pid, "Threads"), "1");
    let command_line = fs::read_to_string(proc("cmdline")).unwrap();
    assert!(command_line.starts_with(SHIM), "{command_line}");
    // Not dumpable: what is in /proc belongs to root of the initial user namespace, and no pipe of `start` is open.
    let pipes = fs::read_dir(proc("fd")).unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(pipes.filter(|path| path.to_string_lossy().starts_with("pipe:")).count(), 0);
    let environment = fs::read(proc("environ")).unwrap();
    let expected = format!("TTRPC_ADDRESS={}", fixture.path("events").display());
    assert!(environment.split(|byte| *byte == 0).any(|pair| pair == expected.as_bytes()));
}

#[test]
fn the_serving_process_runs_from_a_file_that_cannot_be_changed_through_it() {
    let fixture = Fixture::new("{}");
    fixture.start();
    let running = PathBuf::from(format!("/proc/{}/exe", fixture.server()));
    assert_eq!(fs::metadata(&running).unwrap().ino(), fs::metadata(SHIM).unwrap().ino());
    let permissions = fs::metadata(&running).unwrap().permissions();
    let error = fs::set_permissions(&running, permissions).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn the_score_is_one_above_containerds() {
    let fixture = Fixture::new("{}");
    fixture.start();
    let score = |pid: &str| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let expected = (score("self") + 1).min(1000);
    assert_eq!(score(&fixture.server().to_string()), expected);
}

#[test]
fn containers_of_a_pod_share_one_process() {
    let sandbox = Fixture::new("{}");
    let first = sandbox.start();
    let container =
        Fixture::new(&format!(r#"{{"annotations": {{"io.kubernetes.cri.sandbox-id": "{}"}}}}"#, sandbox.id));
    let params = BootstrapParams::decode(container.params(&runc::Options::default()).as_slice()).unwrap();
    let params = BootstrapParams { socket_dir: Some(sandbox.path("s").display().to_string()), ..params };
    let output = run(container.command("start"), &params.encode_to_vec());
    let second = BootstrapResult::decode(succeeded(&output)).unwrap();
    assert_eq!(second, first);
    assert_eq!(container.processes(), []);
    assert_eq!(fs::read_to_string(container.path("bundle/address")).unwrap(), first.address);
}

#[test]
fn many_starts_at_once_agree_on_one_process() {
    let fixture = Fixture::new("{}");
    let replies: Vec<BootstrapResult> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| fixture.start())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    assert_eq!(shim_pid(&replies[0].address), fixture.server());
}

#[test]
fn a_shim_of_another_kind_that_has_the_group_is_named_with_what_it_serves() {
    let fixture = Fixture::new("{}");
    let address = fixture.start().address;
    kill(fixture.server(), "KILL");
    fixture.wait_until_nobody_is_left();
    fs::remove_file(socket(&address)).unwrap();
    let listener = UnixListener::bind(socket(&address)).unwrap();
    let old_shim = std::thread::spawn(move || {
        // The first connection only asks whether anybody is there.
        let _probe = listener.accept().unwrap();
        let (mut call, _) = listener.accept().unwrap();
        let refusal = dunnage_api::Status::unimplemented("service containerd.task.v3.Task");
        call.write_all(&dunnage_api::ttrpc::envelope::encode_response(1, Err::<(), _>(refusal))).unwrap();
        call
    });
    let reply = fixture.start();
    assert_eq!((reply.version, reply.address), (2, address));
    old_shim.join().unwrap();
}

#[test]
fn a_dead_shims_socket_is_taken_over() {
    let fixture = Fixture::new("{}");
    let first = fixture.start();
    kill(fixture.server(), "KILL");
    fixture.wait_until_nobody_is_left();
    assert!(socket(&first.address).exists());
    assert_eq!(fixture.start(), first);
    assert_eq!(shim_pid(&first.address), fixture.server());
}

#[test]
fn a_signal_ends_the_process_and_removes_its_socket() {
    for signal in ["TERM", "INT"] {
        let fixture = Fixture::new("{}");
        let address = fixture.start().address;
        shim_pid(&address);
        kill(fixture.server(), "USR1");
        shim_pid(&address);
        kill(fixture.server(), signal);
        fixture.wait_until_nobody_is_left();
        assert!(!socket(&address).exists(), "{signal}");
    }
}

#[test]
fn shutdown_without_containers_ends_the_process_after_its_answer() {
    let fixture = Fixture::new("{}");
    let address = fixture.start().address;
    connected(&address, async |client| {
        client.shutdown(&ShutdownRequest { id: fixture.id.clone(), now: false }).await.unwrap();
        client.connection().closed().await;
    });
    fixture.wait_until_nobody_is_left();
    assert!(!socket(&address).exists());
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let fixture = Fixture::new("{}");
    let options =
        runc::Options { shim_cgroup: "/no-such-cgroup-of-dunnage".into(), ..runc::Options::default() };
    let output = run(fixture.command("start"), &fixture.params(&options));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(text, "containerd-shim-dunnage-v1: shim cgroup /no-such-cgroup-of-dunnage: no such cgroup\n");
    assert_eq!(fixture.processes(), []);
    assert_eq!(fs::read_dir(fixture.path("s")).unwrap().count(), 0, "a socket was left");
    assert!(!fixture.path("bundle/address").exists());
}

#[test]
fn the_shim_is_born_in_the_cgroup_of_the_options() {
    let fixture = Fixture::new("{}");
    let name = format!("dunnage-{}", fixture.id);
    // Whichever hierarchies this machine has: the shim joins those where the cgroup is.
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"];
    let root = roots.iter().rev().find(|root| Path::new(root).join("cgroup.procs").exists()).unwrap();
    let cgroup = Path::new(root).join(&name);
    fs::create_dir(&cgroup).unwrap();
    let options = runc::Options { shim_cgroup: format!("/{name}"), ..runc::Options::default() };
    let output = run(fixture.command("start"), &fixture.params(&options));
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    let server = fixture.processes();
    for pid in &server {
        kill(*pid, "KILL");
    }
    fixture.wait_until_nobody_is_left();
    wait_until(|| fs::remove_dir(&cgroup).is_ok() || !cgroup.exists());
    succeeded(&output);
    assert_eq!(members.trim(), server[0].to_string());
}

#[test]
fn a_sandbox_without_config_json_starts() {
    let fixture = Fixture::new("{}");
    fs::remove_file(fixture.path("bundle/config.json")).unwrap();
    assert_eq!(shim_pid(&fixture.start().address), fixture.server());
}

#[test]
fn info_answers_in_protobuf_and_echoes_the_options() {
    let options = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![] };
    let mut command = Command::new(SHIM);
    command.arg("-info").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = run(command, &options.encode_to_vec());
    let info = dunnage_api::types::RuntimeInfo::decode(succeeded(&output)).unwrap();
    assert_eq!((info.name.as_str(), info.options), ("io.containerd.dunnage.v1", Some(options)));
}

#[test]
fn delete_answers_for_a_container_nobody_knows_and_clears_a_dead_socket() {
    let fixture = Fixture::new("{}");
    let address = fixture.start().address;
    kill(fixture.server(), "KILL");
    fixture.wait_until_nobody_is_left();
    for _ in 0..2 {
        let output = run(fixture.command("delete"), &[]);
        let answer = dunnage_api::task::DeleteResponse::decode(succeeded(&output)).unwrap();
        assert_eq!((answer.pid, answer.exit_status), (0, 137));
        assert!(answer.exited_at.unwrap().seconds > 1_600_000_000);
        assert!(UnixStream::connect(socket(&address)).is_err() && !socket(&address).exists());
    }
}

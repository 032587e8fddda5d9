//! The server and the client over a real unix socket, and the server against a peer that writes bytes by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use dunnage_api::task::*;
use dunnage_api::ttrpc::envelope::{decode_response, encode_request};
use dunnage_api::ttrpc::frame::{HEADER_LEN, Header, MAX_PAYLOAD, flag, kind};
use dunnage_api::ttrpc::{CallError, Client, Server};
use dunnage_api::{Code, Status};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};

/// Ends a test that hangs; far beyond what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Task service that does nothing but let tests watch and hold it.
#[derive(Default)]
struct FakeTask {
    /// `create` waits for it.
    release: Notify,
    created: RefCell<Vec<String>>,
    create_began: Notify,
    create_ended: Notify,
    waiting: Rc<Waiters>,
}

#[derive(Default)]
struct Waiters {
    count: Cell<usize>,
    changed: Notify,
}

struct Waiter(Rc<Waiters>);

impl Waiter {
    fn new(waiters: &Rc<Waiters>) -> Self {
        waiters.count.set(waiters.count.get() + 1);
        waiters.changed.notify_one();
        Self(Rc::clone(waiters))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.changed.notify_one();
    }
}

impl Waiters {
    async fn reach(&self, count: usize) {
        while self.count.get() != count {
            self.changed.notified().await;
        }
    }
}

fn absent<T>(method: &str) -> Result<T, Status> {
    Err(Status::unimplemented(method))
}

impl TaskService for FakeTask {
    async fn state(&self, request: StateRequest) -> Result<StateResponse, Status> {
        if request.id == "unknown" {
            return Err(Status::not_found("task unknown"));
        }
        Ok(StateResponse { id: request.id, pid: 7, ..StateResponse::default() })
    }
    async fn create(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse, Status> {
        self.create_began.notify_one();
        self.release.notified().await;
        self.created.borrow_mut().push(request.id);
        self.create_ended.notify_one();
        Ok(CreateTaskResponse { pid: 8 })
    }
    async fn start(&self, _: StartRequest) -> Result<StartResponse, Status> {
        absent("start")
    }
    async fn delete(&self, _: DeleteRequest) -> Result<DeleteResponse, Status> {
        absent("delete")
    }
    async fn pids(&self, _: PidsRequest) -> Result<PidsResponse, Status> {
        absent("pids")
    }
    async fn pause(&self, _: PauseRequest) -> Result<(), Status> {
        absent("pause")
    }
    async fn resume(&self, _: ResumeRequest) -> Result<(), Status> {
        absent("resume")
    }
    async fn checkpoint(&self, _: CheckpointTaskRequest) -> Result<(), Status> {
        absent("checkpoint")
    }
    async fn kill(&self, _: KillRequest) -> Result<(), Status> {
        Ok(())
    }
    async fn exec(&self, _: ExecProcessRequest) -> Result<(), Status> {
        absent("exec")
    }
    async fn resize_pty(&self, _: ResizePtyRequest) -> Result<(), Status> {
        absent("resize_pty")
    }
    async fn close_io(&self, _: CloseIoRequest) -> Result<(), Status> {
        absent("close_io")
    }
    async fn update(&self, _: UpdateTaskRequest) -> Result<(), Status> {
        absent("update")
    }
    async fn wait(&self, _: WaitRequest) -> Result<WaitResponse, Status> {
        let _waiter = Waiter::new(&self.waiting);
        pending().await
    }
    async fn stats(&self, _: StatsRequest) -> Result<StatsResponse, Status> {
        absent("stats")
    }
    /// An answer of three million bytes.
    async fn connect(&self, request: ConnectRequest) -> Result<ConnectResponse, Status> {
        Ok(ConnectResponse { version: request.id.repeat(3_000_000), ..ConnectResponse::default() })
    }
    async fn shutdown(&self, _: ShutdownRequest) -> Result<(), Status> {
        absent("shutdown")
    }
}

/// A server in this thread, and the directory of its socket.
struct Fixture {
    task: Rc<FakeTask>,
    directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

impl Fixture {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let task = Rc::new(FakeTask::default());
        let (stop, stopped) = oneshot::channel();
        let server = Server::new().with(TaskServer::new(Rc::clone(&task)));
        let served = tokio::task::spawn_local(server.serve(listener, async {
            let _ = stopped.await;
        }));
        Self { task, directory, stop: Some(stop), served }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    async fn client(&self) -> TaskClient {
        TaskClient::new(Client::connect(&self.socket()).await.unwrap())
    }

    async fn raw(&self) -> Raw {
        Raw(UnixStream::connect(self.socket()).await.unwrap())
    }
}

/// A peer that writes its frames by hand.
struct Raw(UnixStream);

impl Raw {
    async fn send(&mut self, stream: u32, kind: u8, flags: u8, payload: &[u8]) {
        let header = Header { length: u32::try_from(payload.len()).unwrap(), stream, kind, flags };
        self.0.write_all(&header.to_bytes()).await.unwrap();
        self.0.write_all(payload).await.unwrap();
    }

    async fn answer(&mut self) -> (Header, Result<Vec<u8>, Status>) {
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).await.unwrap();
        let header = Header::from_bytes(&header);
        let mut payload = vec![0; header.length as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        (header, decode_response(&payload).unwrap())
    }

    /// The stream and the code of the next answer.
    async fn refusal(&mut self) -> (u32, Code) {
        let (header, answer) = self.answer().await;
        (header.stream, answer.unwrap_err().code)
    }

    /// Calls State and insists on its answer: the connection is alive and in step.
    async fn insist_on_state(&mut self, stream: u32) {
        let frame = encode_request(stream, (V3, "State"), &StateRequest::default(), None).unwrap();
        self.0.write_all(&frame).await.unwrap();
        let (header, answer) = self.answer().await;
        assert_eq!((header.stream, header.kind, header.flags), (stream, kind::RESPONSE, 0));
        assert_eq!(StateResponse::decode(answer.unwrap().as_slice()).unwrap().pid, 7);
    }
}

fn request(service: &str, method: &str, message: &impl Message) -> Vec<u8> {
    encode_request(1, (service, method), message, None).unwrap().split_off(HEADER_LEN)
}

fn run(test: impl AsyncFnOnce(Fixture)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, test(Fixture::start())).await.expect("the test hangs");
    });
}

fn code(error: CallError) -> Code {
    match error {
        CallError::Status(status) => status.code,
        other => panic!("not a status: {other}"),
    }
}

#[test]
fn one_handler_answers_under_both_names() {
    run(async |fixture| {
        let v3 = fixture.client().await;
        let v2 = fixture.client().await.named(V2);
        let request = StateRequest { id: "a".into(), exec_id: String::new() };
        let answer = v3.state(&request).await.unwrap();
        assert_eq!((answer.id.as_str(), answer.pid), ("a", 7));
        assert_eq!(v2.state(&request).await.unwrap(), answer);
    });
}

#[test]
fn a_status_arrives_with_its_code_and_its_text() {
    run(async |fixture| {
        let request = StateRequest { id: "unknown".into(), exec_id: String::new() };
        let error = fixture.client().await.state(&request).await.unwrap_err();
        assert_eq!(error.to_string(), "task unknown (NOT_FOUND)");
        assert_eq!(code(error), Code::NotFound);
    });
}

#[test]
fn a_slow_call_holds_up_no_other_call_of_its_connection() {
    run(async |fixture| {
        let client = fixture.client().await;
        let request = CreateTaskRequest { id: "slow".into(), ..CreateTaskRequest::default() };
        let quick = async {
            fixture.task.create_began.notified().await;
            client.state(&StateRequest::default()).await.unwrap();
            assert!(fixture.task.created.borrow().is_empty());
            fixture.task.release.notify_one();
        };
        let (slow, ()) = tokio::join!(client.create(&request), quick);
        assert_eq!(slow.unwrap().pid, 8);
    });
}

#[test]
fn a_mutating_call_ends_although_its_caller_left() {
    run(async |fixture| {
        let client = fixture.client().await;
        let request = CreateTaskRequest { id: "orphan".into(), ..CreateTaskRequest::default() };
        tokio::select! {
            _ = client.create(&request) => panic!("nobody released it"),
            () = fixture.task.create_began.notified() => {}
        }
        drop(client);
        // Another call goes all the way round, so the server has seen the first connection end.
        fixture.client().await.state(&StateRequest::default()).await.unwrap();
        fixture.task.release.notify_one();
        fixture.task.create_ended.notified().await;
        assert_eq!(*fixture.task.created.borrow(), ["orphan"]);
    });
}

#[test]
fn a_wait_ends_with_its_caller() {
    run(async |fixture| {
        let client = fixture.client().await;
        let request = WaitRequest::default();
        tokio::select! {
            _ = client.wait(&request) => panic!("nothing to wait for"),
            () = fixture.task.waiting.reach(1) => {}
        }
        drop(client);
        fixture.task.waiting.reach(0).await;
    });
}

#[test]
fn a_wait_ends_when_its_time_is_over_at_the_server_too() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        let limit = Some(Duration::from_millis(1));
        let frame = encode_request(1, (V3, "Wait"), &WaitRequest::default(), limit).unwrap();
        raw.0.write_all(&frame).await.unwrap();
        assert_eq!(raw.refusal().await, (1, Code::DeadlineExceeded));
        fixture.task.waiting.reach(0).await;
        raw.insist_on_state(3).await;
    });
}

#[test]
fn a_client_gives_up_when_the_time_of_its_call_is_over_and_goes_on_with_the_next() {
    run(async |fixture| {
        let client = fixture.client().await;
        let limited = client.clone().timeout(Duration::from_millis(1));
        let error = limited.create(&CreateTaskRequest::default()).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
        // The answer nobody waits for any more comes first.
        fixture.task.release.notify_one();
        fixture.task.create_ended.notified().await;
        assert_eq!(client.state(&StateRequest::default()).await.unwrap().pid, 7);
    });
}

#[test]
fn unknown_services_and_methods_are_unimplemented() {
    run(async |fixture| {
        let client = Client::connect(&fixture.socket()).await.unwrap();
        for (service, method) in [("containerd.task.v9.Task", "State"), (V3, "Juggle"), ("", "")] {
            let error = client.call::<()>(service, method, &(), None).await.unwrap_err();
            assert_eq!(code(error), Code::Unimplemented, "{service}/{method}");
        }
    });
}

#[test]
fn a_streaming_call_is_refused_by_name_and_what_follows_it_is_ignored() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        let payload = request(V3, "Attach", &());
        raw.send(1, kind::REQUEST, flag::REMOTE_OPEN, &payload).await;
        let (header, answer) = raw.answer().await;
        let status = answer.unwrap_err();
        assert_eq!((header.stream, status.code), (1, Code::Unimplemented));
        assert!(status.message.contains("streaming"), "{status}");
        raw.send(1, kind::DATA, 0, b"more").await;
        raw.send(1, kind::DATA, flag::REMOTE_CLOSED | flag::NO_DATA, b"").await;
        raw.send(9, 77, 0, b"a kind of the future").await;
        raw.insist_on_state(3).await;
    });
}

#[test]
fn stream_ids_must_be_odd_and_increase() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        raw.insist_on_state(5).await;
        let payload = request(V3, "State", &StateRequest::default());
        for stream in [5, 3, 6, 0] {
            raw.send(stream, kind::REQUEST, 0, &payload).await;
            assert_eq!(raw.refusal().await, (stream, Code::InvalidArgument));
        }
        raw.send(9, kind::DATA, 0, b"to nobody").await;
        assert_eq!(raw.refusal().await, (9, Code::InvalidArgument));
        raw.insist_on_state(7).await;
    });
}

#[test]
fn an_oversize_request_is_refused_on_its_stream_and_the_connection_goes_on() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        raw.send(1, kind::REQUEST, 0, &vec![0; MAX_PAYLOAD as usize + 1]).await;
        assert_eq!(raw.refusal().await, (1, Code::ResourceExhausted));
        raw.insist_on_state(3).await;
    });
}

#[test]
fn bytes_that_are_no_request_are_refused_and_the_connection_goes_on() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        raw.send(1, kind::REQUEST, 0, b"\xff\xff\xff").await;
        assert_eq!(raw.refusal().await, (1, Code::InvalidArgument));
        // The envelope is right, but what it carries is no StateRequest: field 1 is a number.
        let payload = request(V3, "State", &ConnectResponse { shim_pid: 1, ..ConnectResponse::default() });
        raw.send(3, kind::REQUEST, 0, &payload).await;
        assert_eq!(raw.refusal().await, (3, Code::InvalidArgument));
        raw.insist_on_state(5).await;
    });
}

#[test]
fn a_request_that_comes_byte_by_byte_is_a_request() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        let frame = encode_request(1, (V2, "State"), &StateRequest::default(), None).unwrap();
        for byte in frame {
            raw.0.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.answer().await.0.stream, 1);
        raw.insist_on_state(3).await;
    });
}

#[test]
fn answers_wait_for_a_slow_reader_and_arrive_whole() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        for stream in [1, 3, 5, 7] {
            let message = ConnectRequest { id: char::from(b'a' + u8::try_from(stream).unwrap()).into() };
            let frame = encode_request(stream, (V3, "Connect"), &message, None).unwrap();
            raw.0.write_all(&frame).await.unwrap();
        }
        // Everybody else is served meanwhile.
        fixture.client().await.state(&StateRequest::default()).await.unwrap();
        for stream in [1, 3, 5, 7] {
            let (header, answer) = raw.answer().await;
            assert_eq!(header.stream, stream);
            let answer = ConnectResponse::decode(answer.unwrap().as_slice()).unwrap();
            assert_eq!(answer.version.len(), 3_000_000);
            assert!(answer.version.bytes().all(|byte| u32::from(byte - b'a') == stream));
        }
        raw.insist_on_state(9).await;
    });
}

#[test]
fn a_reader_that_leaves_with_answers_outstanding_harms_nobody() {
    run(async |fixture| {
        let mut raw = fixture.raw().await;
        let frame = encode_request(1, (V3, "Connect"), &ConnectRequest { id: "a".into() }, None).unwrap();
        raw.0.write_all(&frame).await.unwrap();
        fixture.client().await.state(&StateRequest::default()).await.unwrap();
        drop(raw);
        fixture.client().await.state(&StateRequest::default()).await.unwrap();
    });
}

#[test]
fn a_client_learns_that_its_server_is_gone() {
    run(async |_| {
        let request = WaitRequest::default();
        let (near, far) = UnixStream::pair().unwrap();
        let lonely = TaskClient::new(Client::new(near));
        let (outcome, ()) = tokio::join!(lonely.wait(&request), async {
            tokio::task::yield_now().await;
            drop(far);
        });
        assert!(matches!(outcome, Err(CallError::Closed)), "{outcome:?}");
        lonely.connection().closed().await;
        assert!(lonely.connection().is_closed());
        assert!(matches!(lonely.wait(&request).await, Err(CallError::Closed)));
    });
}

#[test]
fn nonsense_from_a_server_harms_no_other_call() {
    run(async |_| {
        let (near, far) = UnixStream::pair().unwrap();
        let client = TaskClient::new(Client::new(near));
        let mut far = Raw(far);
        let peer = async {
            let mut request = vec![0; 512];
            let _ = far.0.read(&mut request).await.unwrap();
            far.send(99, kind::RESPONSE, 0, b"").await;
            far.send(1, kind::DATA, 0, b"data").await;
            far.send(1, kind::RESPONSE, 0, b"\xff").await;
        };
        let request = StateRequest::default();
        let (outcome, ()) = tokio::join!(client.state(&request), peer);
        assert!(matches!(outcome, Err(CallError::Malformed(_))), "{outcome:?}");
        let peer = async {
            let mut request = vec![0; 512];
            let _ = far.0.read(&mut request).await.unwrap();
            far.send(3, kind::RESPONSE, 0, &vec![0; MAX_PAYLOAD as usize + 1]).await;
        };
        let (outcome, ()) = tokio::join!(client.state(&request), peer);
        assert_eq!(code(outcome.unwrap_err()), Code::ResourceExhausted);
    });
}

#[test]
fn a_stopping_server_finishes_what_it_began_and_takes_nothing_new() {
    run(async |mut fixture| {
        let client = fixture.client().await;
        let request = CreateTaskRequest { id: "last".into(), ..CreateTaskRequest::default() };
        let stop = fixture.stop.take().unwrap();
        let socket = fixture.socket();
        let task = Rc::clone(&fixture.task);
        let stopping = async {
            task.create_began.notified().await;
            stop.send(()).unwrap();
            while UnixStream::connect(&socket).await.is_ok() {
                tokio::task::yield_now().await;
            }
            task.release.notify_one();
        };
        let (created, ()) = tokio::join!(client.create(&request), stopping);
        assert_eq!(created.unwrap().pid, 8);
        fixture.served.await.unwrap();
        client.connection().closed().await;
    });
}

/// Not a test by itself: the part of `a_peer_of_another_user_is_refused` that runs as another user.
#[test]
#[ignore = "runs inside another test"]
fn stranger() {
    let Ok(socket) = std::env::var("STRANGERS_SOCKET") else { return };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let client = TaskClient::new(Client::connect(Path::new(&socket)).await.unwrap());
        let refused = client.state(&StateRequest::default()).await;
        assert!(matches!(refused, Err(CallError::Closed)), "{refused:?}");
    });
}

#[test]
fn a_peer_of_another_user_is_refused() {
    run(async |fixture| {
        let open =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        open(fixture.directory.path(), 0o755);
        open(&fixture.socket(), 0o666);
        let mut stranger = Command::new("/proc/self/exe")
            .args(["--exact", "--ignored", "stranger"])
            .env("STRANGERS_SOCKET", fixture.socket())
            .uid(65534)
            .gid(65534)
            .spawn()
            .unwrap();
        let status = tokio::task::spawn_blocking(move || stranger.wait()).await.unwrap().unwrap();
        assert!(status.success(), "the stranger was served");
        fixture.client().await.state(&StateRequest::default()).await.unwrap();
    });
}

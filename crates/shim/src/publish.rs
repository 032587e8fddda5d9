//! Events on their way to containerd: one queue, one sender, so they arrive in the order in which they happened.
//!
//! While containerd is away the queue waits and the sender dials again; nobody who publishes ever waits. An
//! event is sent until containerd has answered, so after a lost answer it may arrive twice, which is less harm
//! than never (containerd/containerd#3177).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use dunnage_api::any::Any;
use dunnage_api::events::{Envelope, EventsClient, ForwardRequest};
use dunnage_api::ttrpc::{CallError, Client};
use dunnage_spec::ContainerdNamespace;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Events kept while containerd is away.
const KEPT: usize = 2048;
/// Time for containerd to take one event, as its own shims give it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pauses between attempts; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The topic that is never given up for another one: a lost exit leaves a container running for ever.
const EXIT: &str = "/tasks/exit";

/// Where events are handed in. Clones share one queue; the sender ends with the last.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    queue: Rc<Queue>,
    _sender: Rc<AbortOnDrop>,
}

impl Publisher {
    /// Starts the sender. Without an address (a test, a person) events go nowhere.
    pub(crate) fn start(containerd: Option<PathBuf>, namespace: &ContainerdNamespace) -> Self {
        let queue = Rc::new(Queue {
            namespace: namespace.to_string(),
            open: containerd.is_some(),
            events: RefCell::default(),
            lost: Cell::new(0),
            changed: Notify::new(),
            emptied: Notify::new(),
        });
        let sender = tokio::task::spawn_local({
            let queue = Rc::clone(&queue);
            async move {
                if let Some(path) = containerd {
                    queue.send_all(path).await;
                }
            }
        });
        Self { queue, _sender: Rc::new(AbortOnDrop(sender)) }
    }

    /// Hands in what happened at `at`.
    pub(crate) fn publish(&self, topic: &str, event: Any, at: SystemTime) {
        self.queue.push(topic, event, at);
    }

    /// Returns when containerd has taken everything, or after `limit`.
    pub(crate) async fn drain(&self, limit: Duration) {
        let empty = async {
            while !self.queue.events.borrow().is_empty() {
                self.queue.emptied.notified().await;
            }
        };
        if tokio::time::timeout(limit, empty).await.is_err() {
            tracing::warn!(
                events = self.queue.events.borrow().len(),
                "containerd did not take the last events"
            );
        }
    }
}

#[derive(Debug)]
struct Queue {
    namespace: String,
    /// Whether anybody takes events out.
    open: bool,
    /// Shared with a call in progress, which may outlive the place in the queue.
    events: RefCell<VecDeque<Rc<ForwardRequest>>>,
    lost: Cell<u64>,
    changed: Notify,
    emptied: Notify,
}

impl Queue {
    fn push(&self, topic: &str, event: Any, at: SystemTime) {
        if !self.open {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(at.into()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event),
        };
        let mut events = self.events.borrow_mut();
        events.push_back(Rc::new(ForwardRequest { envelope: Some(envelope) }));
        if events.len() > KEPT {
            give_up_one(&mut events);
            self.lost.set(self.lost.get() + 1);
        }
        drop(events);
        self.changed.notify_one();
    }

    async fn send_all(&self, containerd: PathBuf) {
        let mut connection = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let next = self.next().await;
            if connection.is_none() {
                connection = Client::connect(&containerd).await.map(EventsClient::new).ok();
            }
            let sent = match &connection {
                Some(client) => client.clone().timeout(PATIENCE).forward(&next).await,
                None => Err(CallError::Closed),
            };
            match sent {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.done(&next);
                }
                Err(CallError::Status(status)) => {
                    tracing::error!(%status, topic = topic(&next), "containerd refused an event");
                    self.done(&next);
                }
                Err(error) => {
                    tracing::debug!(%error, path = %containerd.display(), "containerd takes no events");
                    connection = None;
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn next(&self) -> Rc<ForwardRequest> {
        loop {
            if let Some(next) = self.events.borrow().front() {
                return Rc::clone(next);
            }
            self.changed.notified().await;
        }
    }

    /// Takes a sent event out, unless it was given up meanwhile.
    fn done(&self, sent: &Rc<ForwardRequest>) {
        let mut events = self.events.borrow_mut();
        if events.front().is_some_and(|front| Rc::ptr_eq(front, sent)) {
            events.pop_front();
        }
        let lost = self.lost.take();
        if lost > 0 {
            tracing::error!(events = lost, "containerd was away for too long: events are lost");
        }
        if events.is_empty() {
            // A queue that was once long should not keep its size.
            *events = VecDeque::new();
            self.emptied.notify_waiters();
        }
    }
}

/// The oldest event that is not an exit goes first: containerd asks for states when it is back, and what it
/// cannot ask for is the exit of an exec that is gone.
fn give_up_one(events: &mut VecDeque<Rc<ForwardRequest>>) {
    let oldest = events.iter().position(|event| topic(event) != EXIT).unwrap_or_default();
    events.remove(oldest);
}

fn topic(request: &ForwardRequest) -> &str {
    request.envelope.as_ref().map_or("", |envelope| &envelope.topic)
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use dunnage_api::Status;
    use dunnage_api::any;
    use dunnage_api::events::{Event, EventsServer, EventsService, TaskExit, TaskOom, TaskStart};
    use dunnage_api::ttrpc::Server;
    use tokio::net::UnixListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// containerd's side: keeps what it takes.
    #[derive(Default)]
    struct Containerd {
        taken: RefCell<Vec<Envelope>>,
        refuse: Cell<bool>,
    }

    impl EventsService for Containerd {
        async fn forward(&self, request: ForwardRequest) -> Result<(), Status> {
            if self.refuse.get() {
                return Err(Status::invalid_argument("no"));
            }
            self.taken.borrow_mut().extend(request.envelope);
            Ok(())
        }
    }

    impl Containerd {
        fn pids(&self) -> Vec<u32> {
            let events = self.taken.borrow();
            let start = |envelope: &Envelope| any::unpack::<TaskStart>(envelope.event.as_ref()?).unwrap();
            events.iter().map(|envelope| start(envelope).unwrap().pid).collect()
        }
    }

    struct Fixture {
        directory: tempfile::TempDir,
        containerd: Rc<Containerd>,
    }

    impl Fixture {
        fn path(&self) -> PathBuf {
            self.directory.path().join("ttrpc")
        }

        fn publisher(&self) -> Publisher {
            Publisher::start(Some(self.path()), &"k8s.io".parse().unwrap())
        }

        /// Until the returned sender is dropped or sends.
        fn serve(&self) -> (tokio::sync::oneshot::Sender<()>, JoinHandle<()>) {
            let _ = std::fs::remove_file(self.path());
            let listener = UnixListener::bind(self.path()).unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let server = Server::new().with(EventsServer::new(Rc::clone(&self.containerd)));
            let served = tokio::task::spawn_local(server.serve(listener, async {
                let _ = stopped.await;
            }));
            (stop, served)
        }
    }

    fn run(test: impl AsyncFnOnce(Fixture)) {
        let fixture = Fixture { directory: tempfile::tempdir().unwrap(), containerd: Rc::default() };
        let options = tokio::runtime::LocalOptions::default();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(options).unwrap();
        runtime.block_on(async { tokio::time::timeout(LONG, test(fixture)).await.expect("the test hangs") });
    }

    impl Publisher {
        fn publish_event<E: Event>(&self, event: &E) {
            self.publish(E::TOPIC, any::pack(event), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        }
    }

    fn started(pid: u32) -> TaskStart {
        TaskStart { container_id: "web".into(), pid }
    }

    #[test]
    fn an_event_arrives_in_its_envelope() {
        run(async |fixture| {
            let _containerd = fixture.serve();
            let publisher = fixture.publisher();
            publisher.publish_event(&started(7));
            publisher.drain(LONG).await;
            let taken = fixture.containerd.taken.borrow();
            assert_eq!((taken[0].namespace.as_str(), taken[0].topic.as_str()), ("k8s.io", "/tasks/start"));
            assert_eq!(taken[0].event.as_ref().unwrap().type_url, "containerd.events.TaskStart");
            assert_eq!(taken[0].timestamp.unwrap().seconds, 5);
        });
    }

    #[test]
    fn events_wait_for_containerd_and_keep_their_order_over_its_restart() {
        run(async |fixture| {
            let publisher = fixture.publisher();
            publisher.publish_event(&started(1));
            publisher.publish_event(&started(2));
            let (stop, served) = fixture.serve();
            publisher.drain(LONG).await;
            assert_eq!(fixture.containerd.pids(), [1, 2]);

            drop(stop);
            served.await.unwrap();
            for pid in 3..=100 {
                publisher.publish_event(&started(pid));
                tokio::task::yield_now().await;
            }
            let _again = fixture.serve();
            publisher.drain(LONG).await;
            assert_eq!(fixture.containerd.pids(), (1..=100).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_refused_event_does_not_hold_up_the_others() {
        run(async |fixture| {
            let _containerd = fixture.serve();
            let publisher = fixture.publisher();
            fixture.containerd.refuse.set(true);
            publisher.publish_event(&started(1));
            publisher.drain(LONG).await;
            fixture.containerd.refuse.set(false);
            publisher.publish_event(&started(2));
            publisher.drain(LONG).await;
            assert_eq!(fixture.containerd.pids(), [2]);
        });
    }

    #[test]
    fn of_too_many_events_exits_are_kept() {
        run(async |fixture| {
            let publisher = fixture.publisher();
            let exit =
                |pid| TaskExit { container_id: "web".into(), id: "web".into(), pid, ..TaskExit::default() };
            publisher.publish_event(&exit(1));
            publisher.publish_event(&TaskOom { container_id: "web".into() });
            for pid in 0..u32::try_from(KEPT).unwrap() {
                publisher.publish_event(&exit(pid));
            }
            let events = publisher.queue.events.borrow();
            assert_eq!(events.len(), KEPT);
            assert!(events.iter().all(|event| topic(event) == EXIT));
            assert_eq!(publisher.queue.lost.get(), 2);
        });
    }

    #[test]
    fn draining_ends_when_containerd_stays_away() {
        run(async |fixture| {
            let publisher = fixture.publisher();
            publisher.publish_event(&started(1));
            publisher.drain(Duration::from_millis(1)).await;
            assert_eq!(publisher.queue.events.borrow().len(), 1);
        });
    }

    #[test]
    fn without_a_containerd_nothing_is_kept() {
        run(async |_| {
            let publisher = Publisher::start(None, &"k8s.io".parse().unwrap());
            publisher.publish_event(&started(1));
            publisher.drain(LONG).await;
            assert!(publisher.queue.events.borrow().is_empty());
        });
    }
}

//! The shim's log: lines as logrus writes them, into the fifo `log` of the bundle, which containerd copies to its
//! own log.
//!
//! Nothing here ever waits. When containerd is slow or away the fifo fills up; then the newest 64 KiB are kept
//! and what falls out is counted (containerd/containerd#4509, where shims hung in their log).

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Bytes kept while the fifo is full.
const KEPT: usize = 64 << 10;
/// How often a full fifo is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// The way to the fifo.
#[derive(Debug, Clone)]
pub(crate) struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines<File>>,
    /// Tells [`Log::write_kept`] that there is something to write.
    kept: Notify,
}

/// Sends all `tracing` events of this process to `fifo`. A bundle without one (a test, a person) has no log.
pub(crate) fn install(fifo: &Path, debug: bool) -> Log {
    let opened = dunnage_sys::fifo::open_both_ends(fifo);
    let missing = opened.as_ref().err().map(ToString::to_string);
    let log = Log(Arc::new(Shared { lines: Mutex::new(Lines::new(opened.ok())), kept: Notify::new() }));
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    // Fails only when there is a subscriber already, which then goes on.
    let _ = tracing::subscriber::set_global_default(Logrus { log: log.clone(), level });
    if let Some(error) = missing {
        tracing::debug!(error, "no log");
    }
    log
}

impl Log {
    /// Writes what was kept, as soon as the fifo takes it. Never returns.
    pub(crate) async fn write_kept(&self) {
        loop {
            while self.lines().is_waiting() {
                tokio::time::sleep(RETRY).await;
            }
            self.0.kept.notified().await;
        }
    }

    fn push(&self, line: &[u8]) {
        if !self.lines().push(line) {
            self.0.kept.notify_one();
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines<File>> {
        // A panic between two pushes leaves at worst a line missing.
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines on their way.
#[derive(Debug)]
struct Lines<W> {
    out: Option<W>,
    /// The rest of a line of which a part is written.
    begun: Vec<u8>,
    kept: VecDeque<Box<[u8]>>,
    bytes: usize,
    lost: u64,
}

impl<W: Write> Lines<W> {
    fn new(out: Option<W>) -> Self {
        Self { out, begun: Vec::new(), kept: VecDeque::new(), bytes: 0, lost: 0 }
    }

    /// False when something had to be kept.
    fn push(&mut self, line: &[u8]) -> bool {
        if self.out.is_none() {
            return true;
        }
        if !(self.flush() && self.write(line)) {
            self.keep(line);
        }
        self.begun.is_empty() && self.kept.is_empty()
    }

    fn keep(&mut self, line: &[u8]) {
        self.kept.push_back(line.into());
        self.bytes += line.len();
        while self.bytes > KEPT {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.len();
            self.lost += 1;
        }
    }

    /// Whether something is kept still, after another try to write it.
    fn is_waiting(&mut self) -> bool {
        self.out.is_some() && !self.flush()
    }

    /// True when nothing is kept any more.
    fn flush(&mut self) -> bool {
        let begun = std::mem::take(&mut self.begun);
        if !begun.is_empty() && !self.write(&begun) {
            self.begun = begun;
        }
        while self.begun.is_empty() {
            let Some(line) = self.kept.pop_front() else { break };
            if !self.write(&line) {
                self.kept.push_front(line);
                return false;
            }
            self.bytes -= line.len();
        }
        self.begun.is_empty() && self.tell_lost()
    }

    fn tell_lost(&mut self) -> bool {
        if self.lost > 0 {
            let lost = self.lost;
            let line = format!("{Now} level=warning msg=\"the log was full\" lines_lost={lost}\n");
            if !self.write(line.as_bytes()) {
                return false;
            }
            self.lost = 0;
            // A ring that was once full should not keep its size.
            self.kept = VecDeque::new();
        }
        self.begun.is_empty()
    }

    /// False when nothing of it is written. What is left of a line that was written in part is in `begun`.
    fn write(&mut self, line: &[u8]) -> bool {
        let Some(out) = &mut self.out else { return false };
        let mut rest = line;
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => {
                    // The fifo itself is broken, which cannot happen while it is open at both ends.
                    *self = Self::new(None);
                    return true;
                }
            }
        }
        let begun = rest.len() < line.len();
        if begun {
            self.begun = rest.to_vec();
        }
        begun
    }
}

/// Turns events into lines. Spans are not shown.
struct Logrus {
    log: Log,
    level: LevelFilter,
}

impl Subscriber for Logrus {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::new(*event.metadata().level());
        event.record(&mut line);
        self.log.push(line.finish().as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// One line: the message first, whatever the order of the fields.
struct Line {
    start: String,
    message: String,
    fields: String,
}

impl Line {
    fn new(level: Level) -> Self {
        let word = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        Self { start: format!("{Now} level={word}"), message: String::new(), fields: String::new() }
    }

    fn field(&mut self, name: &str, value: &str) {
        if name == "message" {
            put_quoted(&mut self.message, value);
            return;
        }
        self.fields.push(' ');
        self.fields.push_str(name);
        self.fields.push('=');
        // logrus: what needs no quotes gets none.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
        if !value.is_empty() && value.bytes().all(plain) {
            self.fields.push_str(value);
        } else {
            put_quoted(&mut self.fields, value);
        }
    }

    fn finish(self) -> String {
        let Self { mut start, message, fields } = self;
        start.push_str(" msg=");
        start.push_str(if message.is_empty() { "\"\"" } else { &message });
        start.push_str(&fields);
        start.push('\n');
        start
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field.name(), &format!("{value:?}"));
    }
}

/// As Go's `%q`: one line whatever the value has in it.
fn put_quoted(line: &mut String, value: &str) {
    line.push('"');
    for character in value.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // Writing to a String cannot fail.
            control if control.is_control() => drop(write!(line, "\\u{:04x}", u32::from(control))),
            other => line.push(other),
        }
    }
    line.push('"');
}

/// `time="…"` of this moment, in UTC with nanoseconds.
struct Now;

impl fmt::Display for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "time=\"{:.9}\"", jiff::Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then is full.
    #[derive(Debug, Default)]
    struct Pipe {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= taken;
            self.text.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(room: usize) -> Lines<Pipe> {
        Lines::new(Some(Pipe { room, text: Vec::new() }))
    }

    fn text(lines: &Lines<Pipe>) -> String {
        String::from_utf8(lines.out.as_ref().unwrap().text.clone()).unwrap()
    }

    fn make_room(lines: &mut Lines<Pipe>, room: usize) {
        lines.out.as_mut().unwrap().room = room;
    }

    #[test]
    fn lines_that_do_not_fit_wait_and_come_whole_and_in_order() {
        let mut lines = lines(9);
        assert!(lines.push(b"first\n"));
        assert!(!lines.push(b"second\n"));
        assert!(!lines.push(b"third\n"));
        assert_eq!(text(&lines), "first\nsec");
        make_room(&mut lines, 2);
        assert!(!lines.flush());
        make_room(&mut lines, 100);
        assert!(lines.flush());
        assert!(lines.push(b"fourth\n"));
        assert_eq!(text(&lines), "first\nsecond\nthird\nfourth\n");
        assert_eq!(lines.bytes, 0);
    }

    #[test]
    fn of_too_many_lines_the_oldest_are_lost_and_counted() {
        let mut lines = lines(0);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..66 {
            assert!(!lines.push(&line));
        }
        assert!(lines.bytes <= KEPT);
        make_room(&mut lines, 1 << 20);
        assert!(lines.push(b"last\n"));
        let text = text(&lines);
        assert_eq!(text.matches('x').count(), 64 * 1023);
        assert!(text.contains("lines_lost=2\n"), "{}", &text[text.len() - 200..]);
        assert!(text.ends_with("\nlast\n"));
    }

    #[test]
    fn without_a_fifo_nothing_is_kept() {
        let mut lines = Lines::<Pipe>::new(None);
        assert!(lines.push(b"line\n"));
        assert_eq!(lines.bytes, 0);
    }

    #[test]
    fn events_become_lines_as_logrus_writes_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        dunnage_sys::fifo::make(&path).unwrap();
        let log = Log(Arc::new(Shared {
            lines: Mutex::new(Lines::new(Some(dunnage_sys::fifo::open_both_ends(&path).unwrap()))),
            kept: Notify::new(),
        }));
        // Each test is a process of its own under nextest, and under cargo test this is the only one that logs.
        tracing::subscriber::set_global_default(Logrus { log, level: LevelFilter::INFO }).unwrap();
        let error = std::io::Error::other("no \"disk\"\nleft");
        tracing::warn!(id = "web-1", %error, count = 3, empty = "", "it {}", "failed");
        tracing::debug!("not shown");
        let mut text = vec![0; 4096];
        let read =
            std::io::Read::read(&mut dunnage_sys::fifo::open_both_ends(&path).unwrap(), &mut text).unwrap();
        let text = String::from_utf8(text[..read].to_vec()).unwrap();
        let (time, rest) = text.split_once(" level=").unwrap();
        assert_eq!(
            (time.len(), time.starts_with("time=\"20"), time.ends_with("Z\"")),
            (37, true, true),
            "{time}"
        );
        assert_eq!(
            rest,
            "warning msg=\"it failed\" id=web-1 error=\"no \\\"disk\\\"\\nleft\" count=3 empty=\"\"\n"
        );
    }
}

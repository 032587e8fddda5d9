//! Everything that is printed: logs of containers to the stream they came from, all else to standard error.
//!
//! Owns colour (only on a terminal, and never with NO_COLOR, no-color.org) and the columns. A stream that
//! nobody reads any more is no reason to end a pod, so what cannot be written is dropped; the macros of `std`
//! would panic.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

/// Where a container wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The two streams of this program, and the names that share them.
#[derive(Debug)]
pub(crate) struct Console {
    names: Vec<String>,
    width: usize,
    colour_out: bool,
    colour_err: bool,
    stdout: Mutex<tokio::io::Stdout>,
    stderr: Mutex<tokio::io::Stderr>,
}

/// Told apart on light and dark ground (ECMA-48 SGR).
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

impl Console {
    /// `names` are those of the containers, in their order.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = names.iter().map(String::len).max().unwrap_or(0).max("network".len());
        Self {
            names,
            width,
            colour_out: wanted && std::io::stdout().is_terminal(),
            colour_err: wanted && std::io::stderr().is_terminal(),
            stdout: Mutex::new(tokio::io::stdout()),
            stderr: Mutex::new(tokio::io::stderr()),
        }
    }

    /// One line of what is going on.
    pub(crate) fn say(&self, text: impl Display) {
        line_to_stderr(text);
    }

    /// One line about one thing: a container by its name, or a word such as `network`.
    pub(crate) fn tell(&self, about: &str, text: impl Display) {
        let padding = self.width.saturating_sub(about.len());
        let name = self.painted(about, self.colour_err);
        line_to_stderr(format_args!("  {name}{:padding$}  {text}", ""));
    }

    /// What follows under the line before.
    pub(crate) fn add(&self, text: impl Display) {
        line_to_stderr(format_args!("  {:width$}  {text}", "", width = self.width));
    }

    /// Bytes a container printed: whole lines, or a piece of one.
    pub(crate) async fn log(&self, name: &str, stream: Stream, bytes: &[u8]) {
        let text = |colour| prefixed(&self.prefix(name, colour), bytes);
        let _ = match stream {
            Stream::Stdout => write(&self.stdout, &text(self.colour_out)).await,
            Stream::Stderr => write(&self.stderr, &text(self.colour_err)).await,
        };
    }

    fn prefix(&self, name: &str, colour: bool) -> String {
        format!("{}{:padding$} | ", self.painted(name, colour), "", padding = self.longest() - name.len())
    }

    fn longest(&self) -> usize {
        self.names.iter().map(String::len).max().unwrap_or(0)
    }

    fn painted(&self, name: &str, colour: bool) -> String {
        match self.names.iter().position(|other| other == name).filter(|_| colour) {
            Some(index) => format!("\x1b[{}m{name}\x1b[0m", COLOURS[index % COLOURS.len()]),
            None => name.to_owned(),
        }
    }
}

async fn write<W: tokio::io::AsyncWrite + Unpin>(stream: &Mutex<W>, text: &[u8]) -> std::io::Result<()> {
    let mut stream = stream.lock().await;
    stream.write_all(text).await?;
    stream.flush().await
}

/// Each line with its prefix; a last line without an end gets one.
fn prefixed(prefix: &str, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() + prefix.len() * 2);
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        text.extend_from_slice(prefix.as_bytes());
        text.extend_from_slice(line);
    }
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

/// A result, to standard output.
pub(crate) fn data(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A failure that ends the program.
pub(crate) fn fail(text: impl Display) {
    line_to_stderr(format_args!("dunnage: {text}"));
}

/// Something that went wrong beside what was asked for.
pub(crate) fn warn(text: impl Display) {
    line_to_stderr(format_args!("dunnage: warning: {text}"));
}

/// Something worth knowing.
pub(crate) fn note(text: impl Display) {
    line_to_stderr(format_args!("dunnage: {text}"));
}

fn line_to_stderr(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A time as people read it.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 1.0 => format!("{:.1} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// Bytes as people wrote them: in the largest binary unit that is exact.
pub(crate) fn bytes(count: i64) -> String {
    let units = ["Gi", "Mi", "Ki"];
    let sizes = [1_i64 << 30, 1 << 20, 1 << 10];
    let fitting = sizes.iter().zip(units).find(|(size, _)| count >= **size && count % **size == 0);
    fitting.map_or_else(|| format!("{count} bytes"), |(size, unit)| format!("{}{unit}", count / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_container_and_an_end() {
        assert_eq!(prefixed("a | ", b"one\ntwo\n"), b"a | one\na | two\n");
        assert_eq!(prefixed("a | ", b"half"), b"a | half\n");
        assert_eq!(prefixed("a | ", b"\n"), b"a | \n");
    }

    #[test]
    fn names_share_a_column_and_have_colours_of_their_own() {
        let console = Console::new(vec!["a".to_owned(), "long".to_owned()]);
        assert_eq!(console.prefix("a", false), "a    | ");
        assert_eq!(console.prefix("long", true), "\x1b[33mlong\x1b[0m | ");
    }

    #[test]
    fn amounts_are_read_at_a_glance() {
        assert_eq!(
            (bytes(64 << 20).as_str(), bytes(1000).as_str(), bytes(1 << 30).as_str()),
            ("64Mi", "1000 bytes", "1Gi")
        );
        assert_eq!(duration(Duration::from_micros(12_340)), "12.3 ms");
        assert_eq!(duration(Duration::from_millis(2500)), "2.5 s");
    }
}

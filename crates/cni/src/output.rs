//! Everything that is printed: results and errors on stdout, what people should know on stderr.
#![expect(clippy::print_stderr, reason = "the one place that prints")]

use std::io::Write;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::version::{SUPPORTED, Version};

/// Prints a result.
///
/// # Errors
/// Nobody reads it any more.
pub(crate) fn json(value: &Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let printed = writeln!(stdout, "{value}").and_then(|()| stdout.flush());
    printed.map_err(|error| Error::io("write the result to stdout", &error))
}

/// Prints an error as the specification wants it.
pub(crate) fn error(error: &Error, version: Version) {
    // Whoever does not read it sees the exit code.
    let _ = json(&error.to_json(version.as_str()));
}

/// A line for the log of whoever runs the plugin.
pub(crate) fn note(text: &str) {
    eprintln!("dunnage-cni: {text}");
}

/// What the program is, for people who start it by hand.
pub(crate) fn about() {
    eprintln!(
        "dunnage-cni {}: a CNI plugin, run by a container runtime with CNI_COMMAND set\n\
         CNI versions: {}",
        env!("CARGO_PKG_VERSION"),
        SUPPORTED.map(Version::as_str).join(", ")
    );
}

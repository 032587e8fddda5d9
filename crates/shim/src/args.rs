//! The command line, in the syntax of Go's flag package, which is what containerd writes.
//!
//! `-x v`, `-x=v`, `--x v` and `--x=v` are the same; flags come before the action; a switch takes a value only
//! after `=`. Flags we do not know stop everything but `delete`: a container must be removable also by a
//! containerd newer than this binary.

use std::ffi::OsString;
use std::path::PathBuf;

use dunnage_spec::{ContainerId, ContainerdNamespace};

/// What this process was started for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// Make or find the serving process and print its address.
    Start(Args),
    /// Take down what a container left.
    Delete(Args),
    /// Be the serving process.
    Serve(Args),
    /// Print what this runtime can do.
    Info,
    /// Print the version for people.
    Version,
    /// Print the flags for people.
    Help,
}

/// The flags of the three actions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    /// containerd's tenancy label.
    pub(crate) namespace: ContainerdNamespace,
    /// The container, or the sandbox.
    pub(crate) id: ContainerId,
    /// containerd's gRPC socket, a path.
    pub(crate) address: String,
    /// The bundle; absent means the current directory.
    pub(crate) bundle: Option<PathBuf>,
    /// Our own socket as `unix://…`; only between `start` and the serving process.
    pub(crate) socket: String,
    /// Log more.
    pub(crate) debug: bool,
}

/// Why the command line cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// As Go says it.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// The last word is a flag that takes a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// `-debug=maybe`
    #[error("invalid boolean value {value:?} for -{flag}")]
    NotBoolean {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
    /// Neither `start` nor `delete`.
    #[error("unknown action {0:?}: neither start nor delete")]
    UnknownAction(String),
    /// `-id` or `-namespace` cannot name anything.
    #[error("-{flag}: {reason}")]
    BadName {
        /// The flag.
        flag: &'static str,
        /// Why.
        reason: String,
    },
    /// An argument is not text.
    #[error("argument is not UTF-8: {0:?}")]
    NotText(OsString),
}

pub(crate) const HELP: &str = "\
Usage of containerd-shim-dunnage-v1: containerd starts it; `dunnage` is the command for people.
  -address string          containerd's gRPC socket
  -bundle string           the bundle, when it is not the current directory
  -debug                   log more
  -id string               id of the container
  -info                    print what this runtime can do, as containerd.types.RuntimeInfo
  -namespace string        containerd namespace of the container
  -publish-binary string   ignored: events go to TTRPC_ADDRESS
  -socket string           address of the serving process's socket
  -v                       print the version
Actions: start, delete; none is to serve on descriptor 3.
";

impl Invocation {
    /// Reads the command line without its first word.
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, ArgsError> {
        let words: Vec<String> =
            args.map(|arg| arg.into_string().map_err(ArgsError::NotText)).collect::<Result<_, _>>()?;
        let flags = Flags::parse(&words)?;
        if flags.help {
            return Ok(Self::Help);
        }
        if flags.version {
            return Ok(Self::Version);
        }
        if flags.info {
            return Ok(Self::Info);
        }
        match (flags.action, flags.unknown) {
            (Some("delete"), _) => Ok(Self::Delete(flags.values.check()?)),
            (_, Some(flag)) => Err(ArgsError::Unknown(flag.to_owned())),
            (Some("start"), None) => Ok(Self::Start(flags.values.check()?)),
            (None, None) => Ok(Self::Serve(flags.values.check()?)),
            (Some(word), None) => Err(ArgsError::UnknownAction(word.to_owned())),
        }
    }
}

#[derive(Default)]
struct Flags<'a> {
    values: Values<'a>,
    help: bool,
    version: bool,
    info: bool,
    /// The first flag we do not know.
    unknown: Option<&'a str>,
    action: Option<&'a str>,
}

#[derive(Default)]
struct Values<'a> {
    namespace: &'a str,
    id: &'a str,
    address: &'a str,
    bundle: &'a str,
    socket: &'a str,
    debug: bool,
}

impl<'a> Flags<'a> {
    fn parse(words: &'a [String]) -> Result<Self, ArgsError> {
        let mut flags = Self::default();
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                flags.action = Some(word);
                break;
            };
            rest = after;
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            if flag.is_empty() {
                // "--" ends the flags.
                flags.action = rest.first().map(String::as_str);
                break;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            flags.take(name, value, &mut rest)?;
        }
        Ok(flags)
    }

    /// Takes one flag; its value may be the next word of `rest`.
    fn take(
        &mut self,
        name: &'a str,
        value: Option<&'a str>,
        rest: &mut &'a [String],
    ) -> Result<(), ArgsError> {
        if let Some(switch) = self.switch(name) {
            *switch = value.is_none_or(|value| is_true(value).unwrap_or_default());
            return match value {
                Some(value) if is_true(value).is_none() => {
                    Err(ArgsError::NotBoolean { flag: name.to_owned(), value: value.to_owned() })
                }
                _ => Ok(()),
            };
        }
        let Some(slot) = self.values.slot(name) else {
            self.unknown = self.unknown.or(Some(name));
            if value.is_none() {
                skip_value_of_unknown(rest);
            }
            return Ok(());
        };
        let value = match value {
            Some(value) => value,
            None => {
                let (next, after) = rest.split_first().ok_or_else(|| ArgsError::NoValue(name.to_owned()))?;
                *rest = after;
                next
            }
        };
        if let Some(slot) = slot {
            *slot = value;
        }
        Ok(())
    }

    fn switch(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "debug" => Some(&mut self.values.debug),
            "h" | "help" => Some(&mut self.help),
            "v" | "version" => Some(&mut self.version),
            "info" => Some(&mut self.info),
            _ => None,
        }
    }
}

impl<'a> Values<'a> {
    /// Where the value of a flag goes: `None` for flags we do not know, `Some(None)` for those we ignore.
    fn slot(&mut self, name: &str) -> Option<Option<&mut &'a str>> {
        Some(match name {
            "namespace" => Some(&mut self.namespace),
            "id" => Some(&mut self.id),
            "address" => Some(&mut self.address),
            "bundle" => Some(&mut self.bundle),
            "socket" => Some(&mut self.socket),
            "publish-binary" | "debug-socket" => None,
            _ => return None,
        })
    }

    fn check(self) -> Result<Args, ArgsError> {
        fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
            flag: &'static str,
            value: &str,
        ) -> Result<T, ArgsError> {
            value.parse().map_err(|error: T::Err| ArgsError::BadName { flag, reason: error.to_string() })
        }
        Ok(Args {
            namespace: named("namespace", self.namespace)?,
            id: named("id", self.id)?,
            address: self.address.to_owned(),
            bundle: (!self.bundle.is_empty()).then(|| self.bundle.into()),
            socket: self.socket.to_owned(),
            debug: self.debug,
        })
    }
}

/// Go's `strconv.ParseBool`.
fn is_true(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Nobody knows whether a flag from the future takes a value. What follows it is taken for one unless it is a
/// flag itself or the last word, which is the action.
fn skip_value_of_unknown(rest: &mut &[String]) {
    if let [next, after @ ..] = *rest
        && !next.starts_with('-')
        && !after.is_empty()
    {
        *rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, ArgsError> {
        Invocation::parse(line.split_whitespace().map(OsString::from))
    }

    fn args(namespace: &str, id: &str) -> Args {
        Args {
            namespace: namespace.parse().unwrap(),
            id: id.parse().unwrap(),
            address: String::new(),
            bundle: None,
            socket: String::new(),
            debug: false,
        }
    }

    #[test]
    fn the_command_lines_of_containerd_are_understood() {
        let start = "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd \
                     -id abc -debug start";
        let expected =
            Args { address: "/run/containerd/containerd.sock".into(), debug: true, ..args("k8s.io", "abc") };
        assert_eq!(parse(start), Ok(Invocation::Start(expected)));
        let delete = "-namespace default -address /a -publish-binary /usr/bin/containerd -id abc -bundle /b/abc delete";
        let expected = Args { address: "/a".into(), bundle: Some("/b/abc".into()), ..args("default", "abc") };
        assert_eq!(parse(delete), Ok(Invocation::Delete(expected)));
        assert_eq!(parse("-info"), Ok(Invocation::Info));
        assert_eq!(parse("-v"), Ok(Invocation::Version));
        assert_eq!(parse("--help"), Ok(Invocation::Help));
    }

    #[test]
    fn all_spellings_of_a_flag_are_the_same() {
        let expected = Ok(Invocation::Serve(Args { debug: true, ..args("n", "x") }));
        for line in [
            "-namespace n -id x -debug",
            "-namespace=n -id=x -debug=true",
            "--namespace n --id x --debug",
            "--namespace=n --id=x --debug=1",
            "-debug -id y -id x -namespace n",
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
        let quiet = Ok(Invocation::Serve(args("n", "x")));
        assert_eq!(parse("-namespace n -id x -debug=false"), quiet);
        assert_eq!(parse("-namespace n -id x -- "), quiet);
    }

    #[test]
    fn a_flag_from_the_future_stops_start_but_not_delete() {
        assert_eq!(parse("-namespace n -id x -shiny start"), Err(ArgsError::Unknown("shiny".into())));
        for line in [
            "-namespace n -id x -shiny delete",
            "-namespace n -shiny=new -id x delete",
            "-namespace n -shiny new -id x delete",
            "-shiny -namespace n -id x delete",
        ] {
            assert_eq!(parse(line), Ok(Invocation::Delete(args("n", "x"))), "{line}");
        }
    }

    #[test]
    fn faults_are_told_as_go_tells_them() {
        for (line, text) in [
            ("-id", "flag needs an argument: -id"),
            ("-debug=maybe -id x", "invalid boolean value \"maybe\" for -debug"),
            ("-namespace n -id x restart", "unknown action \"restart\": neither start nor delete"),
            ("-namespace n -id ../x start", "-id: id \"../x\": starts with a dot"),
            ("-id x start", "-namespace: id \"\": is empty"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), text, "{line}");
        }
    }
}

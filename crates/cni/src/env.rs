//! What a runtime says in the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dunnage_net::{IfName, Netns, Owner};

use crate::error::{Error, INCOMPATIBLE_VERSION, INVALID_ENVIRONMENT, INVALID_NETNS, Result};
use crate::version::Version;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            _ => Err(invalid(format!("CNI_COMMAND {name:?} is not a command"))),
        }
    }

    /// # Errors
    /// The version does not have the command.
    pub(crate) fn check_version(self, version: Version) -> Result<()> {
        let (name, first) = match self {
            Self::Check => ("CHECK", Version::V0_4_0),
            Self::Gc => ("GC", Version::V1_1_0),
            Self::Status => ("STATUS", Version::V1_1_0),
            Self::Add | Self::Del | Self::Version => return Ok(()),
        };
        if version >= first {
            return Ok(());
        }
        Err(Error::new(
            INCOMPATIBLE_VERSION,
            format!(
                "cniVersion {} does not have {name}, which came with {}",
                version.as_str(),
                first.as_str()
            ),
        ))
    }

    fn is_about_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

/// The variables of one call.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    owner: Option<Owner>,
    netns: Option<PathBuf>,
    args: BTreeMap<String, String>,
}

impl Environment {
    /// Reads the variables that the command needs.
    ///
    /// # Errors
    /// Some are missing, all of which are named, or cannot be used.
    pub(crate) fn read(command: Command) -> Result<Self> {
        Self::from(command, |name| std::env::var(name).ok())
    }

    fn from(command: Command, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status | Command::Version => &[],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|name| variable(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(invalid("required environment variables are missing").because(missing.join(", ")));
        }
        let mut owner = None;
        if command.is_about_a_container() {
            let id = variable("CNI_CONTAINERID").unwrap_or_default();
            let ifname = variable("CNI_IFNAME").unwrap_or_default();
            let ifname: IfName =
                ifname.parse().map_err(|error| invalid("CNI_IFNAME cannot be used").because(error))?;
            let made = Owner::new(&id, ifname);
            owner = Some(made.map_err(|error| invalid("CNI_CONTAINERID cannot be used").because(error))?);
        }
        let args = match command {
            Command::Add | Command::Check => parse_args(&variable("CNI_ARGS").unwrap_or_default())?,
            // Whatever they say, it does not matter to what is there already.
            _ => BTreeMap::new(),
        };
        Ok(Self { owner, netns: variable("CNI_NETNS").map(PathBuf::from), args })
    }

    /// Container and interface.
    pub(crate) fn owner(&self) -> Result<&Owner> {
        self.owner.as_ref().ok_or_else(|| invalid("CNI_CONTAINERID and CNI_IFNAME are missing"))
    }

    /// The path of the container's network namespace as it was given.
    pub(crate) fn netns_path(&self) -> &str {
        self.netns.as_ref().and_then(|path| path.to_str()).unwrap_or_default()
    }

    /// The container's network namespace.
    pub(crate) fn netns(&self) -> Result<Netns> {
        let path = self.netns.as_deref().ok_or_else(|| invalid("CNI_NETNS is missing"))?;
        let opened = Netns::open(path);
        opened.map_err(|error| {
            let msg = format!("CNI_NETNS {} is not a network namespace", path.display());
            Error::new(INVALID_NETNS, msg).because(error)
        })
    }

    /// One of CNI_ARGS.
    pub(crate) fn arg(&self, key: &str) -> Option<&str> {
        self.args.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Keys that runtimes send; others are refused unless `IgnoreUnknown` says that they may be there.
const KNOWN_ARGS: &[&str] = &[
    "IgnoreUnknown",
    "IP",
    "MAC",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
];

fn parse_args(text: &str) -> Result<BTreeMap<String, String>> {
    let mut args = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| invalid(format!("CNI_ARGS has {pair:?}, which is not KEY=VALUE")))?;
        args.insert(key.to_owned(), value.to_owned());
    }
    let lenient = args
        .get("IgnoreUnknown")
        .is_some_and(|value| matches!(value.as_str(), "1" | "true" | "True" | "TRUE"));
    match args.keys().find(|key| !KNOWN_ARGS.contains(&key.as_str())) {
        Some(key) if !lenient => Err(invalid(format!("CNI_ARGS has the unknown key {key:?}"))
            .because("IgnoreUnknown=1 would allow it")),
        _ => Ok(args),
    }
}

fn invalid(msg: impl Into<String>) -> Error {
    Error::new(INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
impl Environment {
    /// Of a container's ADD, with one more variable.
    pub(crate) fn for_test(key: &str, value: &str) -> Self {
        Self::from(Command::Add, |name| match name {
            "CNI_CONTAINERID" => Some("abc".to_owned()),
            "CNI_NETNS" => Some("/run/netns/x".to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            _ if name == key => Some(value.to_owned()),
            _ => None,
        })
        .expect("a sound environment")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: Command, variables: &[(&str, &str)]) -> Result<Environment> {
        Environment::from(command, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const ALL: [(&str, &str); 3] =
        [("CNI_CONTAINERID", "abc"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];

    #[test]
    fn all_missing_variables_are_named_at_once_and_an_empty_one_is_missing() {
        let error = read(Command::Add, &[("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "")]).unwrap_err();
        assert_eq!((error.code, error.details.as_str()), (INVALID_ENVIRONMENT, "CNI_NETNS, CNI_IFNAME"));
        assert!(read(Command::Del, &[ALL[0], ALL[2]]).is_ok(), "DEL needs no namespace");
        assert!(read(Command::Gc, &[]).is_ok());
    }

    #[test]
    fn names_that_cannot_be_used_are_refused() {
        for (key, value) in [
            ("CNI_CONTAINERID", "../x"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "sixteen-bytes-xx"),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "A=B=C"),
            ("CNI_ARGS", "A"),
            ("CNI_ARGS", "Unknown=1"),
        ] {
            let mut variables = vec![(key, value)];
            variables.extend(ALL.iter().filter(|(name, _)| *name != key));
            assert_eq!(
                read(Command::Add, &variables).unwrap_err().code,
                INVALID_ENVIRONMENT,
                "{key}={value}"
            );
        }
    }

    #[test]
    fn what_containerd_sends_is_understood() {
        let args = "K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;SOMETHING=new";
        let mut variables = ALL.to_vec();
        variables.push(("CNI_ARGS", args));
        let environment = read(Command::Add, &variables).unwrap();
        assert_eq!(environment.arg("K8S_POD_NAME"), Some("web"));
        assert_eq!(environment.owner().unwrap().to_string(), "eth0 of abc");
    }

    #[test]
    fn a_version_has_only_its_own_commands() {
        assert!(Command::Check.check_version(Version::V0_3_1).is_err());
        assert!(Command::Check.check_version(Version::V0_4_0).is_ok());
        assert!(Command::Gc.check_version(Version::V1_0_0).is_err());
        assert!(Command::Status.check_version(Version::V1_1_0).is_ok());
    }
}

//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// dunnage runs pods and explains how.
#[derive(Debug, Parser)]
#[command(name = "dunnage", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pods without a cluster.
    #[command(subcommand)]
    Pod(PodCommand),
    /// Print what would happen in the kernel to make the container of a bundle: every step with its reason.
    Plan {
        /// Directory with an OCI config.json.
        bundle: PathBuf,
        /// The container's id, which names its cgroup when the bundle does not.
        #[arg(long, default_value = "container")]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// Run the Pod of a manifest to its end, without containerd.
    ///
    /// The first Ctrl-C or SIGTERM stops the containers and leaves them their grace period, the second kills
    /// them. The exit code is 0 when all containers succeed, else that of the first to fail; 128+n when
    /// signal n stopped the run. A run that is itself killed by SIGKILL leaves its pod running; `dunnage pod
    /// clean`, or the next run, removes it.
    Run {
        /// A Kubernetes v1 Pod in YAML.
        manifest: PathBuf,
        #[command(flatten)]
        place: Place,
        /// The shim to run the pod with; else the one beside this program, or in PATH.
        #[arg(long, value_name = "FILE")]
        shim: Option<PathBuf>,
        /// Cgroup under which those of pods are made.
        #[arg(long, value_name = "PATH", default_value = "/dunnage", value_parser = cgroup_path)]
        cgroup_root: String,
        /// Show what the shim logs.
        #[arg(long)]
        debug: bool,
    },
    /// Remove what runs have left that were killed.
    ///
    /// The next run does the same before it starts.
    Clean {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// Where images are unpacked and runs keep their state, for as long as they take.
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/dunnage")]
    pub(crate) root: PathBuf,
}

fn cgroup_path(text: &str) -> Result<String, String> {
    let clean = text.trim_end_matches('/');
    let plain = clean.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if clean.starts_with('/') && plain && !clean.contains(':') {
        Ok(clean.to_owned())
    } else {
        Err("an absolute path such as /dunnage is wanted".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn a_cgroup_root_is_an_absolute_path() {
        assert_eq!(cgroup_path("/a/b/").as_deref(), Ok("/a/b"));
        for text in ["", "/", "a", "/a/../b", "/a//b", "a.slice:x:y", "/a:b"] {
            assert!(cgroup_path(text).is_err(), "{text}");
        }
    }
}

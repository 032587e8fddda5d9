//! What an image says about running it.

use oci_spec::image::ImageConfiguration;

/// The parts of an image's configuration that a container takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: Option<String>,
    /// `user[:group]`, numbers or names.
    pub(crate) user: Option<String>,
    /// A number or a name such as `SIGQUIT`.
    pub(crate) stop_signal: Option<String>,
}

impl Config {
    pub(super) fn of(image: &ImageConfiguration) -> Self {
        let Some(config) = image.config() else { return Self::default() };
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: filled(config.working_dir()),
            user: filled(config.user()),
            stop_signal: filled(config.stop_signal()),
        }
    }

    /// The command line: `command` and `args` of the manifest replace the image's, and a `command` alone
    /// drops the image's arguments with its entry point.
    pub(crate) fn command_line(&self, command: &[String], args: &[String]) -> Vec<String> {
        match (command, args) {
            ([], []) => [self.entrypoint.as_slice(), &self.cmd].concat(),
            ([], args) => [self.entrypoint.as_slice(), args].concat(),
            (command, args) => [command, args].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_replaces_entry_point_and_arguments_as_kubernetes_documents() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let config = Config { entrypoint: words("/ep-1"), cmd: words("foo bar"), ..Config::default() };
        let rows = [
            ("", "", "/ep-1 foo bar"),
            ("/ep-2", "", "/ep-2"),
            ("", "zoo boo", "/ep-1 zoo boo"),
            ("/ep-2", "zoo boo", "/ep-2 zoo boo"),
        ];
        for (command, args, want) in rows {
            assert_eq!(
                config.command_line(&words(command), &words(args)),
                words(want),
                "{command:?} {args:?}"
            );
        }
    }
}

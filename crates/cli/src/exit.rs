//! What an exit code means, and signals by name.

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The status, or 128 + n for signal n.
    pub(crate) code: u8,
    /// Whether the kernel killed a process of the container for memory.
    pub(crate) out_of_memory: bool,
}

impl Exit {
    /// In words, without the number.
    pub(crate) fn meaning(self) -> String {
        match self.code {
            0 => "success".to_owned(),
            126 => "the program is there but cannot be executed".to_owned(),
            127 => "there is no such program".to_owned(),
            137 if self.out_of_memory => {
                "OOMKilled: the kernel killed it for exceeding its memory limit".to_owned()
            }
            code @ 129.. => match signal_name(code - 128) {
                Some(name) => format!("killed by {name}"),
                None => "the program's own code".to_owned(),
            },
            _ if self.out_of_memory => {
                "the program's own code, after the kernel killed one of its processes for memory".to_owned()
            }
            _ => "the program's own code".to_owned(),
        }
    }
}

/// Signals by number from 1 (signal(7), x86 and ARM).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first real-time signal that a C library leaves to programs.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

fn signal_name(number: u8) -> Option<String> {
    let index = usize::from(number).checked_sub(1)?;
    match SIGNALS.get(index) {
        Some(name) => Some(format!("SIG{name}")),
        None if (RTMIN..=RTMAX).contains(&number) => Some(format!("SIGRTMIN+{}", number - RTMIN)),
        None => None,
    }
}

/// The number of `SIGQUIT`, `QUIT`, `3` or `SIGRTMIN+3`, as images name the signal that stops them.
pub(crate) fn signal_number(name: &str) -> Option<u8> {
    if let Ok(number) = name.parse::<u8>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: u8 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return RTMIN.checked_add(offset).filter(|number| *number <= RTMAX);
    }
    let index = SIGNALS.iter().position(|known| *known == name)?;
    u8::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(code: u8, out_of_memory: bool) -> String {
        Exit { code, out_of_memory }.meaning()
    }

    #[test]
    fn every_kind_of_code_says_what_it_is() {
        assert_eq!(meaning(0, false), "success");
        assert_eq!(meaning(1, false), "the program's own code");
        assert_eq!(meaning(125, false), "the program's own code");
        assert_eq!(meaning(126, false), "the program is there but cannot be executed");
        assert_eq!(meaning(127, false), "there is no such program");
        assert_eq!(meaning(143, false), "killed by SIGTERM");
        assert_eq!(meaning(137, false), "killed by SIGKILL");
        assert!(meaning(137, true).starts_with("OOMKilled"));
        assert!(meaning(1, true).contains("for memory"));
        assert_eq!(meaning(255, false), "the program's own code");
        assert_eq!(meaning(128 + 37, false), "killed by SIGRTMIN+3");
    }

    #[test]
    fn images_may_name_a_signal_in_any_of_its_forms() {
        for (name, number) in
            [("SIGTERM", 15), ("QUIT", 3), ("9", 9), ("SIGRTMIN+3", 37), ("SIGRTMIN", 34), ("SIGSYS", 31)]
        {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for name in ["", "SIG", "0", "65", "SIGNOTHING", "RTMIN+99", "RTMIN-1"] {
            assert_eq!(signal_number(name), None, "{name}");
        }
    }
}

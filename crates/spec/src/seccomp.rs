//! `linux.seccomp`, checked; [`crate::Spec`] carries it, `dunnage-seccomp` compiles it.

mod check;

/// A system call filter as the OCI specification describes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Profile {
    /// What happens to a call that no rule names.
    pub default_action: Action,
    /// Architectures whose calls are filtered by the rules; calls of others end the process.
    pub architectures: Vec<Arch>,
    /// Flags of seccomp(2).
    pub flags: Flags,
    /// In order.
    pub rules: Vec<Rule>,
}

/// What happens to a call (seccomp(2)); `NOTIFY` is refused when the spec is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The process ends.
    KillProcess,
    /// The thread ends.
    KillThread,
    /// SIGSYS.
    Trap,
    /// The call fails with this errno.
    Errno(u16),
    /// A tracer decides; the value goes with the event.
    Trace(u16),
    /// Allowed and logged.
    Log,
    /// Allowed.
    Allow,
}

/// Architectures of the call numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names of the architectures")]
pub enum Arch {
    X86,
    X86_64,
    X32,
    Arm,
    Aarch64,
}

/// Flags of seccomp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags {
    /// `SECCOMP_FILTER_FLAG_LOG`
    pub log: bool,
    /// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`
    pub spec_allow: bool,
    /// `SECCOMP_FILTER_FLAG_TSYNC`
    pub tsync: bool,
}

/// One entry of `syscalls`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Names, known to this kernel or not.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// All must hold, but several about one argument are alternatives (as libseccomp users expect).
    pub conditions: Vec<Condition>,
}

/// A comparison of one argument of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Argument number, 0 to 5.
    pub argument: u8,
    /// How.
    pub operator: Operator,
    /// With what; the mask for `MaskedEqual`.
    pub value: u64,
    /// The value after masking, for `MaskedEqual` only.
    pub value_two: u64,
}

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names of the specification")]
pub enum Operator {
    NotEqual,
    LessThan,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    GreaterThan,
    MaskedEqual,
}

//! Checks `linux.seccomp`; names of system calls stay as they are, since the compiler has the tables.

use crate::error::{Checked, Within as _, invalid, unsupported};
use crate::json;
use crate::seccomp::{Action, Arch, Condition, Flags, Operator, Profile, Rule};

/// EPERM, which the specification and libseccomp's users take when no errno is given.
const EPERM: u16 = 1;

/// The largest errno a filter can return (MAX_ERRNO; larger ones are cut to it by the kernel).
const ERRNO_MAX: u32 = 4095;

impl Profile {
    pub(crate) fn check(seccomp: json::Seccomp, warnings: &mut Vec<String>) -> Checked<Self> {
        if seccomp.listener_path.as_ref().is_some_and(|path| !path.is_empty()) {
            return unsupported("listenerPath", "user-space notification is");
        }
        let Some(default_action) = seccomp.default_action else {
            return invalid("defaultAction", "is missing");
        };
        Ok(Self {
            default_action: action(
                "defaultAction",
                &default_action,
                "defaultErrnoRet",
                seccomp.default_errno_ret,
            )?,
            architectures: architectures(&seccomp.architectures.unwrap_or_default(), warnings)?,
            flags: flags(seccomp.flags.as_deref())?,
            rules: rules(seccomp.syscalls.unwrap_or_default())?,
        })
    }
}

fn action(field: &str, word: &str, errno_field: &str, errno: Option<u32>) -> Checked<Action> {
    let action = match word {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => return errno_value(errno_field, errno, ERRNO_MAX).map(Action::Errno),
        "SCMP_ACT_TRACE" => return errno_value(errno_field, errno, u16::MAX.into()).map(Action::Trace),
        "SCMP_ACT_NOTIFY" => return unsupported(field, "user-space notification is"),
        _ => return invalid(field, format!("{word:?} is no action")),
    };
    if errno.is_some_and(|errno| errno != 0) {
        return invalid(errno_field, format!("{word} returns no errno"));
    }
    Ok(action)
}

fn errno_value(field: &str, errno: Option<u32>, max: u32) -> Checked<u16> {
    let Some(errno) = errno else { return Ok(EPERM) };
    match u16::try_from(errno) {
        Ok(value) if errno <= max => Ok(value),
        _ => invalid(field, format!("{errno} is above {max}")),
    }
}

fn architectures(names: &[String], warnings: &mut Vec<String>) -> Checked<Vec<Arch>> {
    let mut architectures = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        let arch = match name.as_str() {
            "SCMP_ARCH_X86" => Arch::X86,
            "SCMP_ARCH_X86_64" => Arch::X86_64,
            "SCMP_ARCH_X32" => Arch::X32,
            "SCMP_ARCH_ARM" => Arch::Arm,
            "SCMP_ARCH_AARCH64" => Arch::Aarch64,
            name if FOREIGN.contains(&name) => {
                // No process of the machines dunnage runs on makes such calls.
                warnings.push(format!("linux.seccomp.architectures: {name} is ignored"));
                continue;
            }
            _ => return invalid(format!("architectures[{i}]"), format!("{name:?} is no architecture")),
        };
        if !architectures.contains(&arch) {
            architectures.push(arch);
        }
    }
    Ok(architectures)
}

/// The architectures of the specification that dunnage does not run on.
const FOREIGN: [&str; 17] = [
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
];

// Without the field runc and crun ask for SPEC_ALLOW, which is what workloads are measured with; an empty
// list asks for nothing.
fn flags(words: Option<&[String]>) -> Checked<Flags> {
    let Some(words) = words else { return Ok(Flags { spec_allow: true, ..Flags::default() }) };
    let mut flags = Flags::default();
    for (i, word) in words.iter().enumerate() {
        match word.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => flags.log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flags.spec_allow = true,
            "SECCOMP_FILTER_FLAG_TSYNC" => flags.tsync = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
                return unsupported(format!("flags[{i}]"), "user-space notification is");
            }
            _ => return invalid(format!("flags[{i}]"), format!("{word:?} is no flag")),
        }
    }
    Ok(flags)
}

fn rules(syscalls: Vec<json::Syscall>) -> Checked<Vec<Rule>> {
    let check = |(i, syscall)| rule(syscall).within(|| format!("syscalls[{i}]"));
    syscalls.into_iter().enumerate().map(check).collect()
}

fn rule(syscall: json::Syscall) -> Checked<Rule> {
    let names = syscall.names.unwrap_or_default();
    if names.is_empty() {
        return invalid("names", "is empty");
    }
    let Some(word) = syscall.action else { return invalid("action", "is missing") };
    let action = action("action", &word, "errnoRet", syscall.errno_ret)?;
    let check = |(i, argument)| condition(&argument).within(|| format!("args[{i}]"));
    let conditions: Checked<_> =
        syscall.args.unwrap_or_default().into_iter().enumerate().map(check).collect();
    Ok(Rule { names, action, conditions: conditions? })
}

fn condition(argument: &json::Argument) -> Checked<Condition> {
    let index = argument.index.unwrap_or(0);
    let argument_number = match u8::try_from(index) {
        Ok(number) if number < 6 => number,
        _ => return invalid("index", format!("{index} is not between 0 and 5")),
    };
    let operator = match argument.op.as_deref().unwrap_or_default() {
        "SCMP_CMP_NE" => Operator::NotEqual,
        "SCMP_CMP_LT" => Operator::LessThan,
        "SCMP_CMP_LE" => Operator::LessOrEqual,
        "SCMP_CMP_EQ" => Operator::Equal,
        "SCMP_CMP_GE" => Operator::GreaterOrEqual,
        "SCMP_CMP_GT" => Operator::GreaterThan,
        "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual,
        "" => return invalid("op", "is missing"),
        word => return invalid("op", format!("{word:?} is no comparison")),
    };
    let (value, value_two) = (argument.value.unwrap_or(0), argument.value_two.unwrap_or(0));
    Ok(Condition { argument: argument_number, operator, value, value_two })
}

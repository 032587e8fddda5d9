//! The program that runs inside test containers: it does one thing a container must allow, limit or refuse,
//! and says what it saw.
//!
//! Results are JSON or plain text on stdout and the exit code. It is static, so it runs in an empty image.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is what the tests read")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::reboot::RebootMode;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};
use nix::sys::stat::{Mode, SFlag};
use nix::time::ClockId;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;

const USAGE: &str = "probe exit CODE | signal NUMBER | allocate MIB | fork-bomb LIMIT | print BYTES | \
                     print-error BYTES | serve PORT | connect ADDRESS | ignore-term | on-term CODE | \
                     orphans COUNT | sleep SECONDS | burn SECONDS | show | syscall NAME";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::from(100)
        }
    }
}

fn run(words: &[&str]) -> io::Result<ExitCode> {
    match words {
        ["exit", code] => return Ok(ExitCode::from(number::<u8>(code)?)),
        ["signal", signal] => kill_self(number(signal)?)?,
        ["allocate", mib] => allocate(number(mib)?),
        ["fork-bomb", limit] => fork_bomb(number(limit)?),
        ["print", bytes] => print(&mut io::stdout().lock(), number(bytes)?)?,
        ["print-error", bytes] => print(&mut io::stderr().lock(), number(bytes)?)?,
        ["serve", port] => serve(number(port)?)?,
        ["connect", address] => connect(address)?,
        ["ignore-term"] => wait_for_term(Some(Duration::MAX))?,
        ["on-term", code] => {
            wait_for_term(None)?;
            return Ok(ExitCode::from(number::<u8>(code)?));
        }
        ["orphans", count] => orphans(number(count)?)?,
        ["parent-of", count] => parent_of(number(count)?)?,
        ["sleep", seconds] => thread::sleep(Duration::from_secs_f64(number(seconds)?)),
        ["burn", seconds] => burn(Duration::from_secs_f64(number(seconds)?)),
        ["show"] => println!("{}", show()?),
        ["syscall", name] => println!("{}", syscall(name)?),
        _ => return Err(io::Error::other(USAGE)),
    }
    Ok(ExitCode::SUCCESS)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("{text} is not a number in range; {USAGE}")))
}

fn kill_self(signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other("not a named signal"))?;
    kill_process(getpid(), signal)?;
    // The default action ends the process before this; PID 1 of a namespace survives its own signal.
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Touches every page, so that the memory is charged and not only promised.
fn allocate(mib: usize) {
    let mut memory = Vec::new();
    for _ in 0..mib {
        memory.push(vec![1_u8; 1 << 20]);
    }
    println!("allocated {} MiB", memory.len());
}

/// Starts children that stay until the kernel refuses one, says how many there were, then ends them.
fn fork_bomb(limit: usize) {
    let mut children: Vec<Child> = Vec::new();
    let mut refused = None;
    while children.len() < limit {
        match probe(&["sleep", "600"]).spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                refused = error.raw_os_error().map(Errno::from_raw);
                break;
            }
        }
    }
    println!("{}", json!({ "children": children.len(), "errno": refused.map(|errno| format!("{errno:?}")) }));
    for mut child in children {
        // Ending them is a courtesy to the reader of the output; the container's end takes care of the rest.
        _ = child.kill();
        _ = child.wait();
    }
}

// Lines of 64 bytes that begin with their number, so that a test sees which one is missing.
fn print(to: &mut impl Write, bytes: usize) -> io::Result<()> {
    let mut left = bytes;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let line = format!("{number:08} {:.<54}\n", "");
        let part = left.min(line.len());
        to.write_all(&line.as_bytes()[..part])?;
        left -= part;
    }
    to.flush()
}

/// Answers every connection with the host name, for ever.
fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("serving {port}");
    io::stdout().flush()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        writeln!(stream, "{}", hostname())?;
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<()> {
    let mut answer = String::new();
    TcpStream::connect(address)?.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(())
}

/// Says when the handler stands, so that a test does not signal too early. With `then`, stays on after TERM.
fn wait_for_term(then: Option<Duration>) -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&seen))?;
    println!("ready");
    io::stdout().flush()?;
    while !seen.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(5));
    }
    println!("terminated");
    io::stdout().flush()?;
    if let Some(then) = then {
        thread::sleep(then);
    }
    Ok(())
}

/// Leaves `count` processes without their parent, as a daemon's double fork does, and stays: whoever adopts
/// them must reap them when they exit.
fn orphans(count: usize) -> io::Result<()> {
    probe(&["parent-of", &count.to_string()]).status()?;
    println!("orphaned {count}");
    Ok(())
}

fn parent_of(count: usize) -> io::Result<()> {
    for _ in 0..count {
        probe(&["sleep", "0.2"]).spawn()?;
    }
    Ok(())
}

fn probe(words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(words);
    command
}

fn burn(duration: Duration) {
    let start = Instant::now();
    let mut turns = 0_u64;
    while start.elapsed() < duration {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a process can see of where it is and what it may do.
fn show() -> io::Result<Value> {
    let status = fields(&fs::read_to_string("/proc/self/status")?);
    let ids = |key: &str| -> Vec<u32> {
        status.get(key).map(|text| text.split_whitespace().flat_map(str::parse).collect()).unwrap_or_default()
    };
    Ok(json!({
        "pid": getpid().as_raw_nonzero().get(),
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "cwd": std::env::current_dir()?,
        "hostname": hostname(),
        "domainname": fs::read_to_string("/proc/sys/kernel/domainname").unwrap_or_default().trim(),
        "uids": ids("Uid"),
        "gids": ids("Gid"),
        "groups": ids("Groups"),
        "umask": status.get("Umask"),
        "capabilities": {
            "inheritable": status.get("CapInh"),
            "permitted": status.get("CapPrm"),
            "effective": status.get("CapEff"),
            "bounding": status.get("CapBnd"),
            "ambient": status.get("CapAmb"),
        },
        "no_new_privs": status.get("NoNewPrivs"),
        "seccomp": status.get("Seccomp"),
        "cgroup": lines("/proc/self/cgroup")?,
        "mounts": lines("/proc/self/mountinfo")?,
        "limits": lines("/proc/self/limits")?,
        "oom_score_adj": fs::read_to_string("/proc/self/oom_score_adj")?.trim(),
        "namespaces": links("/proc/self/ns")?,
        "descriptors": links("/proc/self/fd")?,
        "processes": processes()?,
        "devices": names("/dev")?,
        "interfaces": names("/sys/class/net").unwrap_or_default(),
        "cpus": thread::available_parallelism().map(usize::from).ok(),
    }))
}

fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

fn lines(path: &str) -> io::Result<Vec<String>> {
    Ok(fs::read_to_string(path)?.lines().map(str::to_owned).collect())
}

fn names(path: &str) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Name and target of each link; the descriptor that lists them is gone when it is read, and left out.
fn links(path: &str) -> io::Result<BTreeMap<String, String>> {
    Ok(names(path)?
        .into_iter()
        .filter_map(|name| {
            let target = fs::read_link(format!("{path}/{name}")).ok()?;
            Some((name, target.to_string_lossy().into_owned()))
        })
        .collect())
}

fn processes() -> io::Result<Vec<i32>> {
    Ok(names("/proc")?.iter().flat_map(|name| name.parse()).collect())
}

/// Tries one system call with arguments that change nothing of consequence if it is let through.
fn syscall(name: &str) -> io::Result<Value> {
    let none: Option<&str> = None;
    let result = match name {
        "mount" => nix::mount::mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), none),
        "umount2" => nix::mount::umount2("/proc", MntFlags::MNT_DETACH),
        "pivot_root" => nix::unistd::pivot_root(".", "."),
        "reboot" => nix::sys::reboot::set_cad_enabled(false),
        "reboot-restart" => nix::sys::reboot::reboot(RebootMode::RB_AUTOBOOT).map(|_| ()),
        "unshare-user" => nix::sched::unshare(CloneFlags::CLONE_NEWUSER),
        "unshare-mount" => nix::sched::unshare(CloneFlags::CLONE_NEWNS),
        "sethostname" => nix::unistd::sethostname("other"),
        "setns" => fs::File::open("/proc/self/ns/net")
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
            .and_then(|file| nix::sched::setns(file, CloneFlags::CLONE_NEWNET)),
        "delete_module" => {
            nix::kmod::delete_module(c"no_such_module", nix::kmod::DeleteModuleFlags::O_NONBLOCK)
        }
        "clock_settime" => nix::time::clock_gettime(ClockId::CLOCK_REALTIME)
            .and_then(|now| nix::time::clock_settime(ClockId::CLOCK_REALTIME, now)),
        "chown" => nix::unistd::chown("/tmp", Some(1.into()), None),
        "chroot" => nix::unistd::chroot("/"),
        "mknod-disk" => {
            nix::sys::stat::mknod("/tmp/disk", SFlag::S_IFBLK, Mode::S_IRUSR, nix::sys::stat::makedev(8, 0))
        }
        "mknod-null" => {
            nix::sys::stat::mknod("/tmp/null", SFlag::S_IFCHR, Mode::S_IRUSR, nix::sys::stat::makedev(1, 3))
        }
        "socket-packet" => socket(AddressFamily::Packet, SockType::Raw, None),
        "socket-raw" => socket(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp)),
        "socket-stream" => socket(AddressFamily::Inet, SockType::Stream, None),
        "setuid" => nix::unistd::setuid(1000.into()),
        "getpid" => {
            _ = nix::unistd::getpid();
            Ok(())
        }
        other => return Err(io::Error::other(format!("{other} is not among the calls it can try"))),
    };
    Ok(json!({ "call": name, "errno": result.err().map(|errno| format!("{errno:?}")) }))
}

fn socket(family: AddressFamily, kind: SockType, protocol: Option<SockProtocol>) -> nix::Result<()> {
    nix::sys::socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)
}

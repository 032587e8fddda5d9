//! Terminals of a container, as its program and its parent see them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod container;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use container::*;
use dunnage_sys::pidfd::{self, Exit};

/// Runs a script in a terminal; gives what came out of it.
fn in_terminal(rootfs: &Rootfs, script: &str, console: bool, input: &str) -> (String, Exit) {
    let plan = Draft::full(&rootfs.path()).program_in_terminal(&["sh", "-c", script], console);
    let mut newborn = spawn_plain(&plan).unwrap();
    let master: OwnedFd = newborn.wait_created(PATIENCE).unwrap().terminal.unwrap();
    newborn.start().unwrap();
    newborn.wait_started(PATIENCE).unwrap();
    let (_, pidfd) = newborn.release();
    let mut master = File::from(master);
    master.write_all(input.as_bytes()).unwrap();
    let mut text = Vec::new();
    // EIO once the last process has closed the other end.
    let _ = master.read_to_end(&mut text);
    (String::from_utf8(text).unwrap().replace('\r', ""), pidfd::reap(&pidfd).unwrap())
}

#[test]
fn a_program_has_a_controlling_terminal_of_the_containers_devpts() {
    let rootfs = Rootfs::new();
    let (text, exit) = in_terminal(
        &rootfs,
        "tty; stty size; echo hi > /dev/tty; stat -L -c '%u %a' /proc/self/fd/0",
        false,
        "",
    );
    // busybox of this image has no stty link; the size is asked for through busybox itself below.
    assert!(text.starts_with("/dev/pts/0\n"), "{text}");
    assert!(text.contains("hi\n") && text.ends_with("0 620\n"), "{text}");
    assert_eq!(exit, Exit::Status(0));
}

#[test]
fn the_terminal_has_the_size_of_the_plan() {
    let rootfs = Rootfs::new();
    let (text, _) = in_terminal(&rootfs, "/bin/busybox stty size", false, "");
    assert_eq!(text, "33 111\n");
}

#[test]
fn what_is_typed_arrives() {
    let rootfs = Rootfs::new();
    let (text, _) = in_terminal(&rootfs, "read line; echo got $line", false, "word\n");
    assert_eq!(text, "word\ngot word\n");
}

#[test]
fn the_console_is_the_terminal() {
    let rootfs = Rootfs::new();
    let (text, exit) = in_terminal(&rootfs, "echo hello > /dev/console; stat -c %t /dev/console", true, "");
    assert_eq!((text.as_str(), exit), ("hello\n88\n", Exit::Status(0)));
}

#[test]
fn a_console_that_the_image_links_elsewhere_stays_in_the_image() {
    // CVE-2025-52565 and its kin: here without a tmpfs over /dev.
    let rootfs = Rootfs::new();
    let host = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(host.path(), rootfs.join("dev/console")).unwrap();
    let mut draft = Draft::bare(&rootfs.path());
    draft.file_system("devpts", "dev/pts", &[("ptmxmode", "0666")], 0);
    draft.push(dunnage_plan::Step::PivotRoot);
    let mut newborn = spawn_plain(&draft.program_in_terminal(&["true"], true)).unwrap();
    newborn.wait_created(PATIENCE).unwrap();
    drop(newborn);
    assert_eq!(std::fs::read(host.path()).unwrap(), b"");
    assert!(rootfs.path().join(host.path().strip_prefix("/").unwrap()).is_file());
}

#[test]
fn a_directory_in_the_place_of_devpts_is_refused() {
    let rootfs = Rootfs::new();
    std::fs::create_dir(rootfs.join("dev/pts")).unwrap();
    std::fs::write(rootfs.join("dev/pts/ptmx"), "").unwrap();
    let mut draft = Draft::bare(&rootfs.path());
    draft.push(dunnage_plan::Step::PivotRoot);
    let error = failure(&draft.program_in_terminal(&["true"], false));
    assert!(error.to_string().contains("check for devpts"), "{error}");
}

//! Pods that are present while others come and go.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::chain::{Chain, Pod};
use super::host::Host;

/// Host ports of pods that stay.
const FIRST_PORT: usize = 20_000;
/// Links that the reference plugins make at the same time.
const AT_ONCE: usize = 4;

/// The pods that are present on a host.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    pods: Vec<Pod>,
    /// What the rules of one pod of the reference look like.
    rules: Option<Rules>,
}

/// Rules of one pod, table by table in the form of iptables-restore(8), and what in them is the pod's own.
#[derive(Debug)]
struct Rules {
    text: String,
    id: String,
    address: String,
    port: usize,
}

impl Crowd {
    pub(super) fn size(&self) -> usize {
        self.pods.len()
    }

    /// Grows to `size`, one pod after the other.
    pub(super) fn grow(
        &mut self,
        host: &Host,
        size: usize,
        mut add: impl FnMut(&Host, &Pod) -> Result<()>,
    ) -> Result<()> {
        while self.size() < size {
            let pod = Pod::make("present", self.size(), FIRST_PORT + self.size())?;
            add(host, &pod)?;
            self.pods.push(pod);
        }
        Ok(())
    }

    /// Grows to `size` pods of the reference chain: two as they are, the others with links and leases by its
    /// plugins, and their rules copied from the second, all in one transaction. With the plugins alone it would
    /// take longer than everything that is measured.
    pub(super) fn grow_reference(&mut self, host: &Host, chain: &Chain, size: usize) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        while self.size() < 2 {
            let pod = Self::pod(self.size())?;
            let before = saved(host)?;
            let address = host.inside(|| chain.add(&pod))??;
            let text = new_rules(&before, &saved(host)?);
            self.rules = Some(Rules { text, id: pod.id.clone(), address, port: pod.port });
            self.pods.push(pod);
        }
        let rules = self.rules.as_ref().context("the rules of a pod")?;
        let mut all = String::new();
        while self.pods.len() < size {
            let from = self.pods.len();
            let some: Vec<Pod> = (from..size.min(from + AT_ONCE)).map(Self::pod).collect::<Result<_>>()?;
            let addresses = std::sync::Mutex::new(Vec::new());
            host.together(&some, |pod| {
                let address = chain.add_without_rules(pod)?;
                let mut all = addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                all.push((pod.id.clone(), pod.port, address));
                Ok(())
            })?;
            for (id, port, address) in addresses.into_inner().unwrap_or_default() {
                all.push_str(&rules.of(&id, &address, port));
            }
            self.pods.extend(some);
        }
        host.inside(|| restore(&all))?
    }

    fn pod(number: usize) -> Result<Pod> {
        Pod::make("crowd", number, FIRST_PORT + number)
    }
}

impl Rules {
    /// The same for another pod. Its chains are named after hashes, which begin with another number then.
    fn of(&self, id: &str, address: &str, port: usize) -> String {
        let mut text = self.text.replace(&format!("\"{}\"", self.id), &format!("\"{id}\""));
        text = text.replace(&format!("{}/", self.address), &format!("{address}/"));
        text = text.replace(&format!("{}:", self.address), &format!("{address}:"));
        text = text.replace(&self.port.to_string(), &port.to_string());
        ["CNI-", "CNI-DN-"].iter().fold(text, |text, prefix| renumbered(&text, prefix, port))
    }
}

/// Puts a number into the first eight digits of every name that is the prefix and a hash.
fn renumbered(text: &str, prefix: &str, number: usize) -> String {
    let mut parts = text.split(prefix);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(prefix);
        match part.get(..8).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            Some(digits) => {
                let rest = &part[digits.len()..];
                _ = write!(out, "{number:08x}{rest}");
            }
            None => out.push_str(part),
        }
    }
    out
}

/// What iptables-save(8) says on the host.
fn saved(host: &Host) -> Result<String> {
    let output = host.inside(|| Command::new("iptables-save").output())?.context("run iptables-save")?;
    ensure!(output.status.success(), "iptables-save: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The lines that are new, in their tables.
fn new_rules(before: &str, after: &str) -> String {
    let known: std::collections::HashSet<&str> = before.lines().collect();
    let new = |line: &&str| {
        line.starts_with('*')
            || *line == "COMMIT"
            || (!line.starts_with('#')
                && !known.contains(line)
                && !line.contains(" [") | is_chain_of_pod(line))
    };
    after.lines().filter(new).map(|line| format!("{line}\n")).collect()
}

/// Counters in the lines of other chains change by themselves.
fn is_chain_of_pod(line: &str) -> bool {
    line.starts_with(":CNI-") && line.contains(" - [")
}

fn restore(rules: &str) -> Result<()> {
    let mut child = Command::new("iptables-restore")
        .arg("--noflush")
        .stdin(Stdio::piped())
        .spawn()
        .context("run iptables-restore")?;
    child.stdin.take().context("stdin")?.write_all(merged(rules).as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "iptables-restore: {status}");
    Ok(())
}

/// One part for each table: many small transactions take minutes.
fn merged(rules: &str) -> String {
    let mut tables: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut current = 0;
    for line in rules.lines().filter(|line| *line != "COMMIT") {
        if line.starts_with('*') {
            current = tables.iter().position(|(name, _)| *name == line).unwrap_or_else(|| {
                tables.push((line, Vec::new()));
                tables.len() - 1
            });
        } else if let Some((_, lines)) = tables.get_mut(current) {
            lines.push(line);
        }
    }
    let mut out = String::new();
    for (name, mut lines) in tables.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        // Chains are declared before rules.
        lines.sort_by_key(|line| !line.starts_with(':'));
        _ = writeln!(out, "{name}\n{}\nCOMMIT", lines.join("\n"));
    }
    out
}

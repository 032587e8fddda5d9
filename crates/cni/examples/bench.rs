//! ADD and DEL of the plugin beside the reference plugins' chain, as a runtime runs them: programs, environment,
//! stdin. `bench [--rounds N] [--pods N] [--pause MS] [--plugin PATH] [--reference DIR]`.
//!
//! Prints medians and 90th percentiles in microseconds: alone, with many pods present, and 16 at a time. Runs as root
//! in network namespaces of its own. Give it the release build of the plugin.
#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dunnage_net::Netns;
use serde_json::{Value, json};

#[derive(Debug)]
struct Options {
    rounds: usize,
    pods: usize,
    pause: Duration,
    plugin: PathBuf,
    reference: PathBuf,
}

/// One plugin after the other, as a list of plugins has them.
#[derive(Debug, Clone)]
struct Chain {
    name: &'static str,
    plugins: Vec<(PathBuf, Value)>,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    println!("{:34} {:>9} {:>9} {:>9} {:>9}", "", "ADD p50", "p90", "DEL p50", "p90");
    for chain in ["dunnage-cni", "reference"] {
        for course in ["alone", "crowded", "parallel"] {
            let dir = tempfile::Builder::new().prefix("dunnage-cni-bench-").tempdir_in("/run")?;
            let host = Netns::create(&dir.path().join("netns"), "host")?;
            let chain = if chain == "reference" {
                reference(&options, dir.path())
            } else {
                ours(&options, dir.path())
            };
            let done = host.run(|| run_course(course, &chain, &options, dir.path()));
            Netns::remove(host.path())?;
            done??;
        }
    }
    Ok(())
}

fn options() -> anyhow::Result<Options> {
    let beside = std::env::current_exe()?.ancestors().nth(2).map(Path::to_owned).unwrap_or_default();
    let mut options = Options {
        rounds: 50,
        pods: 500,
        pause: Duration::from_millis(50),
        plugin: beside.join("dunnage-cni"),
        reference: PathBuf::from("/usr/lib/cni"),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--rounds" => options.rounds = value.parse()?,
            "--pods" => options.pods = value.parse()?,
            "--pause" => options.pause = Duration::from_millis(value.parse()?),
            "--plugin" => options.plugin = value.into(),
            "--reference" => options.reference = value.into(),
            _ => bail!("{name} is not an option"),
        }
    }
    ensure!(options.plugin.exists(), "{} is missing: build it first", options.plugin.display());
    ensure!(options.reference.join("bridge").exists(), "install containernetworking-plugins");
    Ok(options)
}

fn bridge(dir: &Path) -> Value {
    json!({"cniVersion": "1.0.0", "name": "bench", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "dataDir": dir.join("host-local"), "ranges": [[{"subnet": "10.88.0.0/16"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}})
}

fn ours(options: &Options, dir: &Path) -> Chain {
    let mut config = bridge(dir);
    config["type"] = "dunnage-cni".into();
    config["stateDir"] = json!(dir.join("state"));
    Chain { name: "dunnage-cni", plugins: vec![(options.plugin.clone(), config)] }
}

fn reference(options: &Options, dir: &Path) -> Chain {
    let mut config = bridge(dir);
    config["type"] = "bridge".into();
    let portmap = json!({"cniVersion": "1.0.0", "name": "bench", "type": "portmap"});
    let plugins =
        vec![(options.reference.join("bridge"), config), (options.reference.join("portmap"), portmap)];
    Chain { name: "bridge+host-local+portmap", plugins }
}

fn run_course(course: &str, chain: &Chain, options: &Options, dir: &Path) -> anyhow::Result<()> {
    let mut present = Vec::new();
    let label = match course {
        "crowded" => {
            for number in 0..options.pods {
                let pod = Pod::make(dir, 40_000 + number)?;
                pod.add(chain)?;
                present.push(pod);
            }
            format!("{}, {} pods there", chain.name, options.pods)
        }
        "parallel" => format!("{}, 16 at a time", chain.name),
        _ => format!("{}, alone", chain.name),
    };
    let at_once = if course == "parallel" { 16 } else { 1 };
    let (mut adds, mut dels) = (Vec::new(), Vec::new());
    for round in 0..options.rounds.div_ceil(at_once) {
        let pods: Vec<Pod> = (0..at_once)
            .map(|number| Pod::make(dir, 10_000 + round * at_once + number))
            .collect::<Result<_, _>>()?;
        adds.extend(together(dir, &pods, |pod| pod.add(chain))?);
        dels.extend(together(dir, &pods, |pod| pod.del(chain))?);
        drop(pods);
        // The kernel removes links of the last round in the background, and whoever changes links meanwhile waits
        // for it: pods of a node do not follow each other so closely.
        wait_for_links(present.len())?;
        std::thread::sleep(options.pause);
    }
    // The first makes the network.
    adds.remove(0);
    println!("{label:34} {}{}", figures(adds), figures(dels));
    Ok(())
}

/// Waits until there are no more links on the host than those of the pods that stay.
fn wait_for_links(pods: usize) -> anyhow::Result<()> {
    for _ in 0..1000 {
        let links = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let ends = links
            .lines()
            .filter(|line| ["dnp", "veth"].iter().any(|name| line.trim_start().starts_with(name)));
        if ends.count() <= pods {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("links of pods that were deleted are still there")
}

/// All at once, each on a thread in the host's namespace; how long each took, in microseconds.
fn together(
    dir: &Path,
    pods: &[Pod],
    work: impl Fn(&Pod) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Vec<u128>> {
    let timed = |pod: &Pod| {
        let started = Instant::now();
        work(pod).map(|()| started.elapsed().as_micros())
    };
    if let [pod] = pods {
        return Ok(vec![timed(pod)?]);
    }
    let host = Netns::open(&dir.join("netns/host"))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| host.run(|| timed(pod))?)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that measures")).collect()
    })
}

fn figures(mut values: Vec<u128>) -> String {
    values.sort_unstable();
    format!("{:9} {:9} ", values[values.len() / 2], values[values.len() * 9 / 10])
}

#[derive(Debug)]
struct Pod {
    netns: Netns,
    port: usize,
}

impl Pod {
    fn make(dir: &Path, port: usize) -> anyhow::Result<Self> {
        Ok(Self { netns: Netns::create(&dir.join("netns"), &format!("pod{port}"))?, port })
    }

    fn add(&self, chain: &Chain) -> anyhow::Result<()> {
        let mut result = Value::Null;
        for (program, config) in &chain.plugins {
            result = self.run(program, "ADD", config, result)?;
        }
        Ok(())
    }

    fn del(&self, chain: &Chain) -> anyhow::Result<()> {
        for (program, config) in chain.plugins.iter().rev() {
            self.run(program, "DEL", config, Value::Null)?;
        }
        Ok(())
    }

    fn run(&self, program: &Path, verb: &str, config: &Value, before: Value) -> anyhow::Result<Value> {
        let mut config = config.clone();
        if !before.is_null() {
            config["prevResult"] = before;
        }
        config["runtimeConfig"] =
            json!({"portMappings": [{"hostPort": self.port, "containerPort": 80, "protocol": "tcp"}]});
        let mut child = Command::new(program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("pod{}", self.port))
            .env("CNI_NETNS", self.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(config.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{verb} by {}: {text}", program.display());
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Whatever is left goes with the directory's mounts at the end of the machine; there is nothing to tell.
        let _ = Netns::remove(self.netns.path());
    }
}

//! `sizeLimit` of volumes on disk: measured from time to time, as the kubelet does, and the pod ends when one
//! is exceeded. (A tmpfs has its limit from the kernel.)

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::stop::{Listener, Stop};
use crate::bundle::Prepared;
use crate::manifest::{Pod, Source};
use crate::output;

/// The kubelet measures every 10 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// `st_blocks` is counted in these (stat(2)).
const BLOCK: u64 = 512;

/// Measures until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch(Option<AbortHandle>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// A volume with its limit in bytes.
#[derive(Debug, Clone)]
struct Limited {
    name: String,
    path: PathBuf,
    limit: u64,
}

/// Starts measuring the limited volumes of the pod; `halt` is asked to end it when one is too large.
pub(crate) fn watch(
    pod: &Pod,
    volumes: &std::collections::BTreeMap<String, Prepared>,
    halt: &Rc<Listener>,
) -> Watch {
    let limited = pod.volumes.iter().filter_map(|volume| match volume.source {
        Source::EmptyDir { memory: false, size_limit: Some(limit) } => {
            Some(Limited { name: volume.name.clone(), path: volumes.get(&volume.name)?.path.clone(), limit })
        }
        _ => None,
    });
    let limited: Vec<Limited> = limited.collect();
    if limited.is_empty() {
        return Watch(None);
    }
    Watch(Some(tokio::task::spawn_local(measure(limited, Rc::clone(halt))).abort_handle()))
}

async fn measure(volumes: Vec<Limited>, halt: Rc<Listener>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        for volume in volumes.clone() {
            let work = tokio::task::spawn_blocking(move || (disk_usage(&volume.path), volume));
            let Ok((used, volume)) = work.await else { return };
            if used > volume.limit {
                let Limited { name, limit, .. } = volume;
                output::warn(format_args!(
                    "volume {name} holds {used} bytes, more than its sizeLimit of {limit}, so the pod ends"
                ));
                halt.ask(Stop::Now);
                return;
            }
        }
    }
}

/// Bytes on disk below `path`. What vanishes meanwhile, or cannot be read, counts nothing; links are not
/// followed.
fn disk_usage(path: &Path) -> u64 {
    let mut used = 0;
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        used += found.blocks() * BLOCK;
        if found.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            pending.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_counted_by_blocks_and_not_through_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let before = disk_usage(dir.path());
        std::fs::write(dir.path().join("d/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let used = disk_usage(dir.path()) - before;
        assert!((100_000..200_000).contains(&used), "{used}");
    }
}

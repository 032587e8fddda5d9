//! The lease store on its own: crashes, torn tables, and many who want an address at once.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dunnage_net::{Error, Lease, LeaseState, LeaseStore, Owner, Ranges};
use dunnage_sys::netns::NetnsId;
use proptest::prelude::*;

const NETNS: NetnsId = NetnsId { dev: 4, ino: 4_026_531_840 };

/// Where the hint of the first slots is in a table, the index of 16 slots on either side, and how long both are.
const HINT: u64 = 1024;
const HINT_LENGTH: u64 = 12;
const INDEX: [u64; 2] = [4096 + 4 * (1 << 18) + 8 * 32, 4096 + 4 * (1 << 18) + 8 * (1 << 20) + 8 * 32];
const INDEX_LENGTH: u16 = 8 * 32;
/// Where records are, and how long each is.
const RECORDS: u64 = 4096 + 4 * (1 << 18) + 16 * (1 << 20);
const RECORD: u64 = 192;

fn store(dir: &Path, subnet: &str) -> LeaseStore {
    LeaseStore::new(dir, &"pods".parse().unwrap(), Ranges::of(subnet.parse().unwrap(), None)).unwrap()
}

fn owner(name: &str) -> Owner {
    Owner::new(name, "eth0".parse().unwrap()).unwrap()
}

fn activate(store: &LeaseStore, name: &str) -> dunnage_net::Result<Lease> {
    let mut leases = store.lock()?;
    let mut lease = leases.reserve(&owner(name), NETNS)?;
    leases.set_state(&mut lease, LeaseState::Active)?;
    Ok(lease)
}

#[test]
fn addresses_are_given_in_turn_and_rest_before_they_are_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "10.0.0.0/28");
    let slots: Vec<u32> = (0..4).map(|i| activate(&store, &format!("pod{i}")).unwrap().slot).collect();
    assert_eq!(slots, [2, 3, 4, 5]);
    let mut leases = store.lock().unwrap();
    let lease = leases.find(&owner("pod1")).unwrap().unwrap();
    leases.release(&lease).unwrap();
    drop(leases);
    let slots: Vec<u32> = (4..13).map(|i| activate(&store, &format!("pod{i}")).unwrap().slot).collect();
    assert_eq!(slots, [6, 7, 8, 9, 10, 11, 12, 13, 14].map(|slot| slot));
    assert_eq!(activate(&store, "late").unwrap().slot, 3, "the only one that is free");
    let error = activate(&store, "later").unwrap_err();
    assert!(matches!(error, Error::Exhausted { used: 13, total: 13, .. }), "{error}");
}

#[test]
fn a_table_from_before_a_reboot_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "10.0.0.0/24");
    activate(&store, "pod").unwrap();
    let path = dir.path().join("pods.tab");
    let mut bytes = std::fs::read(&path).unwrap();
    // Another boot, in a header that is sound: as the kernel would give it after a reboot.
    let at = bytes.windows(36).position(|window| window == boot_id().as_bytes()).unwrap();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    let segment = bytes[256..280].to_vec();
    let sum = fnv(&[&bytes[..88], &segment[..]].concat());
    bytes[88..96].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert!(store.lock_existing().unwrap().is_none());
    assert!(store.lock().unwrap().is_empty());
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn a_damaged_header_is_an_error_and_no_empty_table() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "10.0.0.0/24");
    activate(&store, "pod").unwrap();
    for (at, text) in [
        (0, "is not a lease table"),
        (9, "is of another version of this program: remove the pods with that one, or restart the machine"),
        (30, "has a damaged header"),
    ] {
        let file = OpenOptions::new().read(true).write(true).open(dir.path().join("pods.tab")).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        let error = store.lock().unwrap_err();
        assert!(error.to_string().ends_with(text), "{error}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(store.lock().unwrap().leases().unwrap().len(), 1);
}

#[test]
fn an_address_whose_record_is_torn_stays_taken_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "10.0.0.0/29");
    for i in 0..5 {
        activate(&store, &format!("pod{i}")).unwrap();
    }
    let path = dir.path().join("pods.tab");
    // Cuts off the records of the slots 4 to 7, as a full disk might.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(RECORDS + 4 * RECORD + 20).unwrap();
    let mut leases = store.lock().unwrap();
    let all = leases.leases().unwrap();
    assert_eq!(
        all.iter().map(|lease| lease.holder.is_some()).collect::<Vec<_>>(),
        [true, true, false, false, false]
    );
    assert!(leases.find(&owner("pod3")).unwrap().is_none());
    assert!(matches!(leases.reserve(&owner("new"), NETNS), Err(Error::Exhausted { .. })));
    leases.release(&all[3]).unwrap();
    assert_eq!(leases.reserve(&owner("new"), NETNS).unwrap().slot, all[3].slot);
    assert_eq!(leases.find(&owner("new")).unwrap().unwrap().slot, all[3].slot);
}

/// Attaches so many, with a lock for each thousand; gives the addresses.
fn fill(store: &LeaseStore, round: &str, count: u32) -> BTreeSet<u32> {
    let mut slots = BTreeSet::new();
    for thousand in 0..count.div_ceil(1000) {
        let mut leases = store.lock().unwrap();
        for number in thousand * 1000..count.min((thousand + 1) * 1000) {
            let mut lease = leases.reserve(&owner(&format!("{round}-{number}")), NETNS).unwrap();
            leases.set_state(&mut lease, LeaseState::Active).unwrap();
            assert!(slots.insert(lease.slot), "{} is given twice", lease.address);
        }
    }
    slots
}

#[test]
fn a_network_of_65533_addresses_is_filled_and_emptied_and_filled_again() {
    const ALL: u32 = 65_533;
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "10.0.0.0/16");
    assert_eq!(fill(&store, "first", ALL), (2..=ALL + 1).collect());
    let error = activate(&store, "late").unwrap_err();
    assert!(matches!(error, Error::Exhausted { used: ALL, total: ALL, .. }), "{error}");

    let mut leases = store.lock().unwrap();
    let first = owner("first-30000");
    let lease = leases.find(&first).unwrap().unwrap();
    assert!(matches!(leases.reserve(&first, NETNS), Err(Error::Attached { .. })));
    leases.release(&lease).unwrap();
    assert_eq!(leases.reserve(&owner("late"), NETNS).unwrap().slot, lease.slot, "the only one that is free");
    let late = leases.find(&owner("late")).unwrap().unwrap();
    leases.release(&late).unwrap();
    drop(leases);

    for number in 0..ALL {
        // In another order than that of attaching: 7919 has no divisor in common with so many.
        let number = u32::try_from(u64::from(number) * 7919 % u64::from(ALL)).unwrap();
        let mut leases = store.lock().unwrap();
        let Some(lease) = leases.find(&owner(&format!("first-{number}"))).unwrap() else {
            assert_eq!(number, 30_000);
            continue;
        };
        leases.release(&lease).unwrap();
    }
    assert!(store.lock().unwrap().is_empty());
    assert_eq!(fill(&store, "second", ALL), (2..=ALL + 1).collect());
    assert!(matches!(activate(&store, "late").unwrap_err(), Error::Exhausted { used: ALL, .. }));
}

#[test]
fn sixty_four_threads_get_sixty_four_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let slots: Vec<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|i| {
                let dir = dir.path();
                scope.spawn(move || activate(&store(dir, "10.0.0.0/24"), &format!("pod{i}")).unwrap().slot)
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(slots.iter().collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(store(dir.path(), "10.0.0.0/24").lock().unwrap().leases().unwrap().len(), 64);
}

const DIR: &str = "DUNNAGE_TEST_LEASES";
const PREFIX: &str = "DUNNAGE_TEST_PREFIX";
const EACH: usize = 16;

/// Not a test: one of the processes of [`processes_that_attach_and_detach_never_share_an_address`].
#[test]
#[ignore = "run by another test"]
fn child_allocates() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let prefix = std::env::var(PREFIX).unwrap();
    let store = store(&dir, "10.0.0.0/24");
    for i in 0..EACH {
        let lease = activate(&store, &format!("{prefix}-{i}")).unwrap();
        // Every other one is given back at once.
        if i % 2 == 1 {
            let mut leases = store.lock().unwrap();
            leases.release(&lease).unwrap();
        }
    }
}

#[test]
fn processes_that_attach_and_detach_never_share_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..16)
        .map(|i| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_allocates", "--ignored"])
                .env(DIR, dir.path())
                .env(PREFIX, format!("process{i}"))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let leases = store(dir.path(), "10.0.0.0/24").lock().unwrap().leases().unwrap();
    let owners: BTreeSet<String> =
        leases.iter().map(|lease| lease.holder.as_ref().unwrap().0.to_string()).collect();
    assert_eq!((leases.len(), owners.len()), (16 * EACH / 2, 16 * EACH / 2));
}

#[derive(Debug, Clone)]
enum Step {
    /// Reserve for this owner, and activate unless a crash comes first.
    Attach {
        pod: u8,
        crash: bool,
    },
    Detach {
        pod: u8,
    },
    /// Frees what a crash left.
    Sweep,
    /// Garbles the record of a slot.
    Tear {
        slot: u8,
        at: u8,
    },
    /// Cuts the file inside the record of a slot; the end of a record is mostly zeroes, as is what is cut off.
    Truncate {
        slot: u8,
    },
    /// Changes a byte of the hint.
    Hint {
        at: u64,
        value: u8,
    },
    /// Changes a byte of the index.
    Index {
        side: usize,
        at: u64,
        value: u8,
    },
    /// Writes all over the index.
    WholeIndex {
        side: usize,
        value: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..20u8, any::<bool>()).prop_map(|(pod, crash)| Step::Attach { pod, crash }),
        4 => (0..20u8).prop_map(|pod| Step::Detach { pod }),
        1 => Just(Step::Sweep),
        1 => (0..16u8, 0..192u8).prop_map(|(slot, at)| Step::Tear { slot, at }),
        1 => (0..16u8).prop_map(|slot| Step::Truncate { slot }),
        1 => (0..HINT_LENGTH, byte()).prop_map(|(at, value)| Step::Hint { at, value }),
        1 => (0..2usize, 0..INDEX_LENGTH, byte()).prop_map(|(side, at, value)| Step::Index { side, at: at.into(), value }),
        1 => (0..2usize, byte()).prop_map(|(side, value)| Step::WholeIndex { side, value }),
    ]
}

fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(u8::MAX), any::<u8>()]
}

/// What the table must say: the slot of every pod whose record was not damaged, and the slots that are taken.
#[derive(Debug, Default)]
struct Model {
    owners: BTreeMap<u8, u32>,
    taken: BTreeMap<u32, LeaseState>,
}

impl Model {
    fn apply(&mut self, step: &Step, store: &LeaseStore, path: &Path) {
        match *step {
            Step::Attach { pod, crash } => self.attach(pod, crash, store),
            Step::Detach { pod } => {
                let mut leases = store.lock().unwrap();
                let found = leases.find(&owner(&format!("pod{pod}"))).unwrap();
                assert_eq!(found.as_ref().map(|lease| lease.slot), self.owners.remove(&pod));
                if let Some(lease) = found {
                    leases.release(&lease).unwrap();
                    self.taken.remove(&lease.slot);
                }
            }
            Step::Sweep => {
                let mut leases = store.lock().unwrap();
                for lease in leases.leases().unwrap() {
                    if lease.state != LeaseState::Active {
                        leases.release(&lease).unwrap();
                        self.taken.remove(&lease.slot);
                        self.owners.retain(|_, slot| *slot != lease.slot);
                    }
                }
            }
            Step::Tear { slot, at } => {
                let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
                let at = RECORDS + RECORD * u64::from(slot) + u64::from(at);
                let mut byte = [0];
                file.read_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0].wrapping_add(1)], at).unwrap();
                self.owners.retain(|_, taken| *taken != u32::from(slot));
            }
            Step::Truncate { slot } => {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                let end = RECORDS + RECORD * u64::from(slot) + 20;
                if file.metadata().unwrap().len() > end {
                    file.set_len(end).unwrap();
                    self.owners.retain(|_, kept| *kept < u32::from(slot));
                }
            }
            Step::Hint { at, value } => Self::damage(path, HINT + at, &[value]),
            Step::Index { side, at, value } => Self::damage(path, INDEX[side] + at, &[value]),
            Step::WholeIndex { side, value } => {
                Self::damage(path, INDEX[side], &vec![value; INDEX_LENGTH.into()]);
            }
        }
    }

    fn damage(path: &Path, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn attach(&mut self, pod: u8, crash: bool, store: &LeaseStore) {
        let mut leases = store.lock().unwrap();
        match leases.reserve(&owner(&format!("pod{pod}")), NETNS) {
            Ok(mut lease) => {
                assert!(!self.taken.contains_key(&lease.slot), "slot {} given twice", lease.slot);
                assert!((2..15).contains(&lease.slot));
                if !crash {
                    leases.set_state(&mut lease, LeaseState::Active).unwrap();
                }
                self.owners.insert(pod, lease.slot);
                self.taken.insert(lease.slot, lease.state);
            }
            Err(Error::Attached { .. }) => assert!(self.owners.contains_key(&pod)),
            Err(Error::Exhausted { used, total, .. }) => {
                assert_eq!((used, total), (13, 13));
                assert_eq!(self.taken.len(), 13);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn check(&self, store: &LeaseStore) {
        let leases = store.lock().unwrap();
        let taken: BTreeMap<_, _> = leases.leases().unwrap().iter().map(|l| (l.slot, l.state)).collect();
        assert_eq!(taken, self.taken);
        assert_eq!(leases.is_empty(), self.taken.is_empty());
        for (pod, slot) in &self.owners {
            assert_eq!(leases.find(&owner(&format!("pod{pod}"))).unwrap().unwrap().slot, *slot);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_given_twice_whatever_is_damaged(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), "10.0.0.0/28");
        drop(store.lock().unwrap());
        let mut model = Model::default();
        for step in &steps {
            model.apply(step, &store, &dir.path().join("pods.tab"));
            model.check(&store);
        }
    }
}

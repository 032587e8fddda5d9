//! A process that dies between any two writes to a table, at any time: what the next one finds.

use std::collections::BTreeMap;

use dunnage_sys::netns::NetnsId;
use proptest::prelude::*;

use super::words::is_used;
use super::{Given, Lease, LeaseKind, LeaseState, LeaseStore, LockedLeases, Owner, Part, Wanted};
use crate::{HostPorts, Range, Ranges, Result};

const NETNS: NetnsId = NetnsId { dev: 4, ino: 4_026_531_840 };

fn owner(pod: u8) -> Owner {
    Owner::new(&format!("pod{pod}"), "eth0".parse().unwrap()).unwrap()
}

#[derive(Debug, Clone)]
enum Deed {
    Attach {
        pod: u8,
    },
    Detach {
        pod: u8,
        lingers: bool,
    },
    /// A link that lingered is gone.
    Gone {
        slot: u32,
    },
    /// A pod that has the IPv6 address of another place, too.
    Companion {
        pod: u8,
        slot: u32,
    },
    /// The cursor has gone on.
    Turn {
        cursor: u32,
    },
    /// The network gets another subnet.
    Extend,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (0..24u8).prop_map(|pod| Deed::Attach { pod }),
        6 => (0..24u8, any::<bool>()).prop_map(|(pod, lingers)| Deed::Detach { pod, lingers }),
        1 => (0..16u32).prop_map(|slot| Deed::Gone { slot }),
        1 => (0..24u8, 2..14u32).prop_map(|(pod, slot)| Deed::Companion { pod, slot }),
        1 => (0..2100u32).prop_map(|cursor| Deed::Turn { cursor }),
        1 => Just(Deed::Extend),
    ]
}

fn attach(leases: &mut LockedLeases<'_>, pod: u8) -> Result<Lease> {
    let mut lease = leases.reserve(&owner(pod), NETNS)?;
    leases.set_state(&mut lease, LeaseState::Active)?;
    Ok(lease)
}

fn detach(leases: &mut LockedLeases<'_>, pod: u8, lingers: bool) -> Result<()> {
    let Some(mut lease) = leases.find(&owner(pod))? else { return Ok(()) };
    leases.set_state(&mut lease, LeaseState::Releasing)?;
    if lingers { leases.release_lingering(&lease) } else { leases.release(&lease) }
}

fn free(leases: &LockedLeases<'_>, slot: u32) -> bool {
    !is_used(leases.slots.word(slot).unwrap())
}

impl Deed {
    fn apply(&self, leases: &mut LockedLeases<'_>) -> Result<()> {
        match *self {
            Self::Attach { pod } => match attach(leases, pod) {
                Err(crate::Error::Exhausted { .. } | crate::Error::Attached { .. }) => Ok(()),
                done => done.map(drop),
            },
            Self::Detach { pod, lingers } => detach(leases, pod, lingers),
            Self::Gone { slot } if free(leases, slot) => leases.link_is_gone(slot),
            Self::Companion { pod, slot } if free(leases, slot) => match leases.find(&owner(pod))? {
                Some(lease) => leases.reserve_companion(&lease, slot, "fd00::5".parse().unwrap()),
                None => Ok(()),
            },
            Self::Gone { .. } | Self::Companion { .. } => Ok(()),
            Self::Turn { cursor } => {
                let slots = &mut leases.slots;
                slots.file.set_word(super::header::CURSOR_AT as u64, cursor)
            }
            Self::Extend => leases.extend(),
        }
    }

    /// Whose lease may or may not be there when it was cut short.
    fn pod(&self) -> Option<u8> {
        match self {
            Self::Attach { pod } | Self::Detach { pod, .. } => Some(*pod),
            _ => None,
        }
    }
}

/// Hints allow what there is, the index knows all that is used, and debris is seen.
pub(super) fn check(leases: &LockedLeases<'_>) {
    for slot in 0..leases.header.segments.slots() {
        let word = leases.slots.word(slot).unwrap();
        let hint = leases.slots.words.hint((slot / super::hint::CHUNK) as usize);
        assert_eq!(hint.with(word), hint, "hint of slot {slot}");
    }
    let all = leases.leases().unwrap();
    for lease in &all {
        let word = leases.slots.word(lease.slot).unwrap();
        let indexed = leases.slots.indexed(word & !super::record::STATE_MASK).unwrap();
        assert!(indexed.contains(&(lease.slot, word)), "{lease:?}");
    }
    let mut cut_short: Vec<u32> = leases.debris().unwrap().iter().map(|lease| lease.slot).collect();
    cut_short.sort_unstable();
    let expected = all.iter().filter(|lease| lease.state != LeaseState::Active).map(|lease| lease.slot);
    assert_eq!(cut_short, expected.collect::<Vec<_>>());
    assert_eq!(leases.is_empty(), all.is_empty());
    check_parts(leases, &all);
}

/// No address is of two pods, none is left without the lease that it ends with, and who is attached has all of them.
pub(super) fn check_parts(leases: &LockedLeases<'_>, all: &[Lease]) {
    let mut owners: BTreeMap<std::net::IpAddr, String> = BTreeMap::new();
    for lease in all {
        let Some((owner, _)) = &lease.holder else { continue };
        for address in lease.addresses().filter(|_| lease.kind() != LeaseKind::Companion) {
            let other = owners.insert(address, owner.to_string());
            assert!(
                other.as_ref().is_none_or(|other| *other == owner.to_string()),
                "{address}: {other:?} {owner}"
            );
        }
        if lease.kind() == LeaseKind::Further {
            let own = leases.find(owner).unwrap();
            let found = own
                .is_some_and(|own| own.further.iter().any(|further| lease.addresses().eq([further.address])));
            assert!(found, "{lease:?}");
        }
    }
}

/// Who has which slot.
fn pods(leases: &LockedLeases<'_>) -> BTreeMap<String, u32> {
    let all = leases.leases().unwrap();
    let pods = all.iter().filter(|lease| !lease.kind().is_part());
    pods.map(|lease| (lease.holder.as_ref().unwrap().0.id().to_owned(), lease.slot)).collect()
}

/// Which addresses a pod gets.
#[derive(Debug, Clone, Copy)]
enum Sets {
    One,
    /// Beside that of its lease one of three further sets, each with ranges of its own.
    Four,
}

impl Sets {
    fn further(self) -> usize {
        match self {
            Self::One => 0,
            Self::Four => 3,
        }
    }
}

fn stores(dir: &std::path::Path, subnet: &str, sets: Sets) -> (LeaseStore, LeaseStore) {
    let store = |ranges| LeaseStore::new(dir, &"pods".parse().unwrap(), ranges).unwrap();
    let range = |subnet: &str| Range::of(subnet.parse().unwrap());
    let mut one = Ranges::of(subnet.parse().unwrap(), None);
    if matches!(sets, Sets::Four) {
        one.sets.insert(0, vec![range("fd00:1::/124"), range("fd00:2::/118")]);
        one.sets.push(vec![Range { first: [10, 5, 0, 200].into(), ..range("10.5.0.0/24") }]);
        one.sets.push(vec![range("fd00:3::/120")]);
    }
    one.check().unwrap();
    let mut both = one.clone();
    let own = both.first(true).unwrap();
    both.sets[own].push(range("10.9.0.0/21"));
    (store(one), store(both))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_death_between_two_writes_loses_nobody(
        small: bool,
        sets in prop_oneof![Just(Sets::One), Just(Sets::Four)],
        deeds in prop::collection::vec((deed(), 0..30u32), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (one, both) = stores(dir.path(), if small { "10.0.0.0/28" } else { "10.0.0.0/21" }, sets);
        drop(one.lock().unwrap());
        for (deed, writes) in &deeds {
            let store = if matches!(deed, Deed::Extend) { &both } else { &one };
            let mut leases = store.lock().unwrap();
            let before = pods(&leases);
            leases.slots.file.writes_left.set((*writes < 15).then_some(*writes));
            let done = deed.apply(&mut leases);
            drop(leases);

            let mut leases = one.lock().unwrap();
            check(&leases);
            let after = pods(&leases);
            for pod in 0..24 {
                let name = format!("pod{pod}");
                let found = leases.find(&owner(pod)).unwrap();
                if let Some(lease) = found.as_ref().filter(|lease| lease.state == LeaseState::Active) {
                    prop_assert_eq!(lease.further.len(), sets.further(), "{:?}", lease);
                }
                let found = found.map(|lease| lease.slot);
                prop_assert_eq!(found, after.get(&name).copied());
                if deed.pod() != Some(pod) {
                    prop_assert_eq!(found, before.get(&name).copied(), "{} after {:?}", name, deed);
                }
            }
            if done.is_err() {
                for lease in leases.debris().unwrap() {
                    leases.release(&lease).unwrap();
                }
                let parts = leases.leases().unwrap();
                let parts = parts.iter().filter(|lease| lease.kind() == LeaseKind::Further);
                prop_assert_eq!(parts.count(), pods(&leases).len() * sets.further());
                drop(leases);
                check(&one.lock().unwrap());
            }
        }
    }
}

/// Every place where an ADD and a DEL can be cut short, one after the other, with others around it.
#[test]
fn whatever_write_is_the_last_the_next_process_goes_on() {
    [Sets::One, Sets::Four].into_iter().for_each(goes_on_after_any_write);
}

fn goes_on_after_any_write(sets: Sets) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = stores(dir.path(), "10.0.0.0/28", sets);
    for pod in 1..6 {
        attach(&mut store.lock().unwrap(), pod).unwrap();
    }
    type Whole = fn(&mut LockedLeases<'_>) -> Result<()>;
    let add: Whole = |leases| attach(leases, 0).map(drop);
    let del: Whole = |leases| detach(leases, 0, true);
    for whole in [add, del] {
        for writes in 0.. {
            let mut leases = store.lock().unwrap();
            leases.slots.file.writes_left.set(Some(writes));
            let done = whole(&mut leases);
            drop(leases);
            let mut leases = store.lock().unwrap();
            check(&leases);
            if done.is_ok() {
                assert!(writes > 2 + 2 * u32::try_from(sets.further()).unwrap(), "either has several writes");
                break;
            }
            for lease in leases.debris().unwrap() {
                leases.release(&lease).unwrap();
            }
            // Begins each time as it began first.
            let found = leases.find(&owner(0)).unwrap();
            match found {
                Some(lease) if std::ptr::fn_addr_eq(whole, add) => leases.release(&lease).unwrap(),
                None if std::ptr::fn_addr_eq(whole, del) => drop(attach(&mut leases, 0).unwrap()),
                _ => {}
            }
        }
    }
    let leases = store.lock().unwrap();
    assert_eq!((pods(&leases).len(), leases.leases().unwrap().len()), (5, 5 + 5 * sets.further()));
}

#[test]
fn an_address_that_is_asked_for_far_from_all_others_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = stores(dir.path(), "10.0.0.0/21", Sets::One);
    attach(&mut store.lock().unwrap(), 0).unwrap();
    let address = Some("10.0.5.7".parse().unwrap());
    let wanted = Wanted { address, further: &[], ports: &HostPorts::default() };
    let given = |_, _, _: &[Part]| Given::nothing(LeaseKind::Attached);
    let lease = store.lock().unwrap().reserve_with(&owner(1), NETNS, &wanted, given).unwrap();
    let mut leases = store.lock().unwrap();
    check(&leases);
    assert_eq!(leases.find(&owner(1)).unwrap(), Some(lease.clone()));
    assert_eq!(leases.leases().unwrap().len(), 2);
    leases.reserve_companion(&lease, 2047, "fd00::5".parse().unwrap()).unwrap();
    drop(leases);
    let mut leases = store.lock().unwrap();
    check(&leases);
    assert_eq!(leases.leases().unwrap().last().unwrap().slot, 2047);
    let again = leases.reserve_with(&owner(2), NETNS, &wanted, given).unwrap_err();
    assert!(matches!(again, crate::Error::Taken { .. }), "{again}");
    assert_eq!(attach(&mut leases, 2).unwrap().slot, 3, "the cursor stays where it was");
}

#[test]
fn an_index_full_of_nobodys_cells_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = stores(dir.path(), "10.0.0.0/28", Sets::One);
    for pod in 0..5 {
        attach(&mut store.lock().unwrap(), pod).unwrap();
    }
    let (mut most, mut died) = (0, 0);
    for name in 0..400u32 {
        let leases = store.lock().unwrap();
        // What is left of a process that dies after the cell was written and before the word is; or earlier, while
        // the index is made anew.
        leases.slots.file.writes_left.set(Some(name % 45));
        let done = leases.slots.enter(name << 2, 10);
        died += u32::from(done.is_err());
        most = most.max(leases.slots.cells().unwrap());
        drop(leases);
        let leases = store.lock().unwrap();
        check(&leases);
        assert_eq!(pods(&leases).len(), 5);
    }
    assert_eq!(most, 32);
    assert!(died > 10, "{died}");
    assert!(store.lock().unwrap().slots.cells().unwrap() < 32);
    let lease = attach(&mut store.lock().unwrap(), 200).unwrap();
    assert_eq!(store.lock().unwrap().find(&owner(200)).unwrap(), Some(lease));
}

#[test]
fn cells_of_those_who_are_gone_do_not_gather() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = stores(dir.path(), "10.0.0.0/24", Sets::One);
    let mut leases = store.lock().unwrap();
    let mut present = Vec::new();
    let mut random = 1u32;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random as usize % below
    };
    for name in 0..150_000u32 {
        let owner = Owner::new(&format!("{name:x}-pod"), "eth0".parse().unwrap()).unwrap();
        let mut lease = leases.reserve(&owner, NETNS).unwrap();
        leases.set_state(&mut lease, LeaseState::Active).unwrap();
        present.push(owner);
        while present.len() > 100 + next(100) {
            let gone = present.swap_remove(next(present.len()));
            let lease = leases.find(&gone).unwrap().unwrap();
            leases.release(&lease).unwrap();
        }
        if name % 5000 == 0 {
            assert_eq!(leases.slots.cells().unwrap(), present.len());
            check(&leases);
        }
    }
    assert_eq!(leases.slots.cells().unwrap(), leases.leases().unwrap().len());
}

//! Sets of ranges that come, go, grow and change places while pods have addresses of them: what each pod has stays
//! its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dunnage_sys::netns::NetnsId;
use proptest::prelude::*;

use super::crashes::{check, check_parts};
use super::{Given, LeaseKind, LeaseState, LeaseStore, LockedLeases, Owner, Part, Wanted};
use crate::range::{Range, Ranges};
use crate::{Error, HostPorts, Result};

const NETNS: NetnsId = NetnsId { dev: 4, ino: 4_026_531_840 };

fn owner(pod: u8) -> Owner {
    Owner::new(&format!("pod{pod}"), "eth0".parse().unwrap()).unwrap()
}

/// Ranges that sets are made of: of some, parts.
fn range() -> impl Strategy<Value = Range> {
    let whole = prop::sample::select(vec![
        "10.1.0.0/28",
        "10.1.0.0/27",
        "10.2.0.0/28",
        "10.3.0.0/29",
        "fd00:1::/124",
        "fd00:1::/118",
        "fd00:2::/118",
        "fd00:3::/123",
        "fd00:4::/64",
    ]);
    (whole, 0..3u8).prop_map(|(subnet, part)| {
        let whole = Range::of(subnet.parse().unwrap());
        let middle = match whole.first {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + 4).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + 8).into()),
        };
        match part {
            0 => whole,
            1 => Range { first: middle, ..whole },
            _ => Range { last: middle, ..whole },
        }
    })
}

fn ranges() -> impl Strategy<Value = Ranges> {
    let set = prop::collection::vec(range(), 1..3);
    let sets = prop::collection::vec(set, 1..5);
    sets.prop_map(|sets| Ranges { sets, exclude: Vec::new() })
        .prop_filter("can be used", |ranges| ranges.check().is_ok())
}

#[derive(Debug, Clone)]
enum Deed {
    Attach { pod: u8, wanted: Option<(u8, u8)> },
    Detach { pod: u8 },
    Change { ranges: Ranges },
}

fn deed() -> impl Strategy<Value = Deed> {
    let wanted = prop::option::weighted(0.2, (0..4u8, 0..20u8));
    prop_oneof![
        8 => (0..16u8, wanted).prop_map(|(pod, wanted)| Deed::Attach { pod, wanted }),
        5 => (0..16u8).prop_map(|pod| Deed::Detach { pod }),
        2 => ranges().prop_map(|ranges| Deed::Change { ranges }),
    ]
}

/// As a pod is attached, without the pod.
fn attach(leases: &mut LockedLeases<'_>, ranges: &Ranges, pod: u8, wanted: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if !leases.fits()? {
        let changed = if leases.is_empty() { leases.renew() } else { leases.extend() };
        changed?;
        assert!(leases.fits()?, "it was made to fit");
    }
    let segments = leases.segments().clone();
    let goes_along = ranges.along(&segments).is_some();
    let own = wanted.iter().find_map(|address| match address {
        IpAddr::V4(address) if ranges.set_of((*address).into()) == ranges.first(true) => Some(*address),
        _ => None,
    });
    let given = |slot, _, parts: &[Part]| {
        let mut given = Given::nothing(LeaseKind::Attached);
        let first = || parts.iter().find(|part| Some(part.set) == ranges.first(false));
        given.address6 = if goes_along { segments.along(slot) } else { first().and_then(Part::address6) };
        given
    };
    let wanted = Wanted { address: own, further: wanted, ports: &HostPorts::default() };
    let mut lease = leases.reserve_with(&owner(pod), NETNS, &wanted, given)?;
    leases.set_state(&mut lease, LeaseState::Active)?;
    let further = lease.further.iter().map(|further| further.address);
    let mut addresses: Vec<IpAddr> = lease.addresses().chain(further).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// The n-th address of a set, if that is one that pods can be given.
fn nth(ranges: &Ranges, (set, number): (u8, u8)) -> Option<IpAddr> {
    let range = ranges.sets.get(usize::from(set))?.first()?;
    let address = match range.first {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(number)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    };
    range.has(address).then_some(address)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_pod_has_is_given_to_nobody_else_however_the_ranges_change(
        first in ranges(),
        deeds in prop::collection::vec(deed(), 1..80),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = |ranges: &Ranges| LeaseStore::new(dir.path(), &"pods".parse().unwrap(), ranges.clone()).unwrap();
        let mut now = (store(&first), first);
        let mut pods: BTreeMap<u8, Vec<IpAddr>> = BTreeMap::new();
        for deed in deeds {
            match deed {
                Deed::Change { ranges } => now = (store(&ranges), ranges),
                Deed::Attach { pod, wanted } => {
                    let (store, ranges) = &now;
                    let mut leases = store.lock().unwrap();
                    let wanted: Vec<IpAddr> = wanted.and_then(|wanted| nth(ranges, wanted)).into_iter().collect();
                    match attach(&mut leases, ranges, pod, &wanted) {
                        Ok(addresses) => {
                            prop_assert_eq!(addresses.len(), ranges.sets.len());
                            for address in &addresses {
                                prop_assert!(ranges.set_of(*address).is_some(), "{}", address);
                                prop_assert!(pods.values().all(|other| !other.contains(address)), "{}", address);
                            }
                            let goes_along = ranges.along(leases.segments());
                            for address in wanted.iter().filter(|address| ranges.set_of(**address) != goes_along) {
                                prop_assert!(addresses.contains(address));
                            }
                            pods.insert(pod, addresses);
                        }
                        Err(Error::Attached { .. }) => prop_assert!(pods.contains_key(&pod)),
                        Err(Error::Foreign { .. } | Error::Exhausted { .. }) => prop_assert!(!pods.is_empty()),
                        Err(Error::Taken { .. } | Error::Invalid { .. }) => prop_assert!(!wanted.is_empty()),
                        Err(error) => panic!("{error}"),
                    }
                }
                Deed::Detach { pod } => {
                    let mut leases = now.0.lock().unwrap();
                    let lease = leases.find(&owner(pod)).unwrap();
                    prop_assert_eq!(lease.is_some(), pods.remove(&pod).is_some());
                    if let Some(lease) = lease {
                        leases.release(&lease).unwrap();
                    }
                }
            }
            let leases = now.0.lock().unwrap();
            check_parts(&leases, &leases.leases().unwrap());
            for (pod, addresses) in &pods {
                let lease = leases.find(&owner(*pod)).unwrap().unwrap();
                let further = lease.further.iter().map(|further| further.address);
                let mut found: Vec<IpAddr> = lease.addresses().chain(further).collect();
                found.sort_unstable();
                found.dedup();
                prop_assert_eq!(&found, addresses);
            }
            prop_assert_eq!(leases.is_empty(), pods.is_empty());
        }
        check(&now.0.lock().unwrap());
    }
}

fn store(dir: &std::path::Path, sets: &[&[&str]]) -> (LeaseStore, Ranges) {
    let set = |set: &&[&str]| set.iter().map(|net| Range::of(net.parse().unwrap())).collect();
    let ranges = Ranges { sets: sets.iter().map(set).collect(), exclude: Vec::new() };
    ranges.check().unwrap();
    (LeaseStore::new(dir, &"pods".parse().unwrap(), ranges.clone()).unwrap(), ranges)
}

/// The addresses that a pod gets, or why it gets none.
fn given(dir: &std::path::Path, pod: u8, sets: &[&[&str]]) -> std::result::Result<Vec<String>, String> {
    let (store, ranges) = store(dir, sets);
    let addresses = attach(&mut store.lock().unwrap(), &ranges, pod, &[]);
    let addresses = addresses.map_err(|error| error.to_string())?;
    Ok(addresses.iter().map(ToString::to_string).collect())
}

#[test]
fn sets_can_change_places_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, c) = (&["10.1.0.0/24"][..], &["10.2.0.0/24"][..], &["fd00::/64"][..]);
    let given = |pod, sets: &[&[&str]]| given(dir.path(), pod, sets).unwrap();
    assert_eq!(given(1, &[a, b, c]), ["10.1.0.2", "10.2.0.2", "fd00::2"]);
    assert_eq!(given(2, &[b, a, c]), ["10.1.0.3", "10.2.0.3", "fd00::103"]);
    assert_eq!(given(3, &[c, a]), ["10.1.0.4", "fd00::4"]);
    assert_eq!(given(4, &[a, b, c]), ["10.1.0.5", "10.2.0.5", "fd00::5"]);
    assert_eq!(given(5, &[&["fd00:1::/64"], a, c]), ["10.1.0.6", "fd00::6", "fd00:1::6"]);
}

#[test]
fn a_range_that_goes_along_cannot_begin_elsewhere_while_a_pod_has_an_address_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let four = &["10.1.0.0/24"][..];
    given(dir.path(), 1, &[four, &["fd00::/64"]]).unwrap();
    let refused = given(dir.path(), 2, &[four, &["fd00::/96", "fd00:1::/64"]]).unwrap_err();
    assert!(
        refused.ends_with("has pods in the IPv6 range from fd00::, so it cannot be another one"),
        "{refused}"
    );
    // Other addresses can be taken beside them.
    assert_eq!(given(dir.path(), 2, &[four, &["fd00:1::/64"]]).unwrap(), ["10.1.0.3", "fd00:1::3"]);
    for pod in [1, 2] {
        let (store, _) = store(dir.path(), &[four]);
        let mut leases = store.lock().unwrap();
        let lease = leases.find(&owner(pod)).unwrap().unwrap();
        leases.release(&lease).unwrap();
        assert_eq!(leases.is_empty(), pod == 2);
    }
    assert_eq!(
        given(dir.path(), 2, &[four, &["fd00::/96", "fd00:1::/64"]]).unwrap(),
        ["10.1.0.2", "fd00::2"]
    );
}

#[test]
fn addresses_that_would_go_along_with_places_of_another_range_have_places_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    given(dir.path(), 1, &[&["10.1.0.0/27"]]).unwrap();
    assert_eq!(given(dir.path(), 2, &[&["fd00:1::/124"]]).unwrap(), ["fd00:1::2"]);
    let both: [&[&str]; 2] = [&["10.2.0.0/28"], &["fd00:2::/124"]];
    assert_eq!(given(dir.path(), 3, &both).unwrap(), ["10.2.0.2", "fd00:2::2"]);
    // Those of the first are full, and their place is not counted once nobody has it.
    let (store, ranges) = store(dir.path(), &[&["10.3.0.0/28"], &["fd00:2::/124"]]);
    attach(&mut store.lock().unwrap(), &ranges, 4, &[]).unwrap();
    for pod in 1..=4 {
        let mut leases = store.lock().unwrap();
        let lease = leases.find(&owner(pod)).unwrap().unwrap();
        leases.release(&lease).unwrap();
        assert_eq!(leases.fits().unwrap(), pod < 4, "it is to be begun anew");
    }
}

#[test]
fn what_goes_along_reaches_farther_once_nobody_has_what_is_behind() {
    let dir = tempfile::tempdir().unwrap();
    let part = |first: &str, last: &str| Range {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
        ..Range::of("fd00::/64".parse().unwrap())
    };
    let (front, back) = (part("fd00::", "fd00::ff"), part("fd00::100", "fd00::1ff"));
    let whole = part("fd00::", "fd00::1ff");
    let four = vec![Range::of("10.1.0.0/24".parse().unwrap())];
    let with = |sets: &[&Range]| {
        let sets = std::iter::once(four.clone()).chain(sets.iter().map(|range| vec![(*range).clone()]));
        let ranges = Ranges { sets: sets.collect(), exclude: Vec::new() };
        (LeaseStore::new(dir.path(), &"pods".parse().unwrap(), ranges.clone()).unwrap(), ranges)
    };
    let reach = |leases: &LockedLeases<'_>| leases.segments().along.unwrap().length;
    let (both, ranges) = with(&[&front, &back]);
    attach(&mut both.lock().unwrap(), &ranges, 1, &[]).unwrap();
    let (one, ranges) = with(&[&whole]);
    let mut leases = one.lock().unwrap();
    attach(&mut leases, &ranges, 2, &[]).unwrap();
    assert_eq!(reach(&leases), 256, "the first pod has one of the others");
    for pod in [1, 2] {
        let lease = leases.find(&owner(pod)).unwrap().unwrap();
        leases.release(&lease).unwrap();
    }
    attach(&mut leases, &ranges, 3, &[]).unwrap();
    assert_eq!(reach(&leases), 512);
}

#[test]
fn a_set_that_has_no_address_left_is_named_and_nothing_is_leased() {
    let dir = tempfile::tempdir().unwrap();
    let sets: [&[&str]; 3] = [&["10.1.0.0/24"], &["10.2.0.0/29", "10.3.0.0/30"], &["fd00::/64"]];
    for pod in 0..6 {
        given(dir.path(), pod, &sets).unwrap();
    }
    let refused = given(dir.path(), 6, &sets).unwrap_err();
    assert_eq!(refused, "no free address in 10.2.0.0/29, 10.3.0.0/30: 6 of 6 are leased");
    let (store, _) = store(dir.path(), &sets);
    assert_eq!(store.lock().unwrap().leases().unwrap().len(), 12);
}

#[test]
fn a_further_address_whose_record_is_torn_stays_taken_as_long_as_its_pod_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let sets: [&[&str]; 2] = [&["10.1.0.0/29"], &["10.2.0.0/29"]];
    given(dir.path(), 1, &sets).unwrap();
    let (store, _) = store(dir.path(), &sets);
    let mut leases = store.lock().unwrap();
    let torn = leases.leases().unwrap().remove(1);
    leases.slots.file.write(&[0xff; 8], super::header::record_at(torn.slot)).unwrap();
    let torn = leases.leases().unwrap().remove(1);
    assert!(torn.holder.is_none() && leases.has_others(&torn).unwrap());
    let own = leases.find(&owner(1)).unwrap().unwrap();
    leases.release(&own).unwrap();
    assert!(!leases.has_others(&torn).unwrap(), "it can be swept now");
}

#[test]
fn a_network_without_addresses_can_be_full_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let store = LeaseStore::new(dir.path(), &"pods".parse().unwrap(), Ranges::none()).unwrap();
    let mut leases = store.lock().unwrap();
    leases.reserve(&owner(1), NETNS).unwrap();
    let error = leases.exhausted(0, &[(0, 2)]);
    assert_eq!(error.to_string(), "no free address in what stands for addresses: 1 of 2 are leased");
}

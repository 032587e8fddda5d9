//! Mount attributes of the spec as the `MOUNT_ATTR_*` bits of mount_setattr(2) and fsmount(2).

use dunnage_spec::mount::{Atime, AttributeSet, Attributes};

use crate::step::MountAttributes;

// linux/mount.h, the same on every architecture.
pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
/// The field of the access time mode; relatime is 0 in it.
pub(crate) const ATIME: u64 = 0x70;
pub(crate) const NOATIME: u64 = 0x10;
pub(crate) const STRICTATIME: u64 = 0x20;
pub(crate) const NODIRATIME: u64 = 0x80;
pub(crate) const NOSYMFOLLOW: u64 = 0x0020_0000;

/// A request for mount_setattr(2), which clears first and sets then. The access time mode is a field and not
/// a flag: EINVAL unless all of it is cleared.
pub(crate) fn change(attributes: &Attributes) -> MountAttributes {
    let mut change = MountAttributes { set: bits(attributes.set), clear: bits(attributes.clear) };
    if let Some(mode) = attributes.atime {
        change.set |= atime(mode);
        change.clear |= ATIME;
    }
    change
}

/// The attributes of a mount that is new, so that nothing lies below it: what goes to the whole tree and what
/// goes to its top are one, and there is nothing to clear.
pub(crate) fn fresh(own: &Attributes, recursive: &Attributes) -> u64 {
    let set = (bits(own.set) & !bits(recursive.clear)) | bits(recursive.set);
    set | recursive.atime.or(own.atime).map_or(0, atime)
}

fn atime(mode: Atime) -> u64 {
    match mode {
        Atime::Relatime => 0,
        Atime::Noatime => NOATIME,
        Atime::Strictatime => STRICTATIME,
    }
}

fn bits(set: AttributeSet) -> u64 {
    [
        (set.readonly, RDONLY),
        (set.nosuid, NOSUID),
        (set.nodev, NODEV),
        (set.noexec, NOEXEC),
        (set.nodiratime, NODIRATIME),
        (set.nosymfollow, NOSYMFOLLOW),
    ]
    .into_iter()
    .filter_map(|(wanted, bit)| wanted.then_some(bit))
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readonly() -> AttributeSet {
        AttributeSet { readonly: true, ..AttributeSet::default() }
    }

    #[test]
    fn an_access_time_mode_clears_the_whole_field_first() {
        let relatime = Attributes { atime: Some(Atime::Relatime), ..Attributes::default() };
        assert_eq!(change(&relatime), MountAttributes { set: 0, clear: ATIME });
        let noatime = Attributes { atime: Some(Atime::Noatime), ..Attributes::default() };
        assert_eq!(change(&noatime), MountAttributes { set: NOATIME, clear: ATIME });
    }

    #[test]
    fn what_is_in_neither_set_stays_as_it_is() {
        let rw = Attributes { clear: readonly(), ..Attributes::default() };
        assert_eq!(change(&rw), MountAttributes { set: 0, clear: RDONLY });
        assert!(change(&Attributes::default()).is_empty());
    }

    #[test]
    fn a_new_mount_takes_the_recursive_attributes_as_its_own() {
        let own = Attributes { set: AttributeSet { nosuid: true, ..readonly() }, ..Attributes::default() };
        let rrw = Attributes { clear: readonly(), ..Attributes::default() };
        assert_eq!(fresh(&own, &rrw), NOSUID);
        let rro = Attributes { set: readonly(), atime: Some(Atime::Noatime), ..Attributes::default() };
        assert_eq!(fresh(&Attributes::default(), &rro), RDONLY | NOATIME);
    }
}

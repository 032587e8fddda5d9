//! Elements of sets and maps, as messages have them.

use super::{Attributes, TABLE, Verb, message};
use crate::channel::{Request, attributes};

/// `struct nfgenmsg`.
pub(super) const MESSAGE_HEADER: usize = 4;

/// Attributes of a list of elements and of one element.
pub(super) const LIST_SET: u16 = 2;
pub(super) const LIST_ELEMENTS: u16 = 3;
pub(super) const LIST_ELEM: u16 = 1;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;

/// The key of an element.
pub(super) fn key(bytes: &[u8]) -> Attributes {
    Attributes::new().nest(ELEM_KEY, &Attributes::new().bytes(1, bytes))
}

/// The bytes in a nested value of an element.
pub(super) fn field(element: &[u8], kind: u16) -> Option<Vec<u8>> {
    let nested = attributes(element).find(|(found, _)| *found == kind)?.1;
    attributes(nested).find(|(kind, _)| *kind == 1).map(|(_, value)| value.to_vec())
}

/// A request about elements of one set.
pub(super) fn elements(verb: Verb, flags: u16, set: &str, list: &[Attributes]) -> Request {
    let list = list.iter().fold(Attributes::new(), |all, element| all.nest(LIST_ELEM, element));
    let attributes = Attributes::new().text(1, TABLE).text(2, set).nest(LIST_ELEMENTS, &list);
    let what = match verb {
        Verb::NewElement => "add to",
        Verb::DelElement => "delete from",
        _ => "look up in",
    };
    message(verb, flags, attributes, format!("{what} nftables set {set}"))
}

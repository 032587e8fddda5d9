//! Requests to the kernel and the answers to them, over one netlink socket.
//!
//! Owns message headers, sequence numbers, acks and extended acks. Leaves what is in a message to `route` and
//! `nft`. The kernel handles a request within `send`, so all answers are waiting when it returns.

use dunnage_sys::Errno;
use dunnage_sys::netlink::{NetlinkSocket, Subsystem};

use crate::{Error, Result};

const HEADER: usize = 16;
/// Dumps come in datagrams of up to 32 KiB; a smaller buffer would truncate them.
const DUMP_BUFFER: usize = 32 * 1024;
/// Other answers fit into a page (`NLMSG_GOODSIZE`).
const BUFFER: usize = 8 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
/// Asks for every object instead of one.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Fail when it exists.
pub(crate) const NLM_F_EXCL: u16 = 0x200;
/// Make it when it is missing.
pub(crate) const NLM_F_CREATE: u16 = 0x400;
/// Put it behind the others.
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// Send back what was made, before the ack.
pub(crate) const NLM_F_ECHO: u16 = 0x8;

/// Offset of the explanation attribute in an extended ack (`NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message to the kernel.
#[derive(Debug)]
pub(crate) struct Request {
    /// Message type.
    pub(crate) kind: u16,
    /// `NLM_F_*` beyond `NLM_F_REQUEST`.
    pub(crate) flags: u16,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
    /// Whether the kernel acknowledges it; the two ends of a netfilter batch are not acknowledged.
    pub(crate) ack: bool,
    /// What the kernel may refuse it with because there is nothing to do.
    pub(crate) done: Option<Errno>,
    /// The request as a person would say it.
    pub(crate) what: String,
}

impl Request {
    /// A request that the kernel acknowledges.
    pub(crate) fn new(kind: u16, flags: u16, body: Vec<u8>, what: String) -> Self {
        Self { kind, flags, body, ack: true, done: None, what }
    }

    /// Takes a refusal with this errno for a success.
    pub(crate) fn unless(self, done: Errno) -> Self {
        Self { done: Some(done), ..self }
    }
}

/// A refused request and its place among those sent together.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Index of the request; the ones before it may have been carried out.
    pub(crate) index: usize,
    /// Why.
    pub(crate) error: Error,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// One netlink socket with its counter.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: NetlinkSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// Opens a channel in the network namespace of the calling thread.
    pub(crate) fn open(subsystem: Subsystem) -> Result<Self> {
        Ok(Self { socket: NetlinkSocket::open(subsystem)?, sequence: 0, buffer: Vec::new() })
    }

    /// As [`NetlinkSocket::has_carrier`].
    pub(crate) fn has_carrier(&self, link: &str) -> Result<bool> {
        Ok(self.socket.has_carrier(link)?)
    }

    /// Sends the requests in one datagram and reads until the last is acknowledged; `reply` gets the body of every
    /// other message that answers them. The kernel handles them in order and tells of a refused one without being
    /// asked, so the last acknowledgement stands for all. It goes on after a refused request (unless they are a
    /// netfilter batch), so the error names the first one.
    pub(crate) fn exchange(
        &mut self,
        requests: &[Request],
        mut reply: impl FnMut(&[u8]),
    ) -> std::result::Result<(), Failed> {
        if requests.is_empty() {
            // The kernel refuses a datagram of nothing.
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(requests.len()).unwrap_or(u32::MAX));
        let whole = |error: Error| Failed { index: 0, error };
        self.socket.send(&encode(requests, first)).map_err(|error| whole(error.into()))?;
        let dumps = requests.iter().any(|request| request.flags & NLM_F_DUMP == NLM_F_DUMP);
        let wanted = if dumps { DUMP_BUFFER } else { BUFFER };
        self.buffer.resize(self.buffer.len().max(wanted), 0);
        let last = last_acknowledged(requests);
        let mut open = last.is_some();
        while open {
            let received = self.socket.recv(&mut self.buffer).map_err(|error| whole(error.into()))?;
            for message in Messages(&self.buffer[..received]) {
                // Answers to earlier requests, after a failure that left some unread, are nobody's.
                let index = message.sequence.wrapping_sub(first) as usize;
                let Some(request) = requests.get(index) else { continue };
                match message.outcome() {
                    Outcome::Reply => reply(message.body),
                    Outcome::Done => open = Some(index) != last,
                    Outcome::Refused(errno, _) if request.done == Some(errno) => open = Some(index) != last,
                    Outcome::Refused(errno, detail) => {
                        if Some(index) != last {
                            self.socket.drain(&mut self.buffer);
                        }
                        let error = Error::Refused { what: request.what.clone(), errno, detail };
                        return Err(Failed { index, error });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where the request is whose acknowledgement says that all were handled.
fn last_acknowledged(requests: &[Request]) -> Option<usize> {
    requests.iter().rposition(|request| request.ack)
}

fn encode(requests: &[Request], first: u32) -> Vec<u8> {
    let last = last_acknowledged(requests);
    let total = requests.iter().map(|request| HEADER + aligned(request.body.len())).sum();
    let mut bytes = Vec::with_capacity(total);
    for (index, request) in requests.iter().enumerate() {
        let sequence = first.wrapping_add(u32::try_from(index).unwrap_or_default());
        let length = u32::try_from(HEADER + request.body.len()).expect("a message is far below 4 GiB");
        let ack = if Some(index) == last { NLM_F_ACK } else { 0 };
        bytes.extend(length.to_ne_bytes());
        bytes.extend(request.kind.to_ne_bytes());
        bytes.extend((request.flags | ack | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&request.body);
        bytes.resize(aligned(bytes.len()), 0);
    }
    bytes
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

enum Outcome {
    Reply,
    Done,
    Refused(Errno, Option<String>),
}

impl Message<'_> {
    fn outcome(&self) -> Outcome {
        if !matches!(self.kind, NLMSG_ERROR | NLMSG_DONE) {
            return Outcome::Reply;
        }
        // Both begin with a negative errno, zero for success.
        let code = self.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        match code {
            0 => Outcome::Done,
            code => Outcome::Refused(Errno::from_raw_os_error(-code), self.explanation()),
        }
    }

    /// The kernel's own words, behind the errno and the request (of which `NLM_F_CAPPED` leaves the header).
    fn explanation(&self) -> Option<String> {
        if self.kind != NLMSG_ERROR || self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request = self.body.get(4..)?;
        let length = match self.flags & NLM_F_CAPPED {
            0 => aligned(u32::from_ne_bytes(*request.first_chunk()?) as usize),
            _ => HEADER,
        };
        let text = attributes(request.get(length..)?).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?.1;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').trim_end_matches('.').to_owned())
    }
}

struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = word(0) as usize;
        let message =
            Message { kind: half(4), flags: half(6), sequence: word(8), body: self.0.get(HEADER..length)? };
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(message)
    }
}

/// Walks the attributes of a message; stops at the first that does not fit.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The two upper bits of a type are `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const TYPE_MASK: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Netlink keeps everything on boundaries of four bytes.
pub(crate) fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_lies_about_its_length_ends_the_walk() {
        let mut bytes = encode(&[Request::new(16, 0, vec![1; 8], String::new())], 7);
        assert_eq!(Messages(&bytes).count(), 1);
        bytes[0] = 200;
        assert_eq!(Messages(&bytes).count(), 0);
        bytes[0] = 3;
        assert_eq!(Messages(&bytes).count(), 0);
    }

    #[test]
    fn an_extended_ack_is_read_with_and_without_the_request_in_it() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([9, 0, 1, 0]);
        body.extend(b"why.\0");
        let message =
            Message { kind: NLMSG_ERROR, flags: NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence: 0, body: &body };
        assert!(matches!(message.outcome(), Outcome::Refused(Errno::EXIST, Some(text)) if text == "why"));
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend(20u32.to_ne_bytes());
        body.extend([0; 16]);
        body.extend([9, 0, 1, 0]);
        body.extend(b"why.\0");
        let message = Message { kind: NLMSG_ERROR, flags: NLM_F_ACK_TLVS, sequence: 0, body: &body };
        assert!(matches!(message.outcome(), Outcome::Refused(Errno::EXIST, Some(text)) if text == "why"));
    }
}

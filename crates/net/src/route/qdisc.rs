//! Bandwidth: a token bucket filter (tc-tbf(8)) on what leaves a link.

use super::{Link, RTM_GETQDISC, RTM_NEWQDISC, RouteSocket};
use crate::Result;
use crate::channel::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, Request, aligned, attributes};

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
/// Where the rate is in `struct tc_ratespec`, with which the parameters begin.
const RATE: usize = 8;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `struct tcmsg`.
const HEADER: usize = 20;
const TC_H_ROOT: u32 = 0xffff_ffff;
/// Handle 1:0.
const HANDLE: u32 = 1 << 16;
const LINKLAYER_ETHERNET: u8 = 1;
/// How long a packet may wait, in milliseconds; what would wait longer is dropped.
const LATENCY_MS: u64 = 25;
/// A bucket must hold what leaves at once: segmentation is left to the device, so a "packet" has up to 64 KiB.
const BURST_MIN: u64 = 64 << 10;

/// How fast bytes may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second.
    rate: u64,
    /// Bytes that may pass at once after a pause.
    burst: u32,
}

impl Shape {
    /// From bits per second and bits, as people give them. A burst is at least what makes the rate reachable
    /// (64 KiB, 10 ms), and without a burst, or with the absurd one of 2^32 - 1 bits that containerd sends for
    /// "none was asked for" and that would make a limit useless for whatever is short, it is that. `None` for a
    /// rate below one byte a second.
    #[must_use]
    pub fn of_bits(rate: u64, burst: Option<u64>) -> Option<Self> {
        let rate = rate / 8;
        let smallest = (rate / 100).max(BURST_MIN);
        let asked = burst.filter(|bits| *bits > 0 && *bits < u64::from(u32::MAX)).map_or(0, |bits| bits / 8);
        let burst = u32::try_from(smallest.max(asked)).unwrap_or(u32::MAX);
        (rate > 0).then_some(Self { rate, burst })
    }
}

impl RouteSocket {
    /// Limits what leaves a link that has no queueing discipline of anybody's.
    pub(crate) fn shape(&mut self, index: u32, name: &str, shape: Shape) -> Result<()> {
        Ok(self.channel.exchange(&[tbf(index, name, shape)], |_| {})?)
    }

    /// What is wrong with the limit of a link that was given this one, if anything is.
    pub(crate) fn wrong_shape(&mut self, link: &Link, given: Shape) -> Result<Option<&'static str>> {
        if !link.shaped {
            return Ok(Some("does not limit bandwidth"));
        }
        let what = format!("look up the limit of {}", link.name);
        // The kernel answers by a notification, which is for others unless an echo is asked for.
        let get = Request::new(RTM_GETQDISC, NLM_F_ECHO, header(link.index, 0), what);
        let mut found = None;
        self.channel.exchange(&[get], |reply| found = rate(reply))?;
        Ok((found != Some(given.rate)).then_some("limits bandwidth to another rate"))
    }
}

/// `struct tcmsg`: family and padding, link, handle, parent, info.
fn header(index: u32, handle: u32) -> Vec<u8> {
    [0, index, handle, TC_H_ROOT, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// The bytes a second that a token bucket lets pass, in what the kernel tells of it.
fn rate(reply: &[u8]) -> Option<u64> {
    let find = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let options = find(reply.get(HEADER..)?, TCA_OPTIONS)?;
    if let Some(rate) = find(options, TCA_TBF_RATE64).and_then(<[u8]>::first_chunk) {
        return Some(u64::from_ne_bytes(*rate));
    }
    let rate = find(options, TCA_TBF_PARMS)?.get(RATE..)?.first_chunk()?;
    Some(u64::from(u32::from_ne_bytes(*rate)))
}

fn tbf(index: u32, name: &str, shape: Shape) -> Request {
    let mut body = header(index, HANDLE);
    attribute(&mut body, TCA_KIND, b"tbf\0");
    let mut options = Vec::new();
    attribute(&mut options, TCA_TBF_PARMS, &parameters(shape));
    attribute(&mut options, TCA_TBF_BURST, &shape.burst.to_ne_bytes());
    if u32::try_from(shape.rate).is_err() {
        attribute(&mut options, TCA_TBF_RATE64, &shape.rate.to_ne_bytes());
    }
    attribute(&mut body, TCA_OPTIONS, &options);
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Request::new(RTM_NEWQDISC, flags, body, format!("limit the bandwidth of {name} (tbf)"))
}

/// struct tc_tbf_qopt: two of struct tc_ratespec (rate, peak rate), then limit, buffer and mtu. Buffer and the
/// rate table are given in another way: as a number of bytes, and by naming the link layer.
fn parameters(shape: Shape) -> Vec<u8> {
    let rate = u32::try_from(shape.rate).unwrap_or(u32::MAX);
    let limit = shape.rate.saturating_mul(LATENCY_MS) / 1000 + u64::from(shape.burst);
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let mut bytes = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend(rate.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes.extend(limit.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("far below 64 KiB");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_what_the_rate_needs_or_more() {
        let shape = |rate, burst| Shape::of_bits(rate, burst).unwrap();
        assert_eq!(shape(8_000_000, None), Shape { rate: 1_000_000, burst: 65_536 });
        assert_eq!(shape(8_000_000, Some(8_000_000)).burst, 1_000_000);
        assert_eq!(shape(8_000_000, Some(u64::from(u32::MAX))).burst, 65_536, "containerd's none");
        assert_eq!(shape(8_000_000_000, None).burst, 10_000_000);
        assert_eq!(Shape::of_bits(7, None), None);
    }

    #[test]
    fn a_rate_is_read_from_what_it_is_set_by() {
        for bits in [8_000_000, 80_000_000_000] {
            let shape = Shape::of_bits(bits, None).unwrap();
            assert_eq!(rate(&tbf(7, "eth0", shape).body), Some(bits / 8));
        }
        assert_eq!(rate(&header(7, HANDLE)), None);
    }
}

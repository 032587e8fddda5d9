//! The messages inside of frames: reading a request without copying it, and writing a call or an answer
//! straight into one buffer, header first.
//!
//! Written by hand because the generated types would copy every payload twice; the tests hold them against the
//! generated ones.

use std::time::Duration;

use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::frame::{HEADER_LEN, Header, MAX_PAYLOAD, kind};
use crate::Status;
use crate::wire::ttrpc as wire;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not protobuf, or a field of the wrong type.
    #[error(transparent)]
    Field(#[from] DecodeError),
    /// A field says it is longer than the message.
    #[error("a field is longer than its message")]
    CutShort,
    /// The name of a service, method or key.
    #[error("a name is not UTF-8")]
    NotUtf8,
}

/// A call as it stands in the frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// Full name of the service, such as `containerd.task.v3.Task`.
    pub service: &'a str,
    /// Name of the method, such as `State`.
    pub method: &'a str,
    /// The request message of that method.
    pub payload: &'a [u8],
    /// How long the caller waits; `None` is for ever.
    pub timeout: Option<Duration>,
    /// Keys and values in the order they came; tracing and the containerd namespace travel here.
    pub metadata: Vec<(&'a str, &'a str)>,
}

impl<'a> Request<'a> {
    /// Reads a request out of a frame's payload.
    ///
    /// # Errors
    /// The bytes are no `ttrpc.Request`, or a name in them is not UTF-8.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Self::default();
        while !bytes.is_empty() {
            let (tag, wire_type) = encoding::decode_key(&mut bytes)?;
            match tag {
                1 => request.service = text(wire_type, &mut bytes)?,
                2 => request.method = text(wire_type, &mut bytes)?,
                3 => request.payload = block(wire_type, &mut bytes)?,
                4 => {
                    encoding::check_wire_type(WireType::Varint, wire_type)?;
                    request.timeout = from_nanos(encoding::decode_varint(&mut bytes)?);
                }
                5 => request.metadata.push(key_value(block(wire_type, &mut bytes)?)?),
                _ => encoding::skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
            }
        }
        Ok(request)
    }
}

/// A whole frame with a call of `message`, for stream `stream`.
///
/// # Errors
/// RESOURCE_EXHAUSTED when it does not fit a frame.
pub fn encode_request(
    stream: u32,
    (service, method): (&str, &str),
    message: &impl Message,
    timeout: Option<Duration>,
) -> Result<Vec<u8>, Status> {
    let timeout_nano = timeout.map_or(0, |limit| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX));
    let payload_len = message.encoded_len();
    let names_len = block_len(1, service.len()) + block_len(2, method.len());
    let timeout_len = if timeout_nano == 0 { 0 } else { encoding::int64::encoded_len(4, &timeout_nano) };
    let length = names_len + block_len(3, payload_len) + timeout_len;

    let mut frame = start(Header { length: fits(length)?, stream, kind: kind::REQUEST, flags: 0 });
    put_block(1, service.as_bytes(), &mut frame);
    put_block(2, method.as_bytes(), &mut frame);
    put_message(3, message, payload_len, &mut frame);
    if timeout_nano != 0 {
        encoding::int64::encode(4, &timeout_nano, &mut frame);
    }
    Ok(frame)
}

/// A whole frame with the answer to the call on `stream`. A message that does not fit a frame is answered with
/// RESOURCE_EXHAUSTED instead.
#[must_use]
pub fn encode_response(stream: u32, result: Result<impl Message, Status>) -> Vec<u8> {
    match result.and_then(|message| encode_success(stream, &message)) {
        Ok(frame) => frame,
        Err(status) => encode_failure(stream, status),
    }
}

/// Reads an answer out of a frame's payload: the bytes of the response message, or the status.
///
/// # Errors
/// The bytes are no `ttrpc.Response`.
pub fn decode_response(bytes: &[u8]) -> Result<Result<Vec<u8>, Status>, DecodeError> {
    let response = wire::Response::decode(bytes)?;
    Ok(match response.status.and_then(Status::from_wire) {
        Some(status) => Err(status),
        None => Ok(response.payload),
    })
}

fn encode_success(stream: u32, message: &impl Message) -> Result<Vec<u8>, Status> {
    let payload_len = message.encoded_len();
    let length = fits(block_len(2, payload_len))?;
    let mut frame = start(Header { length, stream, kind: kind::RESPONSE, flags: 0 });
    put_message(2, message, payload_len, &mut frame);
    Ok(frame)
}

fn encode_failure(stream: u32, mut status: Status) -> Vec<u8> {
    // A text that does not fit a frame helps nobody; its start might.
    let most = MAX_PAYLOAD as usize / 2;
    if status.message.len() > most {
        let end = (0..=most).rev().find(|end| status.message.is_char_boundary(*end));
        status.message.truncate(end.unwrap_or_default());
    }
    let response = wire::Response { status: Some(status.into_wire()), payload: Vec::new() };
    let length = u32::try_from(response.encoded_len()).unwrap_or(MAX_PAYLOAD);
    let mut frame = start(Header { length, stream, kind: kind::RESPONSE, flags: 0 });
    // Encoding into a growing buffer cannot fail; encode_raw says so in its type.
    response.encode_raw(&mut frame);
    frame
}

fn start(header: Header) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + header.length as usize);
    frame.extend_from_slice(&header.to_bytes());
    frame
}

fn fits(length: usize) -> Result<u32, Status> {
    u32::try_from(length).ok().filter(|length| *length <= MAX_PAYLOAD).ok_or_else(|| {
        Status::resource_exhausted(format!("message of {length} bytes is larger than {MAX_PAYLOAD}"))
    })
}

fn block_len(tag: u32, len: usize) -> usize {
    if len == 0 { 0 } else { encoding::key_len(tag) + encoding::encoded_len_varint(len as u64) + len }
}

fn put_block_start(tag: u32, len: usize, frame: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, frame);
    encoding::encode_varint(len as u64, frame);
}

fn put_block(tag: u32, bytes: &[u8], frame: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_block_start(tag, bytes.len(), frame);
        frame.extend_from_slice(bytes);
    }
}

fn put_message(tag: u32, message: &impl Message, len: usize, frame: &mut Vec<u8>) {
    if len != 0 {
        put_block_start(tag, len, frame);
        message.encode_raw(frame);
    }
}

fn from_nanos(varint: u64) -> Option<Duration> {
    // An int64 on the wire: negative numbers come as huge ones, and mean no limit as well as 0 does.
    i64::try_from(varint)
        .ok()
        .filter(|nanos| *nanos > 0)
        .map(|nanos| Duration::from_nanos(nanos.unsigned_abs()))
}

fn key_value(mut bytes: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut pair = ("", "");
    while !bytes.is_empty() {
        let (tag, wire_type) = encoding::decode_key(&mut bytes)?;
        match tag {
            1 => pair.0 = text(wire_type, &mut bytes)?,
            2 => pair.1 = text(wire_type, &mut bytes)?,
            _ => encoding::skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(pair)
}

fn text<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    std::str::from_utf8(block(wire_type, bytes)?).map_err(|_| Malformed::NotUtf8)
}

fn block<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let len = encoding::decode_varint(bytes)?;
    let (block, rest) =
        usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len)).ok_or(Malformed::CutShort)?;
    *bytes = rest;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Code;
    use crate::task::{StateRequest, StateResponse};
    use crate::ttrpc::frame::{Decoder, Frame};

    const STATE: (&str, &str) = ("containerd.task.v3.Task", "State");

    fn payload(frame: &[u8]) -> &[u8] {
        &frame[HEADER_LEN..]
    }

    #[test]
    fn a_call_has_the_bytes_the_protocol_prescribes() {
        let request = StateRequest { id: "a".into(), exec_id: String::new() };
        let frame = encode_request(3, ("s.S", "State"), &request, Some(Duration::from_nanos(300))).unwrap();
        #[rustfmt::skip]
        assert_eq!(frame, [
            0, 0, 0, 20,  0, 0, 0, 3,  1, 0,
            0x0a, 3, b's', b'.', b'S',
            0x12, 5, b'S', b't', b'a', b't', b'e',
            0x1a, 3, 0x0a, 1, b'a',
            0x20, 0xac, 0x02,
        ]);
    }

    #[test]
    fn an_answer_has_the_bytes_the_protocol_prescribes() {
        let answer = StateResponse { pid: 7, ..StateResponse::default() };
        assert_eq!(encode_response(3, Ok(answer)), [0, 0, 0, 4, 0, 0, 0, 3, 2, 0, 0x12, 2, 0x18, 7]);
        assert_eq!(encode_response(5, Ok(())), [0, 0, 0, 0, 0, 0, 0, 5, 2, 0]);
        let refused = encode_response(5, Err::<(), _>(Status::not_found("no")));
        assert_eq!(refused, [0, 0, 0, 8, 0, 0, 0, 5, 2, 0, 0x0a, 6, 0x08, 5, 0x12, 2, b'n', b'o']);
    }

    #[test]
    fn an_answer_is_read_back_with_its_status() {
        let refused = encode_response(5, Err::<(), _>(Status::not_found("no")));
        assert_eq!(decode_response(payload(&refused)).unwrap(), Err(Status::not_found("no")));
        // A Go server may also send a status that says OK.
        let ok = [0x0a, 2, 0x08, 0, 0x12, 1, b'x'];
        assert_eq!(decode_response(&ok).unwrap(), Ok(b"x".to_vec()));
    }

    #[test]
    fn a_call_beyond_the_frame_size_is_refused_before_it_is_sent() {
        let request = StateRequest { id: "a".repeat(MAX_PAYLOAD as usize), exec_id: String::new() };
        assert_eq!(encode_request(1, STATE, &request, None).unwrap_err().code, Code::ResourceExhausted);
    }

    #[test]
    fn an_answer_beyond_the_frame_size_becomes_a_status() {
        let answer = StateResponse { bundle: "a".repeat(MAX_PAYLOAD as usize), ..StateResponse::default() };
        let status = decode_response(payload(&encode_response(1, Ok(answer)))).unwrap().unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
        let long = Status::unknown("ä".repeat(MAX_PAYLOAD as usize));
        let frame = encode_response(1, Err::<(), _>(long));
        assert!(frame.len() < MAX_PAYLOAD as usize);
        assert_eq!(decode_response(payload(&frame)).unwrap().unwrap_err().code, Code::Unknown);
    }

    #[test]
    fn no_limit_and_nonsense_limits_are_no_limit() {
        assert_eq!(from_nanos(0), None);
        assert_eq!(from_nanos(u64::MAX), None);
        assert_eq!(from_nanos(5), Some(Duration::from_nanos(5)));
    }

    proptest! {
        #[test]
        fn a_request_reads_as_the_generated_type_wrote_it(
            service in ".*", method in ".*",
            payload in prop::collection::vec(any::<u8>(), 0..200),
            timeout_nano in 0..i64::MAX,
            metadata in prop::collection::vec((".*", ".*"), 0..4),
        ) {
            let written = wire::Request {
                service, method, payload, timeout_nano,
                metadata: metadata.into_iter().map(|(key, value)| wire::KeyValue { key, value }).collect(),
            };
            let bytes = written.encode_to_vec();
            let read = Request::decode(&bytes).unwrap();
            prop_assert_eq!(read.service, written.service);
            prop_assert_eq!(read.method, written.method);
            prop_assert_eq!(read.payload, written.payload);
            prop_assert_eq!(read.timeout, from_nanos(timeout_nano.unsigned_abs()));
            let metadata: Vec<_> = written.metadata.iter().map(|pair| (&*pair.key, &*pair.value)).collect();
            prop_assert_eq!(read.metadata, metadata);
        }

        #[test]
        fn a_frame_we_write_reads_as_the_generated_type(
            stream in any::<u32>(), service in ".*", method in ".*", id in ".*", timeout in 0..i64::MAX,
        ) {
            let request = StateRequest { id, exec_id: "e".into() };
            let limit = Duration::from_nanos(timeout.unsigned_abs());
            let frame = encode_request(stream, (&service, &method), &request, Some(limit)).unwrap();
            let mut decoder = Decoder::default();
            let mut input = frame.as_slice();
            let Some(Frame::Whole(header, bytes)) = decoder.next(&mut input) else { panic!("not a frame") };
            prop_assert_eq!((header.stream, header.kind), (stream, kind::REQUEST));
            let read = wire::Request::decode(bytes).unwrap();
            prop_assert_eq!((read.service, read.method, read.timeout_nano), (service, method, timeout));
            prop_assert_eq!(StateRequest::decode(read.payload.as_slice()).unwrap(), request);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let ours = Request::decode(&bytes).is_ok();
            let theirs = wire::Request::decode(bytes.as_slice()).is_ok();
            prop_assert_eq!(ours, theirs);
            let _ = decode_response(&bytes);
        }
    }
}

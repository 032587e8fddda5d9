//! Messages of D-Bus, as far as four calls and one signal need them (D-Bus Specification, "Message Protocol").
//!
//! Bytes only; who sends them where is [`super::bus`]. Numbers are in the byte order of this machine, which is
//! that of its systemd.

use std::fmt::Write as _;

/// A value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    U64(u64),
    Text(String),
    U32s(Vec<u32>),
    Bytes(Vec<u8>),
}

/// A property of a unit, by its name on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) name: &'static str,
    pub(crate) value: Value,
}

/// An argument of a call.
#[derive(Debug)]
pub(crate) enum Argument<'a> {
    Text(&'a str),
    Bool(bool),
    /// `a(sv)`
    Properties(&'a [Property]),
    /// `a(sa(sv))`: the auxiliary units of `StartTransientUnit`, of which there are none.
    NoUnits,
}

impl Argument<'_> {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Bool(_) => "b",
            Self::Properties(_) => "a(sv)",
            Self::NoUnits => "a(sa(sv))",
        }
    }
}

const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A call to systemd's manager object.
pub(crate) fn call(serial: u32, member: &str, arguments: &[Argument<'_>]) -> Vec<u8> {
    let mut body = Encoder::default();
    let mut signature = String::new();
    for argument in arguments {
        signature.push_str(argument.signature());
        body.argument(argument);
    }
    let mut message = Encoder::default();
    // No flags, version 1.
    message.bytes.extend([ENDIAN, CALL, 0, 1]);
    message.u32(length(&body.bytes));
    message.u32(serial);
    message.array(8, |fields| {
        fields.field(1, "o", "/org/freedesktop/systemd1");
        fields.field(2, "s", MANAGER);
        fields.field(3, "s", member);
        fields.field(6, "s", "org.freedesktop.systemd1");
        fields.field(8, "g", &signature);
    });
    message.align(8);
    message.bytes.extend(body.bytes);
    message.bytes
}

/// Bytes with the padding that each type wants before it; the start is aligned to everything.
#[derive(Debug, Default)]
struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_ne_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u32(length(text.as_bytes()));
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, signature: &str) {
        // At most 255 bytes by the specification; ours have a dozen.
        self.bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.bytes.extend(signature.as_bytes());
        self.bytes.push(0);
    }

    /// The length counts neither itself nor the padding before the first element.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(alignment);
        let start = self.bytes.len();
        elements(self);
        let written = length(&self.bytes[start..]);
        self.bytes[at..at + 4].copy_from_slice(&written.to_ne_bytes());
    }

    /// One of the fields of a header, `(yv)`.
    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.align(8);
        self.bytes.push(code);
        self.signature(signature);
        if signature == "g" { self.signature(value) } else { self.text(value) }
    }

    fn argument(&mut self, argument: &Argument<'_>) {
        match argument {
            Argument::Text(text) => self.text(text),
            Argument::Bool(value) => self.u32(u32::from(*value)),
            Argument::Properties(properties) => {
                self.array(8, |array| properties.iter().for_each(|property| array.property(property)));
            }
            Argument::NoUnits => self.array(8, |_| ()),
        }
    }

    fn property(&mut self, property: &Property) {
        self.align(8);
        self.text(property.name);
        match &property.value {
            Value::Bool(value) => {
                self.signature("b");
                self.u32(u32::from(*value));
            }
            Value::U64(value) => {
                self.signature("t");
                self.align(8);
                self.bytes.extend(value.to_ne_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::U32s(values) => {
                self.signature("au");
                self.array(4, |array| values.iter().for_each(|value| array.u32(*value)));
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |array| array.bytes.extend(bytes));
            }
        }
    }
}

/// Everything here is far below the specification's 128 MiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// What systemd says, as far as anybody here listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The answer to a call; of `StartTransientUnit` and `StopUnit` the job's path, else nothing.
    Returned { to: u32, job: Option<String> },
    /// A refusal, with the error's name and its text.
    Refused { to: u32, name: String, text: String },
    /// The signal `JobRemoved`.
    JobRemoved { job: String, result: String },
    /// Some other signal.
    Other,
}

/// The bytes are not D-Bus as this side speaks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Garbled;

/// The first message in `bytes` and its length; `None` when there is more to come.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Heard, usize)>, Garbled> {
    const FIXED: usize = 16;
    // The specification allows 128 MiB; systemd's signals about a unit have some kilobytes.
    const GREATEST: usize = 1 << 24;
    if bytes.len() < FIXED {
        return Ok(None);
    }
    if bytes[0] != ENDIAN || bytes[3] != 1 {
        return Err(Garbled);
    }
    let mut header = Decoder { bytes, at: 4 };
    let body = header.size()?;
    header.at = 12;
    let fields_end = FIXED + header.size()?;
    let start = fields_end.next_multiple_of(8);
    let end = start.checked_add(body).filter(|end| *end <= GREATEST).ok_or(Garbled)?;
    let Some(message) = bytes.get(..end) else { return Ok(None) };
    let fields = fields(&message[..fields_end])?;
    let heard = heard(bytes[1], &fields, Decoder { bytes: message, at: start })?;
    Ok(Some((heard, end)))
}

#[derive(Debug, Default)]
struct Fields<'a> {
    member: &'a str,
    error: &'a str,
    signature: &'a str,
    reply_to: u32,
}

fn fields(header: &[u8]) -> Result<Fields<'_>, Garbled> {
    let mut decoder = Decoder { bytes: header, at: 16 };
    let mut fields = Fields::default();
    while decoder.at < header.len() {
        decoder.align(8);
        let code = decoder.byte()?;
        match (decoder.signature()?, code) {
            ("s", 3) => fields.member = decoder.text()?,
            ("s", 4) => fields.error = decoder.text()?,
            ("u", 5) => fields.reply_to = decoder.u32()?,
            ("g", 8) => fields.signature = decoder.signature()?,
            ("s" | "o", _) => drop(decoder.text()?),
            ("u", _) => drop(decoder.u32()?),
            ("g", _) => drop(decoder.signature()?),
            _ => return Err(Garbled),
        }
    }
    Ok(fields)
}

fn heard(kind: u8, fields: &Fields<'_>, mut body: Decoder<'_>) -> Result<Heard, Garbled> {
    let to = fields.reply_to;
    Ok(match kind {
        RETURN => {
            let job = if fields.signature == "o" { Some(body.text()?.to_owned()) } else { None };
            Heard::Returned { to, job }
        }
        ERROR => {
            let text = if fields.signature.starts_with('s') { body.text()? } else { "" };
            Heard::Refused { to, name: fields.error.to_owned(), text: text.to_owned() }
        }
        SIGNAL if fields.member == "JobRemoved" && fields.signature == "uoss" => {
            body.u32()?;
            let job = body.text()?.to_owned();
            body.text()?;
            Heard::JobRemoved { job, result: body.text()?.to_owned() }
        }
        _ => Heard::Other,
    })
}

#[derive(Debug)]
struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Garbled> {
        let end = self.at.checked_add(length).ok_or(Garbled)?;
        let taken = self.bytes.get(self.at..end).ok_or(Garbled)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Garbled> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Result<u32, Garbled> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| Garbled)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn size(&mut self) -> Result<usize, Garbled> {
        usize::try_from(self.u32()?).map_err(|_| Garbled)
    }

    fn text(&mut self) -> Result<&'a str, Garbled> {
        let length = self.size()?;
        self.terminated(length)
    }

    fn signature(&mut self) -> Result<&'a str, Garbled> {
        let length = self.byte()?;
        self.terminated(length.into())
    }

    fn terminated(&mut self, length: usize) -> Result<&'a str, Garbled> {
        let text = self.take(length)?;
        if self.byte()? != 0 {
            return Err(Garbled);
        }
        str::from_utf8(text).map_err(|_| Garbled)
    }
}

/// The first words on a connection: who we are, by our user id, which the kernel vouches for (D-Bus
/// Specification, "Authentication Protocol"). The answer is a line that begins with `OK`.
pub(crate) fn authentication(uid: u32) -> Vec<u8> {
    let mut words = "\0AUTH EXTERNAL ".to_owned();
    for digit in uid.to_string().bytes() {
        // Writing to a String cannot fail.
        let _ = write!(words, "{digit:02x}");
    }
    words.push_str("\r\nBEGIN\r\n");
    words.into_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn returned(to: u32, job: &str) -> Vec<u8> {
        message(RETURN, &[(8, "g", "o")], Some(to), &texts(None, &[job]))
    }

    pub(crate) fn refused(to: u32, name: &str, text: &str) -> Vec<u8> {
        message(ERROR, &[(4, "s", name), (8, "g", "s")], Some(to), &texts(None, &[text]))
    }

    pub(crate) fn job_removed(job: &str, result: &str) -> Vec<u8> {
        let fields = [
            (1, "o", "/org/freedesktop/systemd1"),
            (2, "s", MANAGER),
            (3, "s", "JobRemoved"),
            (8, "g", "uoss"),
        ];
        message(SIGNAL, &fields, None, &texts(Some(42), &[job, "a.scope", result]))
    }

    /// A header and body as systemd 257 sends them, put together by hand.
    fn message(kind: u8, fields: &[(u8, &str, &str)], reply_to: Option<u32>, body: &[u8]) -> Vec<u8> {
        let mut message = Encoder::default();
        message.bytes.extend([ENDIAN, kind, 1, 1]);
        message.u32(length(body));
        message.u32(77);
        message.array(8, |array| {
            for (code, signature, value) in fields {
                array.field(*code, signature, value);
            }
            if let Some(to) = reply_to {
                array.align(8);
                array.bytes.push(5);
                array.signature("u");
                array.u32(to);
            }
        });
        message.align(8);
        message.bytes.extend(body);
        message.bytes
    }

    fn texts(number: Option<u32>, texts: &[&str]) -> Vec<u8> {
        let mut body = Encoder::default();
        if let Some(number) = number {
            body.u32(number);
        }
        texts.iter().for_each(|text| body.text(text));
        body.bytes
    }

    // Recorded from zbus 5.19, which has nothing in common with this module.
    #[cfg(target_endian = "little")]
    const CALL_BY_ZBUS: &[u8] = b"l\x01\x00\x01\r\x00\x00\x00\x01\x00\x00\x00\x9f\x00\x00\x00\
        \x01\x01o\x00\x19\x00\x00\x00/org/freedesktop/systemd1\x00\x00\x00\x00\x00\x00\x00\
        \x02\x01s\x00 \x00\x00\x00org.freedesktop.systemd1.Manager\x00\x00\x00\x00\x00\x00\x00\x00\
        \x03\x01s\x00\x0f\x00\x00\x00ResetFailedUnit\x00\
        \x06\x01s\x00\x18\x00\x00\x00org.freedesktop.systemd1\x00\x00\x00\x00\x00\x00\x00\x00\
        \x08\x01g\x00\x01s\x00\x00\x08\x00\x00\x00a1.scope\x00";
    #[cfg(target_endian = "little")]
    const PROPERTIES_BY_ZBUS: &[u8] = b"\x8c\x00\x00\x00\x00\x00\x00\x00\
        \x08\x00\x00\x00Delegate\x00\x01b\x00\x01\x00\x00\x00\x00\x00\x00\x00\
        \x04\x00\x00\x00PIDs\x00\x02au\x00\x00\x00\x00\x04\x00\x00\x00\x07\x00\x00\x00\
        \t\x00\x00\x00MemoryMax\x00\x01t\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\
        \x0b\x00\x00\x00AllowedCPUs\x00\x02ay\x00\x02\x00\x00\x00\x05\x01\x00\x00\x00\x00\x00\x00\
        \x05\x00\x00\x00Slice\x00\x01s\x00\x00\x00\x00\x07\x00\x00\x00a.slice\x00";
    #[cfg(target_endian = "little")]
    const ARGUMENTS_BY_ZBUS: &[u8] = b"\x07\x00\x00\x00a.scope\x00\x07\x00\x00\x00replace\x00\
        \x14\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00Delegate\x00\x01b\x00\x01\x00\x00\x00\
        \x00\x00\x00\x00";

    #[test]
    #[cfg(target_endian = "little")]
    fn calls_and_arguments_are_the_bytes_that_another_implementation_makes() {
        assert_eq!(call(1, "ResetFailedUnit", &[Argument::Text("a1.scope")]), CALL_BY_ZBUS);
        let properties = [
            Property { name: "Delegate", value: Value::Bool(true) },
            Property { name: "PIDs", value: Value::U32s(vec![7]) },
            Property { name: "MemoryMax", value: Value::U64(1 << 32) },
            Property { name: "AllowedCPUs", value: Value::Bytes(vec![5, 1]) },
            Property { name: "Slice", value: Value::Text("a.slice".to_owned()) },
        ];
        let mut body = Encoder::default();
        body.argument(&Argument::Properties(&properties));
        assert_eq!(body.bytes, PROPERTIES_BY_ZBUS);
        let mut body = Encoder::default();
        let start = [
            Argument::Text("a.scope"),
            Argument::Text("replace"),
            Argument::Properties(&properties[..1]),
            Argument::NoUnits,
        ];
        start.iter().for_each(|argument| body.argument(argument));
        assert_eq!(body.bytes, ARGUMENTS_BY_ZBUS);
    }

    #[test]
    fn answers_and_the_end_of_a_job_are_understood() {
        let job = "/org/freedesktop/systemd1/job/42";
        let returned = returned(3, job);
        let heard = Heard::Returned { to: 3, job: Some(job.to_owned()) };
        assert_eq!(parse(&returned), Ok(Some((heard, returned.len()))));

        let name = "org.freedesktop.systemd1.UnitExists";
        let text = "Unit a.scope was already loaded or has a fragment file.";
        let refused = refused(3, name, text);
        let heard = Heard::Refused { to: 3, name: name.to_owned(), text: text.to_owned() };
        assert_eq!(parse(&refused), Ok(Some((heard, refused.len()))));

        let removed = job_removed(job, "done");
        let heard = Heard::JobRemoved { job: job.to_owned(), result: "done".to_owned() };
        assert_eq!(parse(&removed), Ok(Some((heard, removed.len()))));
    }

    #[test]
    fn a_part_of_a_message_is_waited_for_and_what_follows_is_left() {
        let whole = message(RETURN, &[], Some(9), &[]);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
        }
        let two = [whole.clone(), whole.clone()].concat();
        assert_eq!(parse(&two), Ok(Some((Heard::Returned { to: 9, job: None }, whole.len()))));
    }

    #[test]
    fn what_is_not_a_message_is_refused_and_never_a_panic() {
        assert_eq!(parse(b"HTTP/1.1 400 Bad"), Err(Garbled));
        let good = returned(3, "/job");
        for at in 0..good.len() {
            for byte in [0, 1, 4, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                let _ = parse(&bad);
            }
        }
        // A length beyond every message.
        let mut endless = good;
        endless[4..8].fill(0x7f);
        assert_eq!(parse(&endless), Err(Garbled));
    }

    #[test]
    fn the_user_id_is_told_as_hexadecimal_digits_of_decimal_ones() {
        assert_eq!(authentication(0), b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n");
        assert_eq!(authentication(1000), b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n");
    }
}

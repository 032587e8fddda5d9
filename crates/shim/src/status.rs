//! The one place where a failed command becomes a status on the wire.

use dunnage_api::{Code, Status};
use dunnage_task::{Error, ErrorKind};

/// The code containerd and CRI decide by, and the sentence people read.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error.kind()), sentence(error))
}

/// A failed command's kind as gRPC's code.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unknown => Code::Unknown,
    }
}

// Errors that carry their cause apart from their text are printed with it.
fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_code_that_containerd_decides_by() {
        let rows = [
            (ErrorKind::AlreadyExists, 6),
            (ErrorKind::NotFound, 5),
            (ErrorKind::FailedPrecondition, 9),
            (ErrorKind::InvalidArgument, 3),
            (ErrorKind::Unimplemented, 12),
            (ErrorKind::ResourceExhausted, 8),
            (ErrorKind::Unavailable, 14),
            (ErrorKind::Unknown, 2),
        ];
        for (kind, number) in rows {
            assert_eq!(code(kind) as i32, number, "{kind:?}");
        }
    }

    #[test]
    fn an_unknown_container_is_not_found_by_name() {
        let status = status(&Error::NotFound("web".parse().unwrap()));
        assert_eq!((status.code, status.message.as_str()), (Code::NotFound, "container web: not found"));
    }
}

//! How a call ended when it did not succeed: gRPC's code and a sentence.

use std::fmt;

use crate::wire::google::rpc;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $constructor:ident $number:literal $name:literal),* $(,)?) => {
        /// gRPC's status codes without OK. The numbers are those of the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum Code { $($(#[$doc])* $variant = $number,)* }

        impl Code {
            /// The code of a number; numbers that no version of gRPC has are [`Code::Unknown`].
            #[must_use]
            pub fn from_wire(number: i32) -> Self {
                match number { $($number => Self::$variant,)* _ => Self::Unknown }
            }

            /// gRPC's name, such as `NOT_FOUND`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl Status {
            $(
                $(#[$doc])*
                pub fn $constructor(message: impl Into<String>) -> Self {
                    Self::new(Code::$variant, message)
                }
            )*
        }
    };
}

/// A failed call, as the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What containerd and CRI decide by.
    pub code: Code,
    /// What a person reads.
    pub message: String,
}

codes! {
    /// The caller gave up.
    Cancelled cancelled 1 "CANCELLED",
    /// Any other failure; its message is what the user sees.
    Unknown unknown 2 "UNKNOWN",
    /// The request makes no sense in any state.
    InvalidArgument invalid_argument 3 "INVALID_ARGUMENT",
    /// The time given with the call is over.
    DeadlineExceeded deadline_exceeded 4 "DEADLINE_EXCEEDED",
    /// No such task or exec, or its process has ended.
    NotFound not_found 5 "NOT_FOUND",
    /// The id is taken.
    AlreadyExists already_exists 6 "ALREADY_EXISTS",
    /// The caller may not do this.
    PermissionDenied permission_denied 7 "PERMISSION_DENIED",
    /// A size or count is beyond its limit.
    ResourceExhausted resource_exhausted 8 "RESOURCE_EXHAUSTED",
    /// The task is in the wrong state.
    FailedPrecondition failed_precondition 9 "FAILED_PRECONDITION",
    /// The operation lost against another one.
    Aborted aborted 10 "ABORTED",
    /// Outside of the valid range.
    OutOfRange out_of_range 11 "OUT_OF_RANGE",
    /// Not offered here.
    Unimplemented unimplemented 12 "UNIMPLEMENTED",
    /// A broken invariant.
    Internal internal 13 "INTERNAL",
    /// Not now; worth another try.
    Unavailable unavailable 14 "UNAVAILABLE",
    /// Unrecoverable loss.
    DataLoss data_loss 15 "DATA_LOSS",
    /// The caller did not say who it is.
    Unauthenticated unauthenticated 16 "UNAUTHENTICATED",
}

impl Status {
    /// A status of any code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// `None` for code 0, which is success.
    pub(crate) fn from_wire(status: rpc::Status) -> Option<Self> {
        (status.code != 0).then(|| Self::new(Code::from_wire(status.code), status.message))
    }

    pub(crate) fn into_wire(self) -> rpc::Status {
        rpc::Status { code: self.code as i32, message: self.message, details: Vec::new() }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.name())
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for number in 1..=16 {
            let status = Status::new(Code::from_wire(number), "why");
            assert_eq!(status.clone().into_wire().code, number);
            assert_eq!(Status::from_wire(status.clone().into_wire()), Some(status));
        }
    }

    #[test]
    fn code_zero_is_success_and_a_code_from_the_future_is_unknown() {
        assert_eq!(Status::from_wire(rpc::Status::default()), None);
        assert_eq!(Code::from_wire(99), Code::Unknown);
    }

    #[test]
    fn a_status_reads_as_its_sentence_and_its_code() {
        assert_eq!(Status::not_found("task \"a\"").to_string(), "task \"a\" (NOT_FOUND)");
    }
}

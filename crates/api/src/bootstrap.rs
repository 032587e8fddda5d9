//! Input and output of `start` since containerd 2.3.

pub use crate::wire::containerd::runtime::bootstrap::v1::{
    BootstrapParams, BootstrapResult, Extension, LogLevel,
};

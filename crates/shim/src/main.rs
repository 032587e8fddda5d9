//! The containerd shim: start, delete, info and the serving process.
#![forbid(unsafe_code)]
fn main() {}

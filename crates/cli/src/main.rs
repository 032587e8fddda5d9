//! dunnage for people: pod run, plan.
#![forbid(unsafe_code)]
fn main() {}

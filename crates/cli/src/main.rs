//! dunnage for people: pod run, plan.
#![forbid(unsafe_code)]

mod kubelet;
mod manifest;
mod quantity;

fn main() {}

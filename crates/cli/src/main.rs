//! dunnage for people: pod run, plan.
#![forbid(unsafe_code)]

mod image;
mod kubelet;
mod manifest;
mod quantity;

fn main() {}

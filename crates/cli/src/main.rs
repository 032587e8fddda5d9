//! dunnage for people: pod run, plan.
#![forbid(unsafe_code)]

mod bundle;
mod image;
mod kubelet;
mod manifest;
mod pause;
mod quantity;

fn main() {}

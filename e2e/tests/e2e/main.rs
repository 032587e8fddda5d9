//! The end-to-end suite: containers as their users see them.
//!
//! `RUNTIME=runc` runs it on the reference shim. A test of what only dunnage does asks [`only_dunnage`] first,
//! which says why it stands aside.
#![forbid(unsafe_code)]

mod ctr;
mod faults;
mod files;
mod limits;
mod load;
mod machine;
mod network;
mod order;
mod place;
mod pod;
mod process;
mod refusals;
mod rig;
mod safety;
mod walls;

#[expect(clippy::print_stdout, reason = "a test that stands aside says so")]
/// Whether to go on with a test of what the reference shim does not do; says `why` when not.
fn only_dunnage(why: &str) -> bool {
    let dunnage = dunnage_e2e::programs::Runtime::under_test().is_dunnage();
    if !dunnage {
        println!("not on the reference shim: {why}");
    }
    dunnage
}

/// The same for what the reference does not do on containerd `since` and later.
fn only_dunnage_since(since: (u32, u32), why: &str) -> anyhow::Result<bool> {
    Ok(!dunnage_e2e::line::Line::under_test()?.is_since(since.0, since.1) || only_dunnage(why))
}

//! Turns our subset of the CRI definition into a client.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/cri");
    let files = protox::compile(["runtime.proto"], ["../proto/cri"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}

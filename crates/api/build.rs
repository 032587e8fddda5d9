//! Compiles `/proto` to Rust, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const PROTO: &str = "../../proto";
/// What this crate speaks. `/proto` also holds messages that only tests need.
const PACKAGES: [&str; 5] = ["containerd", "google", "io", "runtimeoptions", "ttrpc"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for package in PACKAGES {
        let directory = Path::new(PROTO).join(package);
        println!("cargo::rerun-if-changed={}", directory.display());
        collect(&directory, &mut files)?;
    }
    files.sort();
    let descriptors = protox::compile(&files, [PROTO])?;

    // The tests compare the service tables with it.
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    prost_build::Config::new()
        .btree_map(["."])
        .enable_type_names()
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

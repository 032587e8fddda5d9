//! Reads a bundle directory: `config.json`, parsed and checked into a [`Spec`].
//!
//! Owns the file and its errors (which field, which line); the meaning of the parts lives in the sibling
//! modules.

use std::path::PathBuf;

use crate::Spec;

/// A bundle directory and the checked spec in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// Absolute path of the directory.
    pub directory: PathBuf,
    /// What its `config.json` says.
    pub spec: Spec,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// What the RPC layer decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller gave something that can never work.
    InvalidArgument,
    /// A feature dunnage does not have yet.
    Unimplemented,
    /// The file could not be read.
    Io,
}

//! ttrpc: containerd's small RPC over a unix socket, without HTTP/2.
//!
//! ```text
//!  0        4        8    9    10
//!  ├─length─┼─stream─┼kind┼flag┼─ payload: a Request or a Response in protobuf ─▶
//! ```
//!
//! One `Wire` is one connection: a socket, what could not be written yet, and whether the peer
//! left. The server and the client are two small loops around it. Calls of one connection run concurrently and
//! are answered in any order; a stream id ties an answer to its call. Only calls of one request and one answer
//! exist here; a streaming call is refused with UNIMPLEMENTED.
//!
//! Source: containerd/ttrpc, `PROTOCOL.md`, version 1.2.

mod client;
pub mod envelope;
pub mod frame;
mod server;
mod wire;

pub use client::{CallError, Client};
pub use server::{Call, Dispatch, Server};

//! containerd's messages, the ttrpc codec, server and client.
#![forbid(unsafe_code)]

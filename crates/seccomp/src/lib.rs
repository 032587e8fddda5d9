//! OCI seccomp profile to a classic BPF program, pure.
#![forbid(unsafe_code)]

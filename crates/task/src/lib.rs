//! Sandbox, Task and Exec: state machine, mailbox, supervision, stdio, durable records.
#![forbid(unsafe_code)]

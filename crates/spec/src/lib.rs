//! OCI bundle on disk to a checked Spec; ids, annotations, QoS class.
#![forbid(unsafe_code)]

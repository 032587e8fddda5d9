//! A checked Spec lowered to an ordered list of kernel steps.
#![forbid(unsafe_code)]

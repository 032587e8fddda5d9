//! Control groups: v2, v1 and hybrid; limits, statistics, out-of-memory events, freeze, kill.
#![forbid(unsafe_code)]

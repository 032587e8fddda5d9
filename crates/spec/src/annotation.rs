//! The few annotations that have a meaning for a runtime.

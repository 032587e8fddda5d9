//! Both ends of a process's birth: the parent spawns, the child executes the plan.
#![forbid(unsafe_code)]

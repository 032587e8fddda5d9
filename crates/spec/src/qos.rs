//! The pod's quality-of-service class, read from what reaches a runtime (nothing in CRI or OCI names it).

/// Kubernetes' classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QosClass {
    /// Requests equal limits.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

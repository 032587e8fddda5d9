//! What the kubelet computes from a pod before a runtime sees it: class, shares, quota, OOM score.

/// Kubernetes' classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QosClass {
    /// Requests equal limits.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

//! Which build this is.

/// Of the release.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Of the source, when the build knows it.
pub(crate) const REVISION: &str = match option_env!("DUNNAGE_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// For people.
pub(crate) fn text() -> String {
    format!("containerd-shim-dunnage-v1:\n  Version:  {VERSION}\n  Revision: {REVISION}\n")
}

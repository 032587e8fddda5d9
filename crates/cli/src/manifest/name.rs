//! Names of Kubernetes' objects, which become host names, file names and log prefixes.

use super::field::Field;

/// A DNS label (RFC 1123): lower-case letters, digits and `-`, at most 63.
pub(super) fn label(field: &Field<'_>) -> Option<String> {
    let name = field.name()?;
    if !is_label(name) {
        field.fault(format!(
            "`{name}` must be lower-case letters, digits and `-`, start and end with a letter or digit, and have \
             at most 63 characters"
        ));
        return None;
    }
    Some(name.to_owned())
}

/// DNS labels joined by dots.
pub(super) fn subdomain(field: &Field<'_>) -> Option<String> {
    let name = field.name()?;
    if name.len() > 253 || !name.split('.').all(is_label) {
        field.fault(format!("`{name}` must be DNS labels joined by dots, at most 253 characters"));
        return None;
    }
    Some(name.to_owned())
}

fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

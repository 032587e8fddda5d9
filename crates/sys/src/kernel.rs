//! Which kernel this is.

/// Version and patch level, such as 6 and 8; `None` when it does not say.
///
/// Only for behaviour that cannot be asked for: distributions carry features back.
#[must_use]
pub fn release() -> Option<(u32, u32)> {
    parsed(rustix::system::uname().release().to_str().ok()?)
}

fn parsed(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        for (text, expected) in [
            ("6.1.0-50-cloud-amd64", Some((6, 1))),
            ("6.12.107+deb13", Some((6, 12))),
            ("5.10", Some((5, 10))),
            ("6.8-rc1", Some((6, 8))),
            ("six", None),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
        assert!(release().is_some());
    }
}

//! Formulas between OCI's v1 numbers and the files of v2.

use dunnage_spec::resources::Limit;

pub(super) const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// v1 shares to a v2 weight, so that the least, the default and the greatest of both are each other's: 2 → 1,
/// 1024 → 100, 262144 → 10000. The formula of runc 1.3.2, crun 1.23 and youki; the kubelet still computes
/// pod weights with an older, linear one (kubernetes issue 131216).
pub(super) fn weight(shares: u64) -> u64 {
    if shares <= *SHARES.start() {
        return 1;
    }
    if shares >= *SHARES.end() {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "at most 262144, which is exact")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // 1024 gives 100 and a rounding error, which must not become 101.
    let weight = (10f64.powf(exponent) - 1e-9).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let weight = weight as u64;
    weight.clamp(1, 10_000)
}

/// OCI block I/O weight, 10 to 1000, to `io.weight`, 1 to 10000.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

/// A limit as v2 writes it.
pub(super) fn max(limit: Limit) -> String {
    match limit {
        Limit::Unlimited => "max".to_owned(),
        Limit::To(value) => value.to_string(),
    }
}

/// A limit as v1 writes it.
pub(super) fn minus_one(limit: Limit) -> String {
    match limit {
        Limit::Unlimited => "-1".to_owned(),
        Limit::To(value) => value.to_string(),
    }
}

/// A memory limit as either version prints it. v1 prints "no limit" as the largest number of whole pages.
pub(crate) fn parse_bytes(text: &str) -> Option<Limit> {
    if matches!(text, "max" | "-1") {
        return Some(Limit::Unlimited);
    }
    let bytes: u64 = text.parse().ok()?;
    Some(if bytes > 1 << 62 { Limit::Unlimited } else { Limit::To(bytes) })
}

/// Whether the memory limit that the kernel prints is what it makes of `value`: it counts whole pages.
pub(super) fn same_bytes(text: &str, value: &str) -> bool {
    // Larger pages only cost a write that changes nothing.
    const PAGE: u64 = 4096;
    match (parse_bytes(text), parse_bytes(value)) {
        (Some(Limit::Unlimited), Some(Limit::Unlimited)) => true,
        (Some(Limit::To(printed)), Some(Limit::To(wanted))) => {
            printed == wanted || (wanted > PAGE && printed == wanted / PAGE * PAGE)
        }
        _ => false,
    }
}

/// A list of CPUs or memory nodes, `0-3,7`, as its numbers; `None` when it is not one.
pub(crate) fn parse_list(list: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last < first || last - first > 1 << 16 {
            return None;
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_become_the_weights_of_the_published_table() {
        let table = [
            (0, 1),
            (2, 1),
            (3, 2),
            (10, 4),
            (51, 11),
            (102, 17),
            (204, 29),
            (256, 35),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (4096, 303),
            (8192, 532),
            (16384, 942),
            (22000, 1204),
            (65536, 3023),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ];
        for (shares, expected) in table {
            assert_eq!(weight(shares), expected, "{shares} shares");
        }
    }

    #[test]
    fn block_weights_fill_the_whole_range() {
        assert_eq!([io_weight(10), io_weight(500), io_weight(1000)], [1, 4950, 10_000]);
    }

    #[test]
    fn unlimited_memory_is_recognised_in_every_spelling() {
        for text in ["max", "-1", "9223372036854771712", "18446744073709551615"] {
            assert_eq!(parse_bytes(text), Some(Limit::Unlimited), "{text}");
        }
        assert!(same_bytes("9223372036854771712", "-1"));
        assert!(same_bytes("8192", "8200"));
        assert!(!same_bytes("100", "101"));
    }

    #[test]
    fn a_cpu_list_is_a_set() {
        assert_eq!(parse_list("0-2,7\n"), Some(vec![0, 1, 2, 7]));
        assert_eq!(parse_list("2,0-1"), parse_list("0-2"));
        assert_eq!(parse_list("3-1"), None);
        assert_eq!(parse_list("x"), None);
    }

    proptest! {
        #[test]
        fn more_shares_never_weigh_less(a in 0u64..300_000, b in 0u64..300_000) {
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(weight(less) <= weight(more));
            prop_assert!((1..=10_000).contains(&weight(a)));
        }
    }
}

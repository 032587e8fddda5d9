//! The few shapes of text that cgroup files have.

use super::{BlockIoEntry, Pressure, Rdma, Stall};

/// One number; `max` is the largest.
pub(super) fn number(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// `key value` lines.
pub(super) fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`
pub(super) fn pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("some", fields)) => pressure.some = Some(stall(fields)),
            Some(("full", fields)) => pressure.full = Some(stall(fields)),
            _ => {}
        }
    }
    pressure
}

fn stall(fields: &str) -> Stall {
    let mut stall = Stall::default();
    for (key, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
        match key {
            "avg10" => stall.avg10 = value.parse().unwrap_or_default(),
            "avg60" => stall.avg60 = value.parse().unwrap_or_default(),
            "avg300" => stall.avg300 = value.parse().unwrap_or_default(),
            "total" => stall.total_us = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    stall
}

/// `8:0`
pub(super) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 Read 12` or `8:0 12`; the `Total` of all devices has no device and is left out.
pub(super) fn block_io(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = device(fields.next()?)?;
        let (op, value) = match (fields.next()?, fields.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(BlockIoEntry { major, minor, op: op.to_owned(), value: value.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

/// `mlx4_0 hca_handle=2 hca_object=max`
pub(super) fn rdma(text: &str) -> Vec<Rdma> {
    let count = |value: &str| if value == "max" { u32::MAX } else { value.parse().unwrap_or_default() };
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let mut rdma = Rdma { device: fields.next()?.to_owned(), ..Rdma::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "hca_handle" => rdma.hca_handles = count(value),
                "hca_object" => rdma.hca_objects = count(value),
                _ => {}
            }
        }
        Some(rdma)
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pressure_has_two_lines_and_missing_ones_stay_missing() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\n";
        let pressure = pressure(text);
        let some = Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 1234 };
        assert_eq!((pressure.some, pressure.full), (Some(some), None));
    }

    #[test]
    fn block_io_lists_have_operations_or_not_and_a_total_without_a_device() {
        let entries = block_io("8:0 Read 4096\n8:16 7\nTotal 4096\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].op.as_str(), entries[0].value), ("Read", 4096));
        assert_eq!((entries[1].minor, entries[1].value), (16, 7));
    }

    #[test]
    fn rdma_limits_can_be_max() {
        let entries = rdma("mlx4_0 hca_handle=2 hca_object=max\n");
        let expected = Rdma { device: "mlx4_0".to_owned(), hca_handles: 2, hca_objects: u32::MAX };
        assert_eq!(entries, [expected]);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,200}") {
            let _ = (number(&text), keyed(&text).count(), pressure(&text), block_io(&text), rdma(&text));
        }
    }
}

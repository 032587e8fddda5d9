//! Kubernetes quantities, exact: `500m`, `64Mi`, `1.5`, `2e3`.
//!
//! Owns the notation and its arithmetic; what a quantity means (a share of a CPU, bytes) is the caller's.
//! A value is kept in billionths as an integer, so nothing is ever rounded but what Kubernetes itself rounds
//! (digits below a billionth go up; `apimachinery/pkg/api/resource`).

use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;

/// The largest magnitude Kubernetes keeps: 2^63 - 1 units.
const MAX_UNITS: i128 = i64::MAX as i128;

/// Digits after the point that the arithmetic can hold beside the largest suffix.
const MAX_PLACES: usize = 18;

/// An exact amount, counted in billionths of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Quantity {
    nanos: i128,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    /// There is no number at the start.
    #[error("`{0}` is no quantity: it must start with a number, as in 500m, 1.5 or 64Mi")]
    NoNumber(String),
    /// What follows the number is no suffix Kubernetes knows.
    #[error(
        "`{text}` is no quantity: `{suffix}` is none of n u m k M G T P E Ki Mi Gi Ti Pi Ei or an exponent"
    )]
    Suffix {
        /// The whole text.
        text: String,
        /// What stands after the number.
        suffix: String,
    },
    /// More digits after the point than anyone means.
    #[error("`{0}` has more than 18 digits after the point")]
    TooFine(String),
    /// Beyond 2^63 - 1.
    #[error("`{0}` is too large a quantity: the limit is 2^63 - 1")]
    TooLarge(String),
}

impl Quantity {
    /// Whole units.
    #[cfg(test)]
    pub(crate) fn units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO }
    }

    /// Whether it is more than nothing, which is all that counts for the class of a pod.
    pub(crate) fn is_positive(self) -> bool {
        self.nanos > 0
    }

    /// Whether it is less than nothing.
    pub(crate) fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Thousandths of the unit, a started one counted whole (`MilliValue` of Kubernetes).
    pub(crate) fn millis(self) -> i64 {
        narrow(div_up(self.nanos, NANO / 1000))
    }

    /// Units, a started one counted whole (`Value` of Kubernetes).
    pub(crate) fn whole(self) -> i64 {
        narrow(div_up(self.nanos, NANO))
    }

    /// Whether it is a whole number of units.
    pub(crate) fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    /// Sums stay in range: a value takes at most 93 of the 127 bits.
    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos + other.nanos }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), |sum, amount| sum + amount)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(QuantityError::NoNumber(text.to_owned()));
        }
        if fraction.len() > MAX_PLACES {
            return Err(QuantityError::TooFine(text.to_owned()));
        }
        let scale = Scale::of(suffix)
            .ok_or_else(|| QuantityError::Suffix { text: text.to_owned(), suffix: suffix.to_owned() })?;
        let nanos = scale.nanos(whole, fraction).ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
        Ok(Self { nanos: if negative { -nanos } else { nanos } })
    }
}

impl fmt::Display for Quantity {
    /// Plain decimal, the shortest that is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { "-" } else { "" };
        let (whole, fraction) = (self.nanos.abs() / NANO, self.nanos.abs() % NANO);
        let digits = format!("{fraction:09}");
        match digits.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            digits => write!(f, "{sign}{whole}.{digits}"),
        }
    }
}

/// What a suffix multiplies by.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// A power of ten.
    Decimal(i32),
    /// A power of two.
    Binary(u32),
}

impl Scale {
    fn of(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            _ => Self::Decimal(exponent(suffix)?),
        })
    }

    /// `whole.fraction` times the scale in billionths, rounded up; `None` when beyond the limit.
    fn nanos(self, whole: &str, fraction: &str) -> Option<i128> {
        let places = u32::try_from(fraction.len()).ok()?;
        let nanos = match self {
            Self::Decimal(power) => {
                let mantissa = number(&format!("{whole}{fraction}"))?;
                times_ten_to(mantissa, i64::from(power) + 9 - i64::from(places))?
            }
            Self::Binary(bits) => {
                // Apart, because a whole number of 63 bits and a fraction of 60 do not fit one integer once
                // both are shifted by 60.
                let whole = number(whole)?.checked_mul(1 << bits)?.checked_mul(NANO)?;
                let fraction = number(fraction)?.checked_mul(1 << bits)?;
                whole.checked_add(times_ten_to(fraction, 9 - i64::from(places))?)?
            }
        };
        (nanos <= MAX_UNITS * NANO).then_some(nanos)
    }
}

/// `e3`, `E-3`, `e+3`.
fn exponent(suffix: &str) -> Option<i32> {
    let power = suffix.strip_prefix(['e', 'E'])?;
    let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    numeric.then(|| power.parse().ok())?
}

/// Digits as a number; no digits are zero.
fn number(digits: &str) -> Option<i128> {
    match digits.trim_start_matches('0') {
        "" => Some(0),
        digits => digits.parse().ok(),
    }
}

/// `number` times ten to the `power`, rounded up.
fn times_ten_to(number: i128, power: i64) -> Option<i128> {
    if number == 0 {
        return Some(0);
    }
    let factor = 10_i128.checked_pow(u32::try_from(power.unsigned_abs()).ok()?);
    match factor {
        Some(factor) if power >= 0 => number.checked_mul(factor),
        Some(factor) => Some(div_up(number, factor)),
        // Less than a billionth of a billionth still rounds up to one.
        None => (power < 0).then_some(1),
    }
}

fn div_up(number: i128, by: i128) -> i128 {
    number.div_euclid(by) + i128::from(number.rem_euclid(by) != 0)
}

fn narrow(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nanos(text: &str) -> i128 {
        text.parse::<Quantity>().unwrap().nanos
    }

    #[test]
    fn every_suffix_means_what_kubernetes_says() {
        let rows: &[(&str, i128)] = &[
            ("0", 0),
            ("1", NANO),
            ("1n", 1),
            ("1u", 1_000),
            ("1m", 1_000_000),
            ("1k", 1_000 * NANO),
            ("1M", 1_000_000 * NANO),
            ("1G", 10_i128.pow(9) * NANO),
            ("1T", 10_i128.pow(12) * NANO),
            ("1P", 10_i128.pow(15) * NANO),
            ("1E", 10_i128.pow(18) * NANO),
            ("1Ki", (1 << 10) * NANO),
            ("1Mi", (1 << 20) * NANO),
            ("1Gi", (1 << 30) * NANO),
            ("1Ti", (1 << 40) * NANO),
            ("1Pi", (1 << 50) * NANO),
            ("7Ei", (7 << 60) * NANO),
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("15e-1", 1_500_000_000),
            ("1e+2", 100 * NANO),
            ("0.5", 500_000_000),
            (".5", 500_000_000),
            ("5.", 5 * NANO),
            ("+1", NANO),
            ("-2m", -2_000_000),
            ("1.5Gi", 3 * (1 << 29) * NANO),
            ("0.000000000000000001Ei", 1_152_921_505),
        ];
        for (text, want) in rows {
            assert_eq!(nanos(text), *want, "{text}");
        }
    }

    #[test]
    fn what_lies_below_a_billionth_is_rounded_up() {
        assert_eq!(nanos("0.5n"), 1);
        assert_eq!(nanos("1e-12"), 1);
        assert_eq!(nanos("1e-99"), 1);
        assert_eq!(nanos("0.0000000011"), 2);
    }

    #[test]
    fn a_started_unit_counts_whole() {
        let quantity: Quantity = "1500u".parse().unwrap();
        assert_eq!(quantity.millis(), 2);
        assert_eq!(quantity.whole(), 1);
        assert!(!quantity.is_whole());
        assert_eq!("64Mi".parse::<Quantity>().unwrap().whole(), 64 << 20);
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_the_reason() {
        for text in ["", "m", "1.2.3", "1 Gi", "1gi", "1mi", "0x10", "1e", "1e+", "--1", "Gi", "1K", "."] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?} passed");
        }
        let large = |text: &str| matches!(text.parse::<Quantity>(), Err(QuantityError::TooLarge(_)));
        assert!(large("8Ei") && large("1e19") && large("9223372036854775808") && large("1e999999999"));
        assert_eq!(nanos("9223372036854775807"), MAX_UNITS * NANO);
        let fine = "0.0000000000000000001".parse::<Quantity>();
        assert!(matches!(fine, Err(QuantityError::TooFine(_))));
    }

    proptest! {
        #[test]
        fn printing_and_reading_gives_the_same_amount(nanos in -MAX_UNITS * NANO..=MAX_UNITS * NANO) {
            let quantity = Quantity { nanos };
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }

        #[test]
        fn a_binary_suffix_is_that_many_whole_units(count in 0_i64..1 << 23, suffix in 0_usize..5) {
            let name = ["Ki", "Mi", "Gi", "Ti", "Pi"][suffix];
            let bits = 10 * (u32::try_from(suffix).unwrap() + 1);
            let Some(units) = count.checked_mul(1 << bits) else { return Ok(()) };
            prop_assert_eq!(format!("{count}{name}").parse::<Quantity>().unwrap(), Quantity::units(units));
        }

        #[test]
        fn a_decimal_suffix_is_its_exponent(count in 0_u32.., places in 0_usize..9) {
            let (suffix, power) =
                [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("", 0), ("m", -3)][places];
            let plain = format!("{count}{suffix}").parse::<Quantity>().unwrap();
            let scientific = format!("{count}e{power}").parse::<Quantity>().unwrap();
            prop_assert_eq!(plain, scientific);
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,40}") {
            let _answered = text.parse::<Quantity>();
        }
    }
}

//! Numbers for people.

use chrono::{DateTime, SecondsFormat};

/// With thousands apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In powers of 1000: `12.3 MB`.
pub fn bytes(number: u64) -> String {
    const UNITS: &[&str] = &["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    // What rounds to 1000.0 is 1.0 of the next.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `0.034 s`, `4.21 s`, `83 s`.
pub fn seconds(number: f64) -> String {
    match number {
        n if n < 0.9995 => format!("{n:.3} s"),
        n if n < 59.995 => format!("{n:.2} s"),
        n => format!("{n:.0} s"),
    }
}

/// Microseconds since the epoch as ISO 8601 in UTC, to the millisecond.
pub fn instant(micros: i64) -> String {
    match DateTime::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => format!("{micros} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let of = |n| count(n);
        assert_eq!(
            (of(0), of(999), of(1000), of(1_234_567)),
            ("0".into(), "999".into(), "1,000".into(), "1,234,567".into())
        );
    }

    #[test]
    fn a_size_is_never_a_thousand_of_a_unit() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_949), "999.9 kB");
        assert_eq!(bytes(999_950), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn seconds_have_three_digits_where_they_matter() {
        assert_eq!(
            (seconds(0.0341), seconds(4.206), seconds(83.4)),
            ("0.034 s".into(), "4.21 s".into(), "83 s".into())
        );
    }

    #[test]
    fn an_instant_is_in_utc() {
        assert_eq!(instant(1_500), "1970-01-01T00:00:00.001Z");
    }
}

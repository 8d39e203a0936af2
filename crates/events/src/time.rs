//! Points in time as payloads write them.

use arrow::array::timezone::Tz;
use chrono::{NaiveDate, NaiveDateTime, TimeZone};

use super::field::TimeFormat;

/// What a number counts of a time, by the schema that it is written by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Thousandths of a second.
    Milliseconds,
    /// Millionths.
    Microseconds,
    /// Billionths.
    Nanoseconds,
}

impl Unit {
    /// So many of it, in microseconds.
    pub fn micros(self, count: i64) -> Option<i64> {
        match self {
            Self::Milliseconds => count.checked_mul(1_000),
            Self::Microseconds => Some(count),
            Self::Nanoseconds => Some(count.div_euclid(1_000)),
        }
    }
}

/// Reads points in time of one format.
#[derive(Debug, Clone)]
pub struct TimeReader {
    format: TimeFormat,
    zone: Option<Tz>,
}

/// Seconds of a number before it is no time any more: some 36,000 years.
const LIMIT: f64 = 1.1e12;

impl TimeReader {
    /// Times without a zone are in `zone`.
    pub fn new(format: &TimeFormat, zone: &str) -> Self {
        Self { format: format.clone(), zone: if zone == "UTC" { None } else { zone.parse().ok() } }
    }

    /// Microseconds UTC of a text.
    pub fn text(&self, text: &str) -> Option<i64> {
        match &self.format {
            TimeFormat::Iso => self.iso(text),
            TimeFormat::Pattern(pattern) => {
                if let Ok(time) = chrono::DateTime::parse_from_str(text, pattern) {
                    return Some(time.timestamp_micros());
                }
                let local = NaiveDateTime::parse_from_str(text, pattern).ok();
                let local = local.or_else(|| NaiveDate::parse_from_str(text, pattern).ok()?.and_hms_opt(0, 0, 0));
                self.local(local?)
            }
            TimeFormat::Seconds | TimeFormat::Milliseconds | TimeFormat::Microseconds => {
                text.parse::<i64>().ok().and_then(|number| self.whole(number))
            }
        }
    }

    /// Microseconds UTC of a whole number.
    pub fn whole(&self, number: i64) -> Option<i64> {
        match self.format {
            TimeFormat::Seconds => number.checked_mul(1_000_000),
            TimeFormat::Milliseconds => number.checked_mul(1_000),
            TimeFormat::Microseconds => Some(number),
            TimeFormat::Iso | TimeFormat::Pattern(_) => None,
        }
    }

    /// Whether a format was declared by which numbers of this unit, or days
    /// without one, cannot be read. ISO 8601 is meant where none is declared, and
    /// contradicts nothing.
    pub fn contradicts(&self, unit: Option<Unit>) -> bool {
        !matches!(self.format, TimeFormat::Iso) && !unit.is_some_and(|unit| self.counts(unit))
    }

    /// Whether numbers of this unit are what was declared.
    pub fn counts(&self, unit: Unit) -> bool {
        match self.format {
            TimeFormat::Milliseconds => unit == Unit::Milliseconds,
            TimeFormat::Microseconds => unit == Unit::Microseconds,
            TimeFormat::Seconds | TimeFormat::Iso | TimeFormat::Pattern(_) => false,
        }
    }

    /// Microseconds UTC of a number with a fraction.
    pub fn fraction(&self, number: f64) -> Option<i64> {
        let factor = match self.format {
            TimeFormat::Seconds => 1e6,
            TimeFormat::Milliseconds => 1e3,
            TimeFormat::Microseconds => 1.0,
            TimeFormat::Iso | TimeFormat::Pattern(_) => return None,
        };
        let micros = number * factor;
        (micros.abs() < LIMIT * 1e6).then(|| micros.round() as i64)
    }

    /// `2026-01-31`, then `T` or a blank and `10:00`, `:00`, `.123456`, `Z` or
    /// `+07:00`.
    fn iso(&self, text: &str) -> Option<i64> {
        let bytes = text.as_bytes();
        let number = |from: usize, length: usize| -> Option<u32> {
            let digits = bytes.get(from..from + length)?;
            digits.iter().try_fold(0u32, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u32::from(digit - b'0')))
        };
        let is = |at: usize, wanted: u8| bytes.get(at) == Some(&wanted);
        if !is(4, b'-') || !is(7, b'-') {
            return None;
        }
        let date = NaiveDate::from_ymd_opt(number(0, 4)? as i32, number(5, 2)?, number(8, 2)?)?;
        if bytes.len() == 10 {
            return self.local(date.and_hms_opt(0, 0, 0)?);
        }
        if !(is(10, b'T') || is(10, b' ') || is(10, b't')) || !is(13, b':') {
            return None;
        }
        let (hour, minute) = (number(11, 2)?, number(14, 2)?);
        let mut at = 16;
        let mut second = 0;
        let mut micros = 0;
        if is(at, b':') {
            second = number(17, 2)?;
            at = 19;
            if is(at, b'.') {
                at += 1;
                let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                if digits == 0 {
                    return None;
                }
                micros = number(at, digits.min(6))? * 10u32.pow(6 - digits.min(6) as u32);
                at += digits;
            }
        }
        let local = date.and_hms_micro_opt(hour, minute, second, micros)?;
        let utc = local.and_utc().timestamp_micros();
        match bytes.get(at) {
            None => self.local(local),
            Some(b'Z' | b'z') if at + 1 == bytes.len() => Some(utc),
            Some(sign @ (b'+' | b'-')) => {
                let colon = usize::from(is(at + 3, b':'));
                let hours = number(at + 1, 2)?;
                let minutes = if bytes.len() == at + 3 { 0 } else { number(at + 3 + colon, 2)? };
                let end = if bytes.len() == at + 3 { at + 3 } else { at + 5 + colon };
                if bytes.len() != end || hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = i64::from(hours * 60 + minutes) * 60_000_000;
                Some(if *sign == b'+' { utc - offset } else { utc + offset })
            }
            Some(_) => None,
        }
    }

    /// A local time of the zone: of two the earlier one, of none the time
    /// would not exist.
    pub fn local(&self, local: NaiveDateTime) -> Option<i64> {
        match &self.zone {
            None => Some(local.and_utc().timestamp_micros()),
            Some(zone) => zone.from_local_datetime(&local).earliest().map(|time| time.timestamp_micros()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_times_are_read_as_chrono_reads_them() {
        let reader = TimeReader::new(&TimeFormat::Iso, "UTC");
        for text in [
            "2026-01-31T10:00:00Z",
            "2026-01-31T10:00:00.5+07:00",
            "1969-12-31T23:59:59.999999-01:30",
            "2024-02-29t00:00:00.123456789z",
        ] {
            let wanted = chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
            assert_eq!(reader.text(text), Some(wanted), "{text}");
        }
        let day = 1_769_817_600_000_000;
        for (text, micros) in [
            ("2026-01-31", day),
            ("2026-01-31 10:00", day + 36_000_000_000),
            ("2026-01-31 10:00:01", day + 36_001_000_000),
            ("2026-01-31T10:00:00+0700", day + 10_800_000_000),
            ("2026-01-31T10:00:00+07", day + 10_800_000_000),
        ] {
            assert_eq!(reader.text(text), Some(micros), "{text}");
        }
        for wrong in [
            "",
            "2026",
            "2026-02-30",
            "2026-01-31T",
            "2026-01-31T25:00:00",
            "2026-01-31T10:00:00.",
            "2026-01-31T10:00:00+7",
            "31/01/2026",
        ] {
            assert_eq!(reader.text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_in_the_declared_one() {
        let reader = TimeReader::new(&TimeFormat::Iso, "Asia/Jakarta");
        assert_eq!(reader.text("1970-01-01T07:00:00"), Some(0));
        assert_eq!(reader.text("1970-01-01T00:00:00Z"), Some(0));
        let reader = TimeReader::new(&TimeFormat::Pattern("%d/%m/%Y %H:%M".into()), "+01:00");
        assert_eq!(reader.text("01/01/1970 01:00"), Some(0));
    }

    #[test]
    fn numbers_count_in_their_unit() {
        let of = |format| TimeReader::new(&format, "UTC");
        assert_eq!(of(TimeFormat::Seconds).whole(2), Some(2_000_000));
        assert_eq!(of(TimeFormat::Seconds).fraction(1.5), Some(1_500_000));
        assert_eq!(of(TimeFormat::Milliseconds).whole(2), Some(2_000));
        assert_eq!(of(TimeFormat::Milliseconds).whole(i64::MAX), None);
        assert_eq!(of(TimeFormat::Iso).whole(2), None);
    }
}

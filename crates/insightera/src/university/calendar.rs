//! Dates as plain numbers: the university's calendar is fixed, no clock is read.

/// 2026-09-01, as days since 1970-01-01.
const DAY_ONE: i64 = 20_697;

/// Microseconds in a second, an hour and a day.
pub(super) const SECOND: i64 = 1_000_000;
pub(super) const HOUR: i64 = 3_600 * SECOND;
pub(super) const DAY: i64 = 24 * HOUR;

/// The cut-off of the first day, 2026-09-01T02:00:00Z: no feature is younger.
pub(super) const CUTOFF: i64 = DAY_ONE * DAY + 2 * HOUR;

/// Months are counted from January 2021; the last closed month is August 2026.
pub(super) const FIRST_YEAR: i64 = 2021;
pub(super) const LAST_MONTH: i64 = (2026 - FIRST_YEAR) * 12 + 7;

/// The calendar year of a counted month.
pub(super) fn year_of(month: i64) -> i64 {
    FIRST_YEAR + month.div_euclid(12)
}

/// 1 to 12.
pub(super) fn month_of_year(month: i64) -> i64 {
    month.rem_euclid(12) + 1
}

/// Midnight (UTC, microseconds) after the last day of a counted month.
pub(super) fn end_of_month(month: i64) -> i64 {
    days_from_civil(year_of(month + 1), month_of_year(month + 1), 1) * DAY
}

/// Midnight (UTC, microseconds) of a date.
pub(super) fn midnight(year: i64, month: i64, day: i64) -> i64 {
    days_from_civil(year, month, day) * DAY
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, by counting
/// years from March so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_knows_leap_years_and_day_one() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 3, 1), 11_017);
        assert_eq!(days_from_civil(2024, 2, 29) + 1, days_from_civil(2024, 3, 1));
        assert_eq!(days_from_civil(2026, 9, 1), DAY_ONE);
        assert_eq!(end_of_month(LAST_MONTH), DAY_ONE * DAY);
        assert_eq!((year_of(LAST_MONTH), month_of_year(LAST_MONTH)), (2026, 8));
    }
}

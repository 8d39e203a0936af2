//! Time zone names.

use std::str::FromStr;

use arrow::array::timezone::Tz;

/// Whether `name` is an IANA zone (`Asia/Jakarta`) or a fixed offset (`+07:00`).
pub(super) fn is_time_zone(name: &str) -> bool {
    Tz::from_str(name).is_ok()
}

/// What to write instead.
pub(super) const TIME_ZONE_HINT: &str = "use a name as `UTC` or `Asia/Jakarta`, or an offset as `+07:00`";

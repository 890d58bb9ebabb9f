//! Times as people read them.

const DAY_MS: i64 = 86_400_000;

/// Days since 1970-01-01 as a date of the Gregorian calendar (year, month,
/// day), counted in eras of 400 years that begin in March, so that leap days
/// come last.
#[must_use]
pub fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2026-01-31 12:00 UTC` from milliseconds since 1970-01-01 UTC.
#[must_use]
pub fn utc(time_ms: i64) -> String {
    let (year, month, day) = civil(time_ms.div_euclid(DAY_MS));
    let minutes = time_ms.rem_euclid(DAY_MS) / 60_000;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_the_calendar_has_them() {
        let cases = [
            (0, "1970-01-01 00:00 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
            (951_782_399_999, "2000-02-28 23:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00 UTC"),
            (1_795_688_700_000, "2026-11-26 10:25 UTC"),
        ];
        for (time_ms, expected) in cases {
            assert_eq!(utc(time_ms), expected);
        }
    }
}

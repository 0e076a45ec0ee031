//! Times and spans as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since 1970, now.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-10-01T12:00:00.250Z`.
pub(crate) fn rfc3339(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| format!("{ms} ms"), |stamp| format!("{stamp:.3}"))
}

/// Reads `500ms`, `30s`, `5m`, `1h30m`, `7d`, `2w`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const FORMS: &str = "write it like 500ms, 30s, 10m, 1h30m or 7d";
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Ok(total);
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()));
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(FORMS.into()),
        };
        let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
        let part = ms.map(Duration::from_millis).ok_or(FORMS)?;
        total = total.checked_add(part).ok_or(FORMS)?;
        rest = after.trim_start();
    }
    if total.is_zero() { Err(FORMS.into()) } else { Ok(total) }
}

/// A span in milliseconds, as the protocol's policies count.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// `7d`, `1h30m`, `250ms`: what [`duration`] reads.
pub(crate) fn span(ms: u64) -> String {
    let mut rest = ms;
    let mut out = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= unit_ms {
            out.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if out.is_empty() { "0".into() } else { out }
}

/// Where `sub --from` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Resume,
    Earliest,
    Latest,
    Offset(u64),
    /// Milliseconds since 1970.
    Time(u64),
}

/// Reads `resume`, `earliest`, `latest`, an offset, an RFC 3339 time, `-10m` or `10m ago`.
pub(crate) fn start(text: &str) -> Result<Start, String> {
    start_at(text, now_ms())
}

fn start_at(text: &str, now_ms: u64) -> Result<Start, String> {
    let text = text.trim();
    match text {
        "resume" => return Ok(Start::Resume),
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(Start::Offset(offset));
    }
    if let Some(back) = text.strip_prefix('-').or_else(|| text.strip_suffix("ago")) {
        return Ok(Start::Time(now_ms.saturating_sub(millis(duration(back)?))));
    }
    match text.parse::<Timestamp>() {
        Ok(stamp) => Ok(Start::Time(u64::try_from(stamp.as_millisecond()).unwrap_or(0))),
        Err(_) => {
            Err("write resume, earliest, latest, an offset (17), a time (2026-10-01T12:00:00Z) or -10m"
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("10min", 600_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(duration(&span(ms)), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5x",
            "1.5h",
            "0s",
            "99999999999999999999s",
            "18446744073709551615w",
            "5s,",
            "µs",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn beginnings_are_read() {
        let now = 1_800_000_000_000;
        for (text, start) in [
            ("resume", Start::Resume),
            ("earliest", Start::Earliest),
            ("latest", Start::Latest),
            ("17", Start::Offset(17)),
            ("-10m", Start::Time(now - 600_000)),
            ("10m ago", Start::Time(now - 600_000)),
            ("2026-10-01T12:00:00Z", Start::Time(1_790_856_000_000)),
            ("2026-10-01T14:00:00+02:00", Start::Time(1_790_856_000_000)),
        ] {
            assert_eq!(start_at(text, now), Ok(start), "{text}");
        }
        for text in ["", "now", "-", "-17", "ago", "2026-10-01", "17x"] {
            assert!(start_at(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_written_for_people_and_programs() {
        assert_eq!(rfc3339(1_790_856_000_250), "2026-10-01T12:00:00.250Z");
        assert_eq!(rfc3339(u64::MAX), format!("{} ms", u64::MAX));
    }
}

//! The rules for text, in one place.
//!
//! - stdout carries data only: keys, links, messages. Everything else goes to stderr.
//! - A line on stderr begins with `sealcast: ` (what happened), `error: ` (why it failed) or `hint: ` (what to do).
//! - Lines are lower case without a full stop, one thought each. The hint holds no news, the error no advice.
//! - What a peer or a file said is shown without its control characters: no terminal escapes from afar.

use std::fmt;
use std::io::Write as _;

/// Writes one line to stderr: `sealcast: …`.
macro_rules! say {
    ($($part:tt)*) => { $crate::cli::say::line("sealcast", format_args!($($part)*)) };
}
pub(crate) use say;

/// Writes one line to stderr: `hint: …`.
macro_rules! hint {
    ($($part:tt)*) => { $crate::cli::say::line("hint", format_args!($($part)*)) };
}
pub(crate) use hint;

/// One line on stderr. A stderr that is gone ends no command.
pub(crate) fn line(kind: &str, text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{kind}: {}", clean(&text.to_string()));
}

/// The text on one line, without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `1 message`, `3 messages`.
pub(crate) fn count(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `1,048,576`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `980 B`, `1.5 KiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut tenths = u128::from(n) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_048_576), "1,048,576");
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(100_000, "message"), "100,000 messages");
    }

    #[test]
    fn a_peer_cannot_write_escapes_to_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\nc\n"), "a [31mb c");
    }

    #[test]
    fn sizes_are_written_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1_146_896, "1.1 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(n), text, "{n}");
        }
    }
}

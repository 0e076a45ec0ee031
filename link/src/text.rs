//! The reason a peer gave for closing, on its way to a person's terminal or a log. (`proto` does the same for the texts
//! inside frames.)

/// Characters kept of a peer's text: one line of a terminal.
const MAX_CHARS: usize = 200;

/// What a peer wrote, made safe to print: one line, no control characters (a terminal would obey them) and no
/// characters that turn the direction of the text around.
pub fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(MAX_CHARS).map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        assert_eq!(readable(b"full\x1b[2Jdisk\r\n"), "full\u{fffd}[2Jdisk\u{fffd}\u{fffd}");
        assert_eq!(readable("a\u{202e}b\u{9b}c".as_bytes()), "a\u{fffd}b\u{fffd}c");
        assert_eq!(readable(b"\xff"), "\u{fffd}");
        assert_eq!(readable("größer als ✓".as_bytes()), "größer als ✓");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(readable(&[b'a'; 5000]).len(), MAX_CHARS);
    }
}

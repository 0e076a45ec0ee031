//! What the demo shows, with a little colour on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

/// Writes the demo's lines to stdout: they are its data.
#[derive(Debug)]
pub(crate) struct Show {
    colour: bool,
}

impl Show {
    /// Colour only where a person looks at it and has not asked for none (no-color.org).
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { colour: wanted && able && io::stdout().is_terminal() }
    }

    /// A part of the story begins.
    pub(crate) fn heading(&self, text: &str) {
        self.write(&format!("\n{}", self.styled("1", text)));
    }

    /// A fact: a word in front, then what is so.
    pub(crate) fn fact(&self, word: &str, text: &str) {
        self.write(&format!("   {} {text}", self.styled("2", &format!("{word:<10}"))));
    }

    /// Something that was checked.
    pub(crate) fn verdict(&self, good: bool, word: &str, text: &str) {
        let mark = if good { self.styled("32", "✓") } else { self.styled("1;31", "✗ DIFFERS") };
        self.write(&format!(" {mark} {word:<10} {text}"));
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn write(&self, line: &str) {
        // A stdout that is gone stops no demo: its exit code is still wanted.
        let _ = writeln!(io::stdout().lock(), "{line}");
    }
}

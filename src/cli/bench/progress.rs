//! How far a run is: on a terminal only, on stderr, gone when the result is there.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::say::grouped;

/// How often it is drawn anew at most, times a second.
const HERTZ: u8 = 10;

/// A line that says what goes on.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Draws nothing where stderr is no terminal.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(HERTZ));
        Self { bar }
    }

    /// Something begins that takes so many steps.
    pub(super) fn begin(&self, what: &'static str, steps: usize) {
        self.bar.set_style(style("{msg:<28} [{bar:30}] {human_pos}/{human_len}"));
        self.bar.set_length(steps as u64);
        self.bar.set_position(0);
        self.bar.set_message(what);
    }

    /// A step was done.
    pub(super) fn step(&self) {
        self.bar.inc(1);
    }

    /// It publishes: so long of so long, so many deliveries a second.
    pub(super) fn publishing(&self, gone: Duration, of: Duration, deliveries_per_s: f64) {
        self.bar.set_style(style("{msg:<28} [{bar:30}]"));
        self.bar.set_length(millis(of));
        self.bar.set_position(millis(gone.min(of)));
        self.bar.set_message(format!("{} deliveries/s", grouped(deliveries_per_s as u64)));
    }

    /// Takes it from the terminal.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An error is to stand on a line of its own.
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are fixed: one that is wrong shows in the unit test.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{InMemoryTerm, TermLike as _};

    #[test]
    fn it_says_what_goes_on_and_goes_away() {
        let term = InMemoryTerm::new(4, 100);
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(term.clone())));
        let progress = Progress { bar };
        progress.begin("subscribing", 10);
        progress.step();
        progress.bar.tick();
        assert!(
            term.contents().contains("subscribing") && term.contents().contains("1/10"),
            "{}",
            term.contents()
        );
        progress.publishing(Duration::from_secs(1), Duration::from_secs(4), 1_234_567.8);
        progress.bar.tick();
        assert!(term.contents().contains("1,234,567 deliveries/s"), "{}", term.contents());
        assert!(term.width() == 100);
        progress.clear();
        assert_eq!(term.contents(), "");
    }
}

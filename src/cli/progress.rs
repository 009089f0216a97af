//! A progress bar on stderr, for people who wait.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Less than this is done before anyone looks.
const WORTH_SHOWING: u64 = 16 << 20;

/// So many calls to a store are done before anyone looks.
const MANY: usize = 100;

/// Shows how far reading or writing has come; nothing at all where stderr is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    shown: bool,
    what: &'static str,
}

impl Progress {
    /// Begins; `total` bytes, or an unknown number, are to come.
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let mut progress = Self { bar, shown: false, what };
        if total.is_some_and(|total| total > WORTH_SHOWING) {
            progress.show();
        }
        progress
    }

    /// Begins work that takes long for few bytes: shown from the start.
    pub(super) fn slow(what: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let mut progress = Self { bar, shown: false, what };
        progress.show();
        progress
    }

    /// Begins work on `total` things that are no bytes.
    pub(super) fn counting(what: &'static str, total: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        let progress = Self { bar, shown: true, what };
        if total > MANY {
            progress.draw("{msg} {bar:40} {pos}/{len}");
        }
        progress
    }

    /// Prints a line on stderr without garbling the bar.
    pub(super) fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the bar off the screen.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// Counts bytes, or things, that were done.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bar.inc(bytes as u64);
        if !self.shown && self.bar.length().is_none() && self.bar.position() > WORTH_SHOWING {
            self.show();
        }
    }

    fn show(&mut self) {
        self.shown = true;
        let template = match self.bar.length() {
            Some(_) => "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        self.draw(template);
        if self.bar.length().is_none() {
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
    }

    fn draw(&self, template: &str) {
        // The templates are those of this file; the default style serves if one were wrong.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
        self.bar.set_message(self.what);
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

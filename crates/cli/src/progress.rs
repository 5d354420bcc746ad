//! Progress on stderr: a bar with the time left on a terminal, a line every ten seconds elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// The progress of one row, fed from any thread.
pub struct Progress {
    label: String,
    quiet: bool,
    verbose: bool,
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Mutex<Instant>,
    total: AtomicU64,
    done: AtomicU64,
    /// Of the work done, what processes before this one did.
    before: AtomicU64,
    remarks: Mutex<Vec<String>>,
}

impl Progress {
    /// For the row `label`, such as `[2/12] varkey.static`.
    pub(crate) fn new(label: String, quiet: bool, verbose: bool) -> Progress {
        let terminal = !quiet && std::io::stderr().is_terminal();
        // Nothing is drawn before the first amount of work is known.
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_prefix(label.clone());
            // A fixed template without colours; the default style is what a wrong one would leave.
            match ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}{msg}") {
                Ok(style) => bar.with_style(style.progress_chars("##-")),
                Err(_) => bar,
            }
        });
        let now = Instant::now();
        Progress {
            label,
            quiet,
            verbose,
            bar,
            started: now,
            last_line: Mutex::new(now),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            before: AtomicU64::new(0),
            remarks: Mutex::default(),
        }
    }

    /// Adds to the amount of work there is, in units of the caller's choice (steps, usually).
    pub fn expect(&self, units: u64) {
        let total = self.total.fetch_add(units, Ordering::Relaxed) + units;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// Adds work that was done before this process: it counts as done, and the time left is not reckoned from it.
    pub fn made_before(&self, units: u64) {
        self.before.fetch_add(units, Ordering::Relaxed);
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    /// Adds to the work done, and says how it stands in a few words (`loss 0.41`); empty for nothing to say.
    pub fn advance(&self, units: u64, status: &str) {
        let done = self.done.fetch_add(units, Ordering::Relaxed) + units;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(self.left(done) + &status_after(status));
        } else if !self.quiet && self.line_is_due() {
            say(&self.line(done, status));
        }
    }

    /// A line for those who asked for more (`-v`).
    pub fn note(&self, text: &str) {
        if self.verbose {
            self.above(&format!("{}: {text}", self.label));
        }
    }

    /// A line that even those who asked for quiet must see: something broke, and the run goes on without it.
    pub fn warn(&self, text: &str) {
        self.above(&format!("{}: {text}", self.label));
    }

    /// A line that everybody must see and that the row's record keeps.
    pub fn remark(&self, text: &str) {
        self.warn(text);
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// The remarks so far, sorted: they come from several threads.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        remarks.sort();
        remarks
    }

    /// Ends the bar and writes the row's last line.
    pub(crate) fn finish(&self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.quiet {
            say(&format!("{} {result} ({})", self.label, duration(self.started.elapsed().as_secs_f64())));
        }
    }

    fn above(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn line_is_due(&self) -> bool {
        // A poisoned lock only means that another thread stopped while it held the time of the last line.
        let mut last = self.last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let due = last.elapsed() >= EVERY;
        if due {
            *last = Instant::now();
        }
        due
    }

    fn line(&self, done: u64, status: &str) -> String {
        let total = self.total.load(Ordering::Relaxed).max(done);
        let percent = 100 * done / total.max(1);
        format!("{} {done}/{total} ({percent} %){}{}", self.label, self.left(done), status_after(status))
    }

    /// `, 12 min left` at the rate of this process; nothing before it has done any work.
    fn left(&self, done: u64) -> String {
        let total = self.total.load(Ordering::Relaxed).max(done);
        match done.saturating_sub(self.before.load(Ordering::Relaxed)) {
            0 => String::new(),
            here => {
                let left = self.started.elapsed().as_secs_f64() * (total - done) as f64 / here as f64;
                format!(", {} left", duration(left))
            }
        }
    }
}

fn status_after(status: &str) -> String {
    if status.is_empty() { String::new() } else { format!(", {status}") }
}

/// A line on stderr; a closed stderr is no reason to stop a run.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `3.4 s`, `12 min`, `2.5 h`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(3.44, "3.4 s"), (75.2, "75 s"), (600.0, "10 min"), (9000.0, "2.5 h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    /// 9000 of 10,000 steps were made before; 50 since then took 10 s, so 950 more take 190 s.
    #[test]
    fn work_done_before_is_done_and_gives_no_rate() {
        let mut progress = Progress::new("[1/1] a".into(), true, false);
        progress.expect(10_000);
        progress.made_before(9000);
        progress.started -= Duration::from_secs(10);
        let line = |progress: &Progress| progress.line(progress.done.load(Ordering::Relaxed), "");
        assert_eq!(line(&progress), "[1/1] a 9000/10000 (90 %)");
        progress.advance(50, "");
        assert_eq!(line(&progress), "[1/1] a 9050/10000 (90 %), 3 min left");
        // A seed that was complete.
        progress.expect(10_000);
        progress.made_before(10_000);
        assert_eq!(line(&progress), "[1/1] a 19050/20000 (95 %), 3 min left");
    }

    #[test]
    fn work_adds_up_over_threads() {
        let progress = Progress::new("[1/1] a".into(), true, false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    progress.expect(100);
                    (0..50).for_each(|_| progress.advance(1, ""));
                });
            }
        });
        let line = progress.line(progress.done.load(Ordering::Relaxed), "loss 0.4");
        assert!(line.starts_with("[1/1] a 200/400 (50 %), ") && line.ends_with(" left, loss 0.4"), "{line}");
    }
}

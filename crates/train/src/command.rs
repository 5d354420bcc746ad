//! Trainings under a reproduce binary: its flags as [`Options`], their events as its progress.

use std::sync::atomic::{AtomicBool, Ordering};

use cli::RowContext;

use crate::{Device, Event, Options, What};

impl Options {
    /// What the flags of a row say.
    ///
    /// # Errors
    /// If no backend of this program drives the device.
    pub fn of(ctx: &RowContext<'_>) -> Result<Self, cli::Error> {
        let kind = &ctx.device.kind;
        let device = Device::of_kind(kind, ctx.gpus);
        let device = device.ok_or_else(|| cli::Error::device(format!("no backend drives a {kind} device")))?;
        let (threads, resume, keep, deadline) = (ctx.threads, ctx.resume, ctx.keep_checkpoints, ctx.deadline);
        Ok(Self { device, threads, out: Some(ctx.out.to_path_buf()), resume, keep, deadline })
    }
}

/// Passes the events of trainings that go side by side on to one progress bar.
pub struct Teller<'a> {
    ctx: &'a RowContext<'a>,
    /// Whether a run was taken up: then the steps of all are expected.
    begun: AtomicBool,
    /// Whether checkpoints set aside are told of.
    told: AtomicBool,
}

impl<'a> Teller<'a> {
    /// For a row.
    pub fn new(ctx: &'a RowContext<'a>) -> Self {
        Self { ctx, begun: AtomicBool::new(false), told: AtomicBool::new(false) }
    }

    /// Passes an event on.
    pub fn hear(&self, event: Event<'_>) {
        let (progress, seed) = (self.ctx.progress, event.seed);
        match event.what {
            What::Begun { step, steps } => {
                if !self.begun.swap(true, Ordering::Relaxed) {
                    progress.expect(steps * event.runs as u64);
                }
                progress.made_before(step);
            }
            What::Step { loss, .. } => progress.advance(1, &format!("loss {loss:.3}")),
            What::Evaluated { step, evaluation } => {
                let (loss, accuracy) = (evaluation.loss, evaluation.accuracy);
                progress.note(&format!("seed {seed}, step {step}: test loss {loss:.3}, accuracy {accuracy:.3}"));
            }
            What::Moved { log } => {
                progress.remark(&format!("seed {seed} moved between devices: {}", log.made_where()));
            }
            What::SetAside { old } => {
                // One line a row: a grid has hundreds of checkpoints.
                if !self.told.swap(true, Ordering::Relaxed) {
                    let old = old.file_name().unwrap_or_default().display();
                    progress.warn(&format!(
                        "checkpoints of an earlier start are set aside, the first as {old}; to go on from them, take \
                         .old-N out of their names and give --resume"
                    ));
                }
            }
            What::Diverged { error } => {
                let error = error.to_string();
                let (what, hint) = error.split_once('\n').unwrap_or((&error, ""));
                progress.remark(&format!("seed {seed} diverged at {what}"));
                progress.warn(hint);
            }
        }
    }
}

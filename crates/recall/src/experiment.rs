//! The recall figure as an experiment that a reproduce binary can run.

use std::sync::Mutex;

use cli::{Device as Host, Experiment, Facts, RowContext};
use report::measured::Metric;

use crate::{Device, Event, Options, Row, What, measure};

/// The recall figure: its plan is `reproduce/figure-recall/figure-recall.toml`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figure;

impl Experiment for Figure {
    fn item(&self) -> &str {
        "figure-recall"
    }

    fn plan(&self) -> &str {
        include_str!("../../../reproduce/figure-recall/figure-recall.toml")
    }

    fn check(&self, row: &toml::Table) -> Result<(), cli::Error> {
        cli::parse::<Row>(row)?.check().map_err(cli::Error::config)
    }

    fn facts(&self, _: &Host) -> Facts {
        Facts { dtype: "f32".into(), ..Facts::default() }
    }

    fn device_kinds(&self) -> &[&str] {
        &["cpu", "dfdx"]
    }

    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, cli::Error> {
        let row: Row = ctx.parse()?;
        let options = Options {
            device: if ctx.device.kind == "dfdx" { Device::Dfdx } else { Device::Cpu },
            threads: ctx.threads,
            out: Some(ctx.out.to_path_buf()),
            resume: ctx.resume,
            deadline: ctx.deadline,
        };
        let teller = Teller { ctx, seen: Mutex::new(Vec::new()) };
        let measured = measure(ctx.row, &row, ctx.seeds, &options, &|event| teller.hear(event))
            .map_err(|e| cli::Error::config(e).hint("--print-config shows the row; --rows runs it alone"))?;
        if measured.complete { Ok(measured.points) } else { Err(cli::Error::stopped()) }
    }
}

/// Passes the events of runs that go side by side on to one progress bar.
struct Teller<'a> {
    ctx: &'a RowContext<'a>,
    /// Steps seen of each run; a run's total is expected at its first.
    seen: Mutex<Vec<u64>>,
}

impl Teller<'_> {
    fn hear(&self, event: Event<'_>) {
        let (progress, seed) = (self.ctx.progress, event.seed);
        match event.what {
            What::Step { step, steps, loss, .. } => {
                let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if seen.is_empty() {
                    seen.resize(event.runs, 0);
                    progress.expect(steps * event.runs as u64);
                }
                let made = step - seen[event.run];
                seen[event.run] = step;
                drop(seen);
                progress.advance(made, &format!("loss {loss:.3}"));
            }
            What::Evaluated { step, evaluation } => {
                let (loss, accuracy) = (evaluation.loss, evaluation.accuracy);
                progress.note(&format!("seed {seed}, step {step}: test loss {loss:.3}, accuracy {accuracy:.3}"));
            }
            What::Diverged { error } => progress.note(&format!("seed {seed}: {error}")),
        }
    }
}

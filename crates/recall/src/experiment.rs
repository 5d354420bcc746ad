//! The recall figure as an experiment that a reproduce binary can run.

use std::path::Path;

use cli::{Device as Host, DeviceArg, Experiment, Facts, RowContext};
use report::measured::Metric;
use train::{Device, Options, Teller};

use crate::{Row, measure};

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

    fn runs_on(&self, row: &toml::Table, device: &Host) -> Result<(), cli::Error> {
        let trials = cli::parse::<Row>(row)?.trials().map_err(cli::Error::config)?;
        trials.iter().try_for_each(|trial| {
            let tape = trial.row.model.record(1, trial.row.task.len()).map_err(cli::Error::config)?;
            train::runs_on(&device.kind, &tape)
        })
    }

    fn flops(&self, row: &toml::Table, _: Option<&Path>) -> Option<f64> {
        let trials = cli::parse::<Row>(row).ok()?.trials().ok()?;
        let flops = |Row { task, model, train, .. }: &Row| {
            let step = model.record(train.batch, task.len()).ok()?.flops();
            Some(3.0 * step * train.steps as f64)
        };
        trials.iter().map(|trial| flops(&trial.row)).sum()
    }

    fn facts(&self, device: &Host) -> Facts {
        let (dtype, kernels_sha256) = train::arithmetic(device);
        Facts { dtype, kernels_sha256, ..Facts::default() }
    }

    fn device_kinds(&self) -> &[&str] {
        &Device::KINDS
    }

    fn device(&self, asked: DeviceArg, threads: usize) -> Result<Host, cli::Error> {
        train::find_device(asked, self.device_kinds(), threads)
    }

    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, cli::Error> {
        let row: Row = ctx.parse()?;
        let (options, teller) = (Options::of(ctx)?, Teller::new(ctx));
        let measured = measure(ctx.row, &row, ctx.seeds, &options, &|event| teller.hear(event))
            .map_err(|e| cli::Error::config(e).hint("--print-config shows the row; --rows runs it alone"))?;
        if measured.complete { Ok(measured.points) } else { Err(cli::Error::stopped()) }
    }
}

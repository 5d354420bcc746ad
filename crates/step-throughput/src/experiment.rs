//! Table 4 as an experiment that a reproduce binary can run.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use cli::{Device, DeviceArg, Error, Experiment, Facts, RowContext};
use report::measured::Metric;

use crate::{Row, Timing, measure, model_flops, peak_flops, peers};

/// The plan's text.
pub fn plan() -> &'static str {
    include_str!("../../../reproduce/table-4/table-4.toml")
}

/// Training throughput: its plan is `reproduce/table-4/table-4.toml`.
///
/// Metrics of a row: `tokens_per_second`, `ms_per_step`, `loss_of_throughput` (percent, against the same model without
/// convolutions, timed in the same process), `parameters_m` and `mflop_per_token` ([`model_flops`]), on a GPU `mfu` (percent of the datasheet's bf16 rate) and `peak_gib`. With
/// the times of `torch_step.py` as `--peer`, `peer_tokens_per_second` and `against_peer` too.
#[derive(Debug, Default)]
pub struct Table {
    /// Times of models without convolutions, by their configuration.
    baselines: Mutex<HashMap<String, Timing>>,
}

impl Table {
    fn baseline(&self, row: &Row, cuda: Option<usize>, threads: usize) -> Result<Timing, Error> {
        let row = row.without();
        let key = format!("{row:?} {cuda:?} {threads}");
        let mut known = self.baselines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(timing) = known.get(&key) {
            return Ok(*timing);
        }
        let timing = measure(&row, cuda, threads).map_err(Error::config)?;
        known.insert(key, timing);
        Ok(timing)
    }
}

impl Experiment for Table {
    fn item(&self) -> &str {
        "table-4"
    }

    fn plan(&self) -> &str {
        plan()
    }

    fn check(&self, row: &toml::Table) -> Result<(), Error> {
        cli::parse::<Row>(row)?.tape().map(drop).map_err(Error::config)
    }

    fn runs_on(&self, row: &toml::Table, device: &Device) -> Result<(), Error> {
        train::runs_on(&device.kind, &cli::parse::<Row>(row)?.tape().map_err(Error::config)?)
    }

    /// The row's own steps alone: the model without convolutions is timed once and shared.
    fn flops(&self, row: &toml::Table, _: Option<&Path>) -> Option<f64> {
        let row = cli::parse::<Row>(row).ok()?;
        Some(model_flops(&row.tape().ok()?) * (row.accumulate * (row.warmup + row.steps)) as f64)
    }

    fn seeded(&self) -> bool {
        false
    }

    fn facts(&self, device: &Device) -> Facts {
        let (dtype, kernels_sha256) = train::arithmetic(device);
        Facts { dtype, kernels_sha256, ..Facts::default() }
    }

    fn peer(&self) -> Option<&str> {
        Some("Times of PyTorch on the same machine, written by reproduce/table-4/torch_step.py, to put beside ours")
    }

    fn device_kinds(&self) -> &[&str] {
        &["cpu", "cuda"]
    }

    fn device(&self, asked: DeviceArg, threads: usize) -> Result<Device, Error> {
        asked.single()?;
        train::find_device(asked, self.device_kinds(), threads)
    }

    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, Error> {
        let row: Row = ctx.parse()?;
        let peers = ctx.peer.map(peers).transpose().map_err(Error::config)?.unwrap_or_default();
        let cuda = (ctx.device.kind == "cuda").then_some(ctx.gpus.first);
        let baseline = self.baseline(&row, cuda, ctx.threads)?;
        let timing =
            if row == row.without() { baseline } else { measure(&row, cuda, ctx.threads).map_err(Error::config)? };
        let lost = 100.0 * (1.0 - timing.tokens_per_second / baseline.tokens_per_second);
        let tape = row.tape().map_err(Error::config)?;
        let mut values = vec![
            ("parameters_m", tape.parameter_count() as f64 / 1e6),
            ("mflop_per_token", model_flops(&tape) / tape.tokens() as f64 / 1e6),
            ("tokens_per_second", timing.tokens_per_second),
            ("ms_per_step", timing.ms_per_step),
            ("loss_of_throughput", lost),
        ];
        if cuda.is_some() {
            values.extend(peak_flops(&ctx.device.name).map(|peak| ("mfu", 100.0 * timing.flops_per_second / peak)));
            values.extend(timing.peak_gib.map(|gib| ("peak_gib", gib)));
        }
        if let Some(peer) = peers.iter().find(|peer| peer.row == ctx.row) {
            values.push(("peer_tokens_per_second", peer.tokens_per_second));
            values.push(("against_peer", timing.tokens_per_second / peer.tokens_per_second));
        }
        let (first, last) = timing.loss;
        ctx.progress.note(&format!("{:.2} ms a step, loss {first:.3} to {last:.3}", timing.ms_per_step));
        Ok(values.into_iter().map(|(name, value)| ctx.metric(0, row.steps as u64, name, value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch taken in two passes is as much work as in one.
    #[test]
    fn what_a_row_costs_does_not_depend_on_its_passes() {
        let row = report::plan::Plan::parse(plan()).unwrap().resolve("smoke", None).unwrap().remove(0);
        let flops = |accumulate: i64| {
            let mut config = row.config.clone();
            config.insert("accumulate".into(), accumulate.into());
            Table::default().flops(&config, None).unwrap()
        };
        assert_eq!(flops(1), flops(2));
    }
}

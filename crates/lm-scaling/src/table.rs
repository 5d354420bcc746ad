//! An item of the paper whose rows are language models, as a reproduce binary runs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use cli::{Device as Host, DeviceArg, Experiment, Facts, RowContext};
use report::measured::Metric;
use train::{Device, Options, Teller};

use crate::{Probe, Row, WithoutData, held_out, measure};

/// An item and its plan. Of what [`measure()`] gives it keeps the metrics that the item lists.
#[derive(Debug)]
pub struct Table {
    item: &'static str,
    plan: &'static str,
    probes: &'static [Probe],
    /// Hashes of the texts read so far.
    data: Mutex<BTreeMap<String, String>>,
}

impl Table {
    /// The item of that id with a plan's toml text and what is asked of its trained models.
    pub const fn new(item: &'static str, plan: &'static str, probes: &'static [Probe]) -> Self {
        Self { item, plan, probes, data: Mutex::new(BTreeMap::new()) }
    }

    /// Table 1, language modelling: `reproduce/table-1/table-1.toml`. The probes are those of the systems beside the
    /// dense Transformer.
    pub const fn one(probes: &'static [Probe]) -> Self {
        Self::new("table-1", include_str!("../../../reproduce/table-1/table-1.toml"), probes)
    }

    /// Table 3, the ablations: `reproduce/table-3/table-3.toml`.
    pub const fn three() -> Self {
        Self::new("table-3", include_str!("../../../reproduce/table-3/table-3.toml"), &[])
    }

    /// The scaling figure: `reproduce/figure-scaling/figure-scaling.toml`.
    pub const fn scaling() -> Self {
        Self::new("figure-scaling", include_str!("../../../reproduce/figure-scaling/figure-scaling.toml"), &[])
    }

    /// nanoGPT's small setting on tinyshakespeare: `reproduce/nanogpt/nanogpt.toml`.
    pub const fn nanogpt() -> Self {
        Self::new("nanogpt", include_str!("../../../reproduce/nanogpt/nanogpt.toml"), &[])
    }
}

impl Experiment for Table {
    fn item(&self) -> &str {
        self.item
    }

    fn plan(&self) -> &str {
        self.plan
    }

    fn check(&self, row: &toml::Table) -> Result<(), cli::Error> {
        let row = cli::parse::<Row>(row)?;
        row.check().map_err(cli::Error::config)?;
        let item = report::paper::item(self.item)?;
        match held_out::metrics(&row).into_iter().find(|metric| item.metric(metric).is_none()) {
            None => Ok(()),
            Some(metric) => {
                let message = format!("probe: it finds {metric}, which is no metric of {}", self.item);
                Err(cli::Error::config(message).hint(format!("add it to paper/{}.toml", self.item)))
            }
        }
    }

    fn runs_on(&self, row: &toml::Table, device: &Host) -> Result<(), cli::Error> {
        let tape = cli::parse::<Row>(row)?.model.record(1, 1).map_err(cli::Error::config)?;
        train::runs_on(&device.kind, &tape)
    }

    fn flops(&self, row: &toml::Table, data: Option<&Path>) -> Option<f64> {
        let row = cli::parse::<Row>(row).ok()?;
        let counted = row.without_data == WithoutData::Count && !row.data.is_at_hand(data);
        if counted { None } else { row.training_flops(row.train.steps).ok() }
    }

    fn reads_data(&self, row: &toml::Table) -> bool {
        cli::parse::<Row>(row).is_ok_and(|row| !row.data.is_at_hand(None) || !row.probe.is_empty())
    }

    fn facts(&self, device: &Host) -> Facts {
        let data_sha256 = self.data.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let (dtype, kernels_sha256) = train::arithmetic(device);
        Facts { dtype, kernels_sha256, data_sha256 }
    }

    fn device_kinds(&self) -> &[&str] {
        &Device::KINDS
    }

    fn device(&self, asked: DeviceArg, threads: usize) -> Result<Host, cli::Error> {
        train::find_device(asked, self.device_kinds(), threads)
    }

    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, cli::Error> {
        let row: Row = ctx.parse()?;
        let item = report::paper::item(self.item)?;
        let (options, teller) = (Options::of(ctx)?, Teller::new(ctx));
        let measured = measure(ctx.row, &row, ctx.seeds, ctx.data, self.probes, &options, &|event| teller.hear(event))
            .map_err(|e| cli::Error::config(e).hint("--print-config shows the row; --rows runs it alone"))?;
        if let Some(why) = measured.counted {
            ctx.progress.warn(&format!("only its parameters are counted: {why}"));
        }
        measured.left_out.iter().for_each(|what| ctx.progress.warn(what));
        self.data.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(measured.data_sha256);
        if !measured.complete {
            return Err(cli::Error::stopped());
        }
        let listed = |point: &Metric| item.metric(&point.metric).is_some();
        Ok(measured.points.into_iter().filter(listed).collect())
    }
}

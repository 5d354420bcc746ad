//! What a binary supplies.

use crate::{DeviceArg, Error, Gpus, Progress};
use report::measured::Metric;
use report::record::Device;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// An item of the paper that can be measured.
pub trait Experiment {
    /// The item's id: `paper/<item>.toml`.
    fn item(&self) -> &str;

    /// The plan's toml text, see [`report::plan`].
    fn plan(&self) -> &str;

    /// Refuses a row's configuration that [`Experiment::measure`] could not run: usually [`parse`] into the typed
    /// struct, then the checks on its values. Allocates and runs nothing.
    fn check(&self, row: &toml::Table) -> Result<(), Error>;

    /// Refuses a row that the device, which is present, does not run: such rows are skipped. Runs nothing.
    fn runs_on(&self, _row: &toml::Table, _device: &Device) -> Result<(), Error> {
        Ok(())
    }

    /// Measures one row over all its seeds. Returns every value with its step, so that the record has its curves; of
    /// each seed and metric the last step is the result. Equal configurations have equal results: a row whose
    /// configuration and seeds were measured under another id is copied, not measured again.
    fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, Error>;

    /// Floating-point operations of training a row once, of one seed, should nothing stop it early: what the cost of a
    /// run is estimated from. None if nothing is trained, also because the row's data is not in the folder `data`.
    fn flops(&self, _row: &toml::Table, _data: Option<&Path>) -> Option<f64> {
        None
    }

    /// Whether a row's seeds are what they say: repetitions with other numbers. Of an item that only times, the plan's one
    /// seed is all there is, and `--seeds` is refused.
    fn seeded(&self) -> bool {
        true
    }

    /// What the record says of the arithmetic and the data on a device.
    fn facts(&self, device: &Device) -> Facts;

    /// What the file of `--peer` holds, as `--help` says it; without one the item has no such flag.
    fn peer(&self) -> Option<&str> {
        None
    }

    /// Whether a row reads from the folder of prepared texts, so that the record's command names one.
    fn reads_data(&self, _row: &toml::Table) -> bool {
        false
    }

    /// The device kinds it runs on, the default first.
    fn device_kinds(&self) -> &[&str] {
        &["cpu"]
    }

    /// Finds the device asked for, or says why it is absent. The default knows the host alone.
    fn device(&self, asked: DeviceArg, threads: usize) -> Result<Device, Error> {
        crate::device::host(asked, self.device_kinds(), threads)
    }
}

/// What the record says of the arithmetic and the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The type of the arithmetic, such as `f32`.
    pub dtype: String,
    /// SHA-256 of each GPU kernels' source that may run, by file.
    pub kernels_sha256: BTreeMap<String, String>,
    /// SHA-256 of each data file by name.
    pub data_sha256: BTreeMap<String, String>,
}

/// All that one row needs to be measured.
pub struct RowContext<'a> {
    /// The row's id.
    pub row: &'a str,
    /// Its resolved configuration.
    pub config: &'a toml::Table,
    /// The seeds to run; side by side, if the experiment likes.
    pub seeds: &'a [u64],
    /// The device to run on.
    pub device: &'a Device,
    /// Which of the GPUs, if it is one or several.
    pub gpus: Gpus,
    /// CPU threads to use in all.
    pub threads: usize,
    /// A folder for checkpoints of its own; prefix their names with the row's id.
    pub out: &'a Path,
    /// The folder of prepared texts, if one is named.
    pub data: Option<&'a Path>,
    /// The file of `--peer`, if one is named.
    pub peer: Option<&'a Path>,
    /// Whether to go on from such checkpoints.
    pub resume: bool,
    /// Whether to leave them there when the row is done.
    pub keep_checkpoints: bool,
    /// When to stop: save a checkpoint and return [`Error::stopped`].
    pub deadline: Option<Instant>,
    /// Where to report progress.
    pub progress: &'a Progress,
}

impl RowContext<'_> {
    /// The configuration as the experiment's typed struct.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        parse(self.config).map_err(|e| Error { message: format!("row {}: {}", self.row, e.message), ..e })
    }

    /// Whether the time budget is spent.
    pub fn out_of_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// A value of this row.
    pub fn metric(&self, seed: u64, step: u64, metric: &str, value: f64) -> Metric {
        Metric { row: self.row.into(), seed, step, metric: metric.into(), value }
    }
}

/// A configuration as a typed struct; an unknown or missing key is named.
pub fn parse<T: DeserializeOwned>(config: &toml::Table) -> Result<T, Error> {
    config.clone().try_into().map_err(|e: toml::de::Error| Error::config(e.to_string().trim_end()))
}

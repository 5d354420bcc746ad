//! The skeleton of a reproduce binary: shared flags, progress, exit codes, records and the printed table.
//!
//! A binary supplies an [`Experiment`]: an item's id, its plan and a function that measures one row. [`run`] does the
//! rest: it resolves the plan, measures the rows one after another, keeps each finished row on the disk, writes the
//! record and prints ours beside the paper's. The table goes to stdout, all else to stderr.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | ran, no claim is off |
//! | 1 | ran, a claim is off |
//! | 2 | usage, configuration, or a file that cannot be read or written |
//! | 3 | the device is absent |
//! | 4 | incomplete: stopped by `--time-budget`, and `--resume` goes on; or some rows do not run on the device |
//!
//! Colour is never used, so `NO_COLOR` holds everywhere: words carry the verdicts.
//!
//! ```no_run
//! use cli::{Error, Experiment, Facts, Metric, RowContext};
//!
//! struct Dice;
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config { faces: u64 }
//!
//! impl Experiment for Dice {
//!     fn item(&self) -> &str { "figure-recall" }
//!     fn plan(&self) -> &str { "[base]\nseeds = 3\nfaces = 6\n[scale.smoke]\n[[row]]\nid = \"varkey.none\"\n" }
//!     fn check(&self, row: &toml::Table) -> Result<(), Error> { cli::parse::<Config>(row).map(|_| ()) }
//!     fn facts(&self, _: &cli::Device) -> Facts { Facts { dtype: "f32".into(), ..Facts::default() } }
//!     fn measure(&self, ctx: &RowContext) -> Result<Vec<Metric>, Error> {
//!         let config: Config = ctx.parse()?;
//!         Ok(ctx.seeds.iter().map(|&s| ctx.metric(s, 0, "accuracy", (s % config.faces) as f64)).collect())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode { cli::run(&Dice) }
//! ```

mod args;
mod aside;
mod cost;
mod device;
mod error;
mod experiment;
mod listing;
mod measuring;
mod output;
mod progress;
mod provenance;
mod records;
mod runner;
mod session;
mod state;

pub use args::{Args, DeviceArg, Format, Gpus, Seeds};
pub use aside::set_aside;
pub use device::host as host_device;
pub use error::{Error, Kind};
pub use experiment::{Experiment, Facts, RowContext, parse};
pub use progress::Progress;
pub use provenance::{source, today};
pub use records::names as record_names;
pub use report::measured::Metric;
pub use report::record::Device;
pub use runner::{check, run, run_with};

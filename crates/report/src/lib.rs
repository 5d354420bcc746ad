//! What the paper says and what we measured, side by side: pure functions that know nothing of compute.
//!
//! ```text
//! paper/<item>.csv, .toml --> paper ---------+--> claim --+
//! run.json, metrics.csv ----> record --> measured --------+--> table (text, markdown, json, csv)
//! <item>.toml (the plan) ---> plan           +--> figure (svg, csv)
//! ```
//! An *item* is a table or figure of the paper. Its rows have ids such as `varkey.lowrank`; a row holds metrics, each
//! measured once per seed. Nothing here reads a clock, the environment or a device; only [`record`] touches files.
//!
//! ```
//! let item = report::paper::item("table-3").unwrap();
//! let cell = item.number("place-qkv", "ppl").unwrap();
//! assert_eq!(cell.shown(), "18.10 V");
//! ```

pub mod claim;
pub mod figure;
pub mod measured;
pub mod paper;
pub mod plan;
pub mod record;
pub mod scaling;
pub mod table;

//! What a run will cost, said before it starts.
//!
//! The operations of its trainings, over the rate at which a record of the same item, scale and kind of device made its
//! own: that of the same row where it has one (small models run at lower rates), else of all its rows together. Without
//! such a record the rate is [`rough`].

use crate::measuring::{Place, same};
use crate::progress::duration;
use crate::records::{Recorded, find};
use crate::session::Session;
use crate::state::State;
use report::plan::Row;
use report::record::Device;
use std::path::Path;

/// The trainings of one row.
#[derive(Debug, Clone, PartialEq)]
struct Work {
    row: String,
    runs: usize,
    /// Of all its runs.
    flops: f64,
}

/// What the rows of a record made of it.
struct Rates {
    /// `NVIDIA H100 80GB HBM3` and `table-3.small.h100`.
    hardware: String,
    name: String,
    /// Operations and seconds by row.
    rows: Vec<(String, f64, f64)>,
}

impl Session<'_> {
    /// The line on what the rows that `state` lacks will cost; none if they train nothing.
    pub(crate) fn cost(
        &self,
        scale: &str,
        rows: &[Row],
        place: &Place,
        state: &State,
        golden: Option<&Path>,
    ) -> Option<String> {
        let (device, data) = (place.device, self.data());
        let flops = |config: &toml::Table| self.experiment.flops(config, data.as_deref());
        let mut work = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            // Measured before, or copied from a row of the same configuration.
            let twin = |other: &Row| other.config_sha256 == row.config_sha256 && other.seeds == row.seeds;
            if state.rows.iter().any(|done| same(done, row, place)) || rows[..index].iter().any(twin) {
                continue;
            }
            let runs = row.seeds.len();
            work.extend(flops(&row.config).map(|flops| Work { row: row.id.clone(), runs, flops: flops * runs as f64 }));
        }
        // A record that does not read is said elsewhere.
        let recorded =
            golden.and_then(|golden| find(golden, &self.item, Some(scale), Some(&device.kind)).ok().flatten());
        let rates = recorded.and_then(|Recorded { name, run, .. }| {
            let rows = run.record.rows.iter().filter(|row| row.wall_s > 0.0);
            let rows =
                rows.filter_map(|row| Some((row.id.clone(), flops(&row.config)? * row.seeds.len() as f64, row.wall_s)));
            let rows: Vec<_> = rows.collect();
            (!rows.is_empty()).then_some(Rates { hardware: run.record.device.name, name, rows })
        });
        line(&work, rates.as_ref(), device, scale)
    }
}

fn line(work: &[Work], rates: Option<&Rates>, device: &Device, scale: &str) -> Option<String> {
    let (runs, flops): (usize, f64) = (work.iter().map(|w| w.runs).sum(), work.iter().map(|w| w.flops).sum());
    if runs == 0 {
        return None;
    }
    let amount = format!("{runs} {}, {flops:.1e} FLOP", if runs == 1 { "run" } else { "runs" });
    let Some(Rates { hardware, name, rows }) = rates else {
        let (rate, kind) = (rough(device), &device.kind);
        let (time, rate) = (duration(flops / rate), per_second(rate));
        return Some(format!(
            "very roughly {time}: {amount}, at a guessed {rate}; nothing is recorded for scale {scale} on {kind}"
        ));
    };
    let of_all = rows.iter().map(|(_, flops, _)| flops).sum::<f64>() / rows.iter().map(|(.., s)| s).sum::<f64>();
    let rate = |w: &Work| rows.iter().find(|(id, ..)| *id == w.row).map_or(of_all, |(_, flops, s)| flops / s);
    let seconds: f64 = work.iter().map(|w| w.flops / rate(w)).sum();
    let place = if *hardware == device.name { "this device" } else { hardware };
    let (time, rate) = (duration(seconds), per_second(flops / seconds));
    Some(format!("about {time} on {place}: {amount}, at the {rate} of record {name}"))
}

/// Operations a second of training that were seen on some machine: right to a factor of ten.
fn rough(device: &Device) -> f64 {
    match device.kind.as_str() {
        "cuda" => 5e13,
        "cpu" => 3e10 * device.threads as f64,
        _ => 1e9 * device.threads as f64,
    }
}

/// `204.1 TFLOP/s`, `12.3 GFLOP/s`.
fn per_second(rate: f64) -> String {
    if rate < 1e12 { format!("{:.1} GFLOP/s", rate / 1e9) } else { format!("{:.1} TFLOP/s", rate / 1e12) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: &str, name: &str) -> Device {
        Device { kind: kind.into(), name: name.into(), threads: 2, driver: None, cuda: None }
    }

    fn work(row: &str, runs: usize, flops: f64) -> Work {
        Work { row: row.into(), runs, flops }
    }

    /// Row a was recorded at 1 TFLOP/s, all rows together at 1.5: a takes 100 s, b, which is new, 200 s.
    #[test]
    fn a_recorded_row_has_its_own_rate_and_a_new_one_that_of_all() {
        let rows = vec![("a".into(), 1e13, 10.0), ("z".into(), 2e13, 10.0)];
        let rates = Rates { hardware: "GPU 1".into(), name: "x.small.gpu".into(), rows };
        let todo = [work("a", 3, 1e14), work("b", 2, 3e14)];
        let said = |name| line(&todo, Some(&rates), &device("cuda", name), "small").unwrap();
        assert_eq!(
            said("GPU 1"),
            "about 5 min on this device: 5 runs, 4.0e14 FLOP, at the 1.3 TFLOP/s of record x.small.gpu"
        );
        assert!(said("GPU 2").starts_with("about 5 min on GPU 1: "));
    }

    #[test]
    fn without_a_record_the_guess_says_so() {
        assert_eq!(
            line(&[work("a", 1, 1e12)], None, &device("cpu", "c"), "smoke").unwrap(),
            "very roughly 17 s: 1 run, 1.0e12 FLOP, at a guessed 60.0 GFLOP/s; nothing is recorded for scale smoke on cpu"
        );
        assert_eq!(line(&[], None, &device("cpu", "c"), "smoke"), None);
    }
}

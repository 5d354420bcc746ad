//! The rows of a plan, measured one after another, and the record of those finished.

use crate::experiment::RowContext;
use crate::progress::Progress;
use crate::session::Session;
use crate::state::{Finished, Head, State};
use crate::{Error, Kind, provenance};
use report::measured::{Measured, Metric};
use report::plan::Row;
use report::record::{Device, RowRecord, Run, RunRecord, SCHEMA, Source, changed_kernels, split};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Names the folder of prepared texts where `--data` does not.
const DATA_VARIABLE: &str = "DYNCONV_DATA";

/// Seconds in a row that is not finished below which a process has done nothing: it was refused something.
const WORTH_KEEPING: f64 = 0.1;

/// Where and from which source rows are measured.
pub(crate) struct Place<'a> {
    /// The device.
    pub(crate) device: &'a Device,
    /// CPU threads.
    pub(crate) threads: usize,
    /// The run's folder.
    pub(crate) out: &'a Path,
    /// The source.
    pub(crate) source: Source,
    /// Hashes of the GPU kernels' sources that may run, by file.
    pub(crate) kernels_sha256: BTreeMap<String, String>,
    /// Every row of the scale, with the seeds asked for.
    pub(crate) plan: &'a [Row],
}

/// How the measuring ended.
pub(crate) enum End {
    /// Every row is finished.
    Done,
    /// The time budget is spent.
    Stopped,
}

impl Session<'_> {
    /// Measures the rows that `state` lacks, each pushed to it when finished.
    pub(crate) fn measure_all(&self, rows: &[Row], place: &Place, state: &mut State) -> Result<End, Error> {
        let device = place.device;
        let data = self.data();
        let deadline = self.args.time_budget.map(|budget| self.started + budget);
        for (index, row) in rows.iter().enumerate() {
            let label = format!("[{}/{}] {}", index + 1, rows.len(), row.id);
            let before = |done: &&Finished| done.head.row == row.id && same(done, row, place);
            if let Some(done) = state.rows.iter().find(before) {
                self.say(&format!("{label} finished before{}", elsewhere(done, &place.source)));
                continue;
            }
            let progress = Progress::new(label.clone(), self.args.quiet, self.args.verbose);
            let copied = state.rows.iter().find(|done| same(done, row, place)).cloned();
            if let Some(done) = copied {
                let result = format!("copied from {}, the same configuration", done.head.row);
                state.push(renamed(done, &row.id))?;
                progress.finish(&result);
                continue;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(End::Stopped);
            }
            let before = |done: &&Finished| done.head.row == row.id && same_settings(&done.head, row, device);
            if let Some(done) = state.rows.iter().rev().find(before) {
                let changed = changed_kernels(&done.head.kernels_sha256, &place.kernels_sha256).join(", ");
                self.say(&format!("{label} was measured with other kernels ({changed}): it is measured again"));
            }
            let ctx = RowContext {
                row: &row.id,
                config: &row.config,
                seeds: &row.seeds,
                device,
                gpus: self.args.device.gpus(),
                threads: place.threads,
                out: place.out,
                data: data.as_deref(),
                peer: self.peer.as_deref(),
                resume: self.args.resume,
                keep_checkpoints: self.args.keep_checkpoints,
                deadline,
                progress: &progress,
            };
            let began = Instant::now();
            let measured = self.experiment.measure(&ctx);
            let mut head = Head {
                row: row.id.clone(),
                seeds: row.seeds.clone(),
                device: device_id(device),
                config_sha256: row.config_sha256.clone(),
                git_rev: place.source.git_rev.clone(),
                dirty: place.source.dirty,
                kernels_sha256: place.kernels_sha256.clone(),
                wall_s: began.elapsed().as_secs_f64(),
                remarks: progress.remarks(),
                data_sha256: self.experiment.facts(device).data_sha256,
            };
            let points = match measured {
                Err(e) => {
                    let stopped = e.kind == Kind::Stopped;
                    progress.finish(if stopped { "stopped" } else { "failed" });
                    if head.wall_s >= WORTH_KEEPING {
                        state.push_part(head)?;
                    }
                    if stopped {
                        return Ok(End::Stopped);
                    }
                    return Err(Error { message: format!("row {}: {}", row.id, e.message), ..e });
                }
                Ok(points) => points,
            };
            self.refuse_wrong(row, &points)?;
            state.parts(row).for_each(|part| head.add(part));
            let kept = kept(place, state);
            data_read(kept.iter().map(|(_, done)| &done.head).filter(|done| done.row != row.id).chain([&head]))?;
            let (metrics, curve) = split(&points);
            progress.finish(&self.result(&row.id, &metrics));
            state.push(Finished { head, metrics, curve })?;
        }
        Ok(End::Done)
    }

    /// The folder of prepared texts, if one is named.
    pub(crate) fn data(&self) -> Option<PathBuf> {
        self.args.data.clone().or_else(|| std::env::var_os(DATA_VARIABLE).map(PathBuf::from))
    }

    /// An experiment returns values of its row, of its seeds (all of them) and of the item's metrics, each once.
    fn refuse_wrong(&self, row: &Row, points: &[Metric]) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let wrong = points.iter().find_map(|p| {
            if p.row != row.id {
                Some(format!("a value of row {}", p.row))
            } else if !row.seeds.contains(&p.seed) {
                Some(format!("a value of seed {}", p.seed))
            } else if self.item.metric(&p.metric).is_none() {
                Some(format!("a value of metric {}", p.metric))
            } else if !seen.insert((p.seed, p.step, &p.metric)) {
                Some(format!("two values of {} at seed {}, step {}", p.metric, p.seed, p.step))
            } else {
                None
            }
        });
        let missing = row.seeds.iter().find(|seed| !points.iter().any(|p| p.seed == **seed));
        let wrong = wrong.or(missing.map(|seed| format!("no value of seed {seed}")));
        match wrong {
            None => Ok(()),
            Some(what) => {
                let error = Error::config(format!("row {}: the experiment returned {what}", row.id));
                if points.iter().all(|p| self.item.metric(&p.metric).is_some()) {
                    return Err(
                        error.hint("this is a fault of the experiment's code: see `Experiment::measure` in crates/cli")
                    );
                }
                let known: Vec<&str> = self.item.metrics.iter().map(|metric| metric.id.as_str()).collect();
                Err(error.hint(format!("the metrics of {} are {}", self.item.id, known.join(", "))))
            }
        }
    }

    /// A row's first table metric in a few words.
    fn result(&self, row: &str, metrics: &[Metric]) -> String {
        let measured = Measured::new(metrics);
        let shown = self.item.metrics.iter().filter(|m| m.in_table).find_map(|m| Some((m, measured.summary(row, m)?)));
        shown.map(|(metric, summary)| format!("{} {}", metric.id, summary.text(metric))).unwrap_or_default()
    }

    /// The record of finished rows.
    pub(crate) fn record(&self, scale: &str, place: &Place, kept: &[(Row, Finished)]) -> Result<Run, Error> {
        let heads = || kept.iter().map(|(_, done)| &done.head);
        // Of a resumed run the rows may be of several sources: it is as clean as the least of them.
        let dirty = heads().map(|head| head.dirty).chain([place.source.dirty]).reduce(least_clean).flatten();
        let mut seeds: Vec<u64> = kept.iter().flat_map(|(row, _)| row.seeds.clone()).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let reads_data = kept.iter().any(|(row, _)| self.experiment.reads_data(&row.config));
        let rows = kept.iter().map(|(row, done)| RowRecord {
            id: row.id.clone(),
            seeds: row.seeds.clone(),
            git_rev: done.head.git_rev.clone(),
            wall_s: done.head.wall_s,
            config_sha256: row.config_sha256.clone(),
            config: row.config.clone(),
            remarks: done.head.remarks.clone(),
        });
        Ok(Run {
            record: RunRecord {
                schema: SCHEMA,
                item: self.item.id.clone(),
                scale: scale.into(),
                device: place.device.clone(),
                source: Source { dirty, ..place.source.clone() },
                date: provenance::today(),
                dtype: self.experiment.facts(place.device).dtype,
                seeds,
                command: provenance::command(&self.item.id, self.typed, self.data().is_some() && reads_data),
                wall_s: heads().map(|head| head.wall_s).sum(),
                kernels_sha256: place.kernels_sha256.clone(),
                data_sha256: data_read(heads())?,
                rows: rows.collect(),
                files: Default::default(),
            },
            metrics: kept.iter().flat_map(|(_, done)| done.metrics.clone()).collect(),
            curve: kept.iter().flat_map(|(_, done)| done.curve.clone()).collect(),
        })
    }
}

impl Head {
    /// Adds what an earlier process did of the same row.
    fn add(&mut self, part: &Head) {
        self.wall_s += part.wall_s;
        self.dirty = least_clean(self.dirty, part.dirty);
        // A move to another device is remarked on where the run goes on.
        let changed = changed_kernels(&part.kernels_sha256, &self.kernels_sha256);
        let other_kernels = part.device == self.device && !changed.is_empty();
        if other_kernels || part.git_rev != self.git_rev {
            let kernels = if other_kernels {
                format!("other kernels ({})", changed.join(", "))
            } else {
                "the same kernels".into()
            };
            let remark = format!("begun at commit {} with {kernels}", part.git_rev);
            if !self.remarks.contains(&remark) {
                self.remarks.push(remark);
            }
        }
    }
}

/// The worse of two states of a work tree: differing, not known, clean.
fn least_clean(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// The data files that rows have read, each of one hash.
fn data_read<'a>(heads: impl Iterator<Item = &'a Head>) -> Result<BTreeMap<String, String>, Error> {
    let mut read: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for head in heads {
        for (file, hash) in &head.data_sha256 {
            let (first, row) = read.entry(file).or_insert((hash, &head.row));
            if *first != hash {
                let message = format!(
                    "row {} has read {file} with sha256 {}, row {row} with {}",
                    head.row,
                    short(hash),
                    short(first)
                );
                return Err(Error::config(message)
                    .hint("give the data of the rows measured before, or choose another --out folder for today's"));
            }
        }
    }
    Ok(read.into_iter().map(|(file, (hash, _))| (file.into(), hash.into())).collect())
}

/// The first digits of a hash.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// The finished rows that are of today's plan, in its order.
pub(crate) fn kept(place: &Place, state: &State) -> Vec<(Row, Finished)> {
    let finished = |row: &Row| {
        let done = state.rows.iter().rev().find(|done| done.head.row == row.id && same(done, row, place))?;
        Some((row.clone(), done.clone()))
    };
    place.plan.iter().filter_map(finished).collect()
}

/// Where a row was finished, if not at this commit.
fn elsewhere(done: &Finished, source: &Source) -> String {
    if done.head.git_rev == source.git_rev { String::new() } else { format!(", at commit {}", done.head.git_rev) }
}

fn device_id(device: &Device) -> String {
    format!("{}: {}", device.kind, device.name)
}

/// Whether a finished row is what the plan asks for today, made with today's kernels.
pub(crate) fn same(done: &Finished, row: &Row, place: &Place) -> bool {
    same_settings(&done.head, row, place.device)
        && changed_kernels(&done.head.kernels_sha256, &place.kernels_sha256).is_empty()
}

fn same_settings(head: &Head, row: &Row, device: &Device) -> bool {
    head.config_sha256 == row.config_sha256 && head.seeds == row.seeds && head.device == device_id(device)
}

/// A finished row under another id: the same numbers, no time of its own.
fn renamed(mut done: Finished, id: &str) -> Finished {
    done.head.row = id.into();
    done.head.wall_s = 0.0;
    done.metrics.iter_mut().chain(&mut done.curve).for_each(|m| m.row = id.into());
    done
}

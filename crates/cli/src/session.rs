//! One invocation: what is listed, run, recorded and printed.

use crate::args::{Args, Format};
use crate::experiment::Experiment;
use crate::measuring::{End, Place, kept};
use crate::output::{figures, measured, print};
use crate::progress::{duration, say};
use crate::records::{Recorded, find, golden, names};
use crate::runner::resolve;
use crate::state::State;
use crate::{Error, listing, provenance};
use report::paper::Item;
use report::plan::{Plan, Row};
use report::record::Device;
use report::table::{Column, Table, build};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One invocation.
pub(crate) struct Session<'a> {
    pub(crate) experiment: &'a dyn Experiment,
    pub(crate) item: Item,
    plan: Plan,
    pub(crate) args: Args,
    pub(crate) peer: Option<PathBuf>,
    pub(crate) typed: &'a [String],
    pub(crate) started: Instant,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        experiment: &'a dyn Experiment,
        item: Item,
        args: Args,
        peer: Option<PathBuf>,
        typed: &'a [String],
    ) -> Result<Self, Error> {
        let plan = Plan::parse(experiment.plan())?;
        Ok(Session { experiment, item, plan, args, peer, typed, started: Instant::now() })
    }

    pub(crate) fn say(&self, text: &str) {
        if !self.args.quiet {
            say(text);
        }
    }

    pub(crate) fn go(&self, stdout: &mut dyn Write) -> Result<u8, Error> {
        let golden = std::env::current_dir().ok().and_then(|folder| golden(&folder));
        if self.args.list {
            let records = golden.map(|golden| names(&golden, &self.item.id)).transpose()?.unwrap_or_default();
            print(stdout, &listing::list(&self.item, &self.plan, &records)?)?;
            return Ok(0);
        }
        if self.args.recorded {
            return self.print_recorded(golden, stdout);
        }
        let scale = self.args.scale.as_deref().unwrap_or("smoke");
        let rows = self.rows(scale, self.args.rows.as_deref())?;
        if self.args.print_config {
            let json = self.args.format == Format::Json;
            print(stdout, &listing::config(scale, &rows, json)?)?;
            return Ok(0);
        }
        self.run(scale, &rows, golden.as_deref(), stdout)
    }

    fn run(&self, scale: &str, rows: &[Row], golden: Option<&Path>, stdout: &mut dyn Write) -> Result<u8, Error> {
        let threads = self.args.threads.map_or_else(cores, usize::from);
        let device = self.experiment.device(self.args.device, threads)?;
        let out = self.args.out.clone().unwrap_or_else(|| PathBuf::from(format!("out/{}.{scale}", self.item.id)));
        let recorded = self.recorded_beside(golden);
        self.say(&format!(
            "{} at scale {scale}: {} rows on {} ({}), {threads} threads",
            self.item.id,
            rows.len(),
            device.name,
            device.kind
        ));
        let (skipped, todo) = self.skip(rows, &device);
        let (mut state, old) = State::open(&out, self.args.resume)?;
        if let Some(old) = old {
            let old = old.file_name().unwrap_or_default().display();
            self.say(&format!(
                "the rows of an earlier run are set aside in {old}; to keep them, name it state.jsonl and give --resume"
            ));
        }
        let (source, plan) = (provenance::source(), self.rows(scale, None)?);
        let kernels_sha256 = self.experiment.facts(&device).kernels_sha256;
        let place = Place { device: &device, threads, out: &out, source, kernels_sha256, plan: &plan };
        if let Some(cost) = self.cost(scale, &todo, &place, &state, golden) {
            self.say(&cost);
        }
        let end = self.measure_all(&todo, &place, &mut state);
        // Whatever ended the measuring, what is finished becomes a record.
        let kept = kept(&place, &state);
        let measured = measured(&self.item, kept.iter().map(|(_, done)| done));
        report::record::write(&out, self.record(scale, &place, &kept)?)?;
        figures(&out, &self.item, &measured)?;
        let end = end?;

        let mut shown: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        shown.extend(kept.iter().map(|(row, _)| row.id.clone()));
        let run = Column { measured: &measured, scale, device: &device.kind, hardware: &device.name, stale: None };
        let table = self.table(shown, recorded.as_ref(), Some(run));
        print(stdout, &table.render(self.args.format.into()))?;
        self.say(&format!("files: {}", out.display()));
        self.hint(recorded.as_ref());
        match end {
            End::Done if skipped.is_empty() => Ok(u8::from(table.is_off())),
            End::Done => Err(Error::skipped(&skipped, &device.kind)),
            End::Stopped => {
                let left = todo.iter().filter(|row| !kept.iter().any(|(done, _)| done.id == row.id)).count();
                let plural = if left == 1 { "row is" } else { "rows are" };
                Err(Error::stopped().hint(format!("{left} {plural} left; the same command with --resume goes on")))
            }
        }
    }

    /// The rows that the device does not run, each told of in a line, and the others.
    fn skip<'r>(&self, rows: &'r [Row], device: &Device) -> (Vec<&'r str>, Vec<Row>) {
        let (mut skipped, mut todo) = (Vec::new(), Vec::new());
        for row in rows {
            match self.experiment.runs_on(&row.config, device) {
                Ok(()) => todo.push(row.clone()),
                Err(e) => {
                    let remedy = e.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                    self.say(&format!("{} is skipped: {}{remedy}", row.id, e.message));
                    skipped.push(row.id.as_str());
                }
            }
        }
        (skipped, todo)
    }

    /// The plan's rows with the seeds asked for.
    fn rows(&self, scale: &str, only: Option<&[String]>) -> Result<Vec<Row>, Error> {
        let mut rows = resolve(self.experiment, &self.item, &self.plan, scale, only)?;
        if let Some(seeds) = &self.args.seeds {
            if !self.experiment.seeded() {
                let message = format!("{} has times and no seeds", self.item.id);
                return Err(
                    Error::config(message).hint("leave out --seeds; a row's times are over its own repetitions")
                );
            }
            rows.iter_mut().for_each(|row| row.seeds.clone_from(seeds));
        }
        Ok(rows)
    }

    fn print_recorded(&self, golden: Option<PathBuf>, stdout: &mut dyn Write) -> Result<u8, Error> {
        let nowhere =
            || Error::config("there is no golden/records folder here or above").hint("run it inside the repository");
        let golden = golden.ok_or_else(nowhere)?;
        let found = find(&golden, &self.item, self.args.scale.as_deref(), self.args.device.kind())?;
        let Some(recorded) = found else {
            let have = names(&golden, &self.item.id)?.join(", ");
            let have = if have.is_empty() { "none".into() } else { have };
            let message = format!("there is no such record of {}; recorded: {have}", self.item.id);
            return Err(Error::config(message).hint("without --recorded it runs here"));
        };
        let rows = self.args.rows.clone().unwrap_or_default();
        if let Some(row) = rows.iter().find(|row| !recorded.measured.has_row(row)) {
            return Err(Error::config(format!("the record has no row {row}")).hint("--list shows the rows"));
        }
        let table = self.table(Vec::new(), Some(&recorded), None);
        print(stdout, &table.render(self.args.format.into()))?;
        self.hint(Some(&recorded));
        Ok(u8::from(table.is_off()))
    }

    /// The record to print beside a run. A broken one is said and left out: it is no reason not to run.
    fn recorded_beside(&self, golden: Option<&Path>) -> Option<Recorded> {
        let Some(golden) = golden else {
            self.say("no golden/records folder here or above: nothing recorded to compare with");
            return None;
        };
        find(golden, &self.item, None, None).unwrap_or_else(|e| {
            self.say(&format!("warning: {e}; the recorded column is left out"));
            None
        })
    }

    /// The table of the rows named and of those recorded; with `--rows`, of those rows and no other.
    fn table(&self, mut shown: Vec<String>, recorded: Option<&Recorded>, run: Option<Column>) -> Table {
        let column = recorded.map(|r| Column {
            measured: &r.measured,
            scale: &r.run.record.scale,
            device: &r.run.record.device.kind,
            hardware: &r.run.record.device.name,
            stale: r.stale.as_deref(),
        });
        let rows = recorded.iter().flat_map(|recorded| &recorded.run.record.rows);
        shown.extend(rows.map(|row| row.id.clone()));
        shown.extend(self.item.derived_rows().map(String::from));
        let mut table = build(&self.item, &shown, column, run);
        if let Some(only) = &self.args.rows {
            table.lines.retain(|line| only.contains(&line.row));
        }
        table
    }

    /// The command behind the recorded column and what it costs.
    fn hint(&self, recorded: Option<&Recorded>) {
        match recorded.map(|recorded| &recorded.run.record) {
            Some(record) => self.say(&format!(
                "hint: the recorded values took {} on {}: {}",
                duration(record.wall_s),
                record.device.name,
                record.command
            )),
            None => self.say("hint: nothing is recorded for this item yet; --list shows the scales that can be run"),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

//! Golden snapshots: smoke metrics, tables, figures and help texts, and the recorded runs.
//!
//! Texts are compared exactly, metrics value by value within the widths of `widths.toml`. A snapshot that is missing
//! fails, one that no test claims fails too. They change only by `cargo xtask golden accept --because "..."`.

use std::collections::BTreeMap;

use insta::Comparator;
use insta::internals::SnapshotContents;
use report::measured::Metric;
use report::paper::Item;
use serde::Deserialize;

/// The folder of snapshots.
pub const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots");

/// The names of an item's snapshot files.
pub fn snapshots_of(item: &Item) -> Vec<String> {
    let mut parts: Vec<String> =
        ["metrics", "verdicts", "table.txt", "table.md", "table.json", "table.csv"].map(|n| format!(".{n}")).to_vec();
    parts.extend(["--help".into(), "--list".into()]);
    for spec in &item.figures {
        parts.extend(["svg", "csv"].map(|kind| format!(".{}.{kind}", spec.id)));
    }
    parts.iter().map(|part| format!("{}{part}.snap", item.id)).collect()
}

/// The last step that `first_steps` widths hold for.
pub const FIRST_STEPS: u64 = 20;

/// The names of a record's snapshot files; none for an item that is not the paper's.
pub fn record_snapshots_of(name: &str, item: &str) -> Vec<String> {
    let Ok(item) = report::paper::item(item) else { return Vec::new() };
    let figures = item.figures.iter().map(|spec| format!("{}.svg", spec.id));
    let parts = ["txt", "verdicts"].map(String::from).into_iter().chain(figures);
    parts.map(|part| format!("record.{name}.{part}.snap")).collect()
}

/// How far a value may be from its golden: `abs + rel * |golden|`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Width {
    /// Relative part.
    pub rel: f64,
    /// Absolute part.
    pub abs: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Widths {
    rel: f64,
    abs: f64,
    first_steps: Option<Width>,
    left_out: Option<LeftOut>,
}

/// What of a metric is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LeftOut {
    /// All: wall times, and what they decide.
    All,
    /// Everything after the first steps.
    Later,
}

/// Compares snapshots of `row,seed,step,metric,value` lines within widths.
#[derive(Debug, Clone)]
pub struct Tolerance(BTreeMap<String, Widths>);

impl Tolerance {
    /// The widths of a toml text: a table per metric.
    ///
    /// # Errors
    /// An unknown key or a wrong type, named.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text).map(Self)
    }

    /// The width of a metric at a step; zero for a metric without one.
    pub fn width(&self, metric: &str, step: u64) -> Width {
        let Some(widths) = self.0.get(metric) else { return Width::default() };
        match widths.first_steps {
            Some(first) if step <= FIRST_STEPS => first,
            _ => Width { rel: widths.rel, abs: widths.abs },
        }
    }

    /// Whether nothing of a metric is compared.
    pub fn leaves_out(&self, metric: &str) -> bool {
        self.0.get(metric).is_some_and(|widths| widths.left_out == Some(LeftOut::All))
    }

    /// What of a run is compared: last values, and the curves of the first steps where a width is given for them.
    pub fn compared(&self, metrics: &[Metric], curve: &[Metric]) -> Vec<Metric> {
        let left_out = |m: &Metric| self.0.get(&m.metric).and_then(|widths| widths.left_out);
        let first = |m: &Metric| self.0.get(&m.metric).is_some_and(|widths| widths.first_steps.is_some());
        let last = metrics.iter().filter(|m| left_out(m).is_none());
        let firsts = curve.iter().filter(|m| m.step <= FIRST_STEPS && first(m) && left_out(m) != Some(LeftOut::All));
        last.chain(firsts).cloned().collect()
    }

    /// Every way in which `found` is not `golden`: values outside of their width, values too many or too few.
    pub fn differences(&self, golden: &[Metric], found: &[Metric]) -> Vec<String> {
        let key = |m: &Metric| (m.row.clone(), m.seed, m.metric.clone(), self.step_key(m));
        let golden: BTreeMap<_, _> = golden.iter().map(|m| (key(m), m)).collect();
        let found: BTreeMap<_, _> = found.iter().map(|m| (key(m), m)).collect();
        let name = |m: &Metric| format!("{} of {}, seed {}, step {}", m.metric, m.row, m.seed, m.step);
        let mut all: Vec<String> = Vec::new();
        all.extend(
            golden.iter().filter(|(k, _)| !found.contains_key(k)).map(|(_, m)| format!("{} is missing", name(m))),
        );
        all.extend(found.iter().filter(|(k, _)| !golden.contains_key(k)).map(|(_, m)| format!("{} is new", name(m))));
        for (want, have) in golden.iter().filter_map(|(k, want)| Some((want, found.get(k)?))) {
            let width = self.width(&want.metric, want.step);
            let allowed = width.abs + width.rel * want.value.abs();
            let apart = (want.value - have.value).abs();
            let same = want.value == have.value || (want.value.is_nan() && have.value.is_nan());
            if !same && (apart.is_nan() || apart > allowed) {
                all.push(format!("{} is {}, golden {} within {allowed:.3e}", name(want), have.value, want.value));
            }
        }
        all
    }

    /// What identifies a value beside row, seed and metric. Where training decides at which step it ends, the step of
    /// a last value is free; of the first steps it is fixed.
    fn step_key(&self, m: &Metric) -> Option<u64> {
        (m.step <= FIRST_STEPS).then_some(m.step)
    }
}

impl Comparator for Tolerance {
    fn matches(&self, reference: &insta::Snapshot, test: &insta::Snapshot) -> bool {
        let parse = |contents: &SnapshotContents| match contents {
            SnapshotContents::Text(text) => {
                report::record::from_csv(format!("{}\n", text.to_string().trim()).as_bytes())
            }
            SnapshotContents::Binary(_) => Err("a metrics snapshot is text".into()),
        };
        match (parse(reference.contents()), parse(test.contents())) {
            (Ok(golden), Ok(found)) => {
                let differences = self.differences(&golden, &found);
                differences.iter().for_each(|d| eprintln!("golden: {d}"));
                differences.is_empty()
            }
            (golden, found) => {
                eprintln!("golden: {:?} {:?}", golden.err(), found.err());
                false
            }
        }
    }

    fn dyn_clone(&self) -> Box<dyn Comparator> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(metric: &str, step: u64, value: f64) -> Metric {
        Metric { row: "a".into(), seed: 0, step, metric: metric.into(), value }
    }

    fn tolerance() -> Tolerance {
        Tolerance::parse("[loss]\nrel = 0.1\nfirst_steps = { rel = 1e-5 }\n[accuracy]\nabs = 0.2\n").unwrap()
    }

    #[test]
    fn a_value_may_move_within_its_width_and_no_further() {
        for (name, step, golden, found, ok) in [
            ("loss", 100, 1.0, 1.09, true),
            ("loss", 100, 1.0, 1.11, false),
            ("loss", 5, 1.0, 1.000_009, true),
            ("loss", 5, 1.0, 1.000_02, false),
            ("accuracy", 100, 0.5, 0.69, true),
            ("accuracy", 100, 0.5, f64::NAN, false),
            ("accuracy", 100, f64::NAN, f64::NAN, true),
            ("other", 100, 1.0, 1.0, true),
            ("other", 100, 1.0, 1.000_000_1, false),
        ] {
            let differences = tolerance().differences(&[metric(name, step, golden)], &[metric(name, step, found)]);
            assert_eq!(differences.is_empty(), ok, "{name} {golden} {found}: {differences:?}");
        }
    }

    #[test]
    fn a_value_too_many_or_too_few_is_named() {
        let (a, b) = (metric("loss", 5, 1.0), metric("accuracy", 5, 1.0));
        let missing = tolerance().differences(&[a.clone(), b.clone()], std::slice::from_ref(&a));
        assert_eq!(missing, ["accuracy of a, seed 0, step 5 is missing"]);
        assert_eq!(
            tolerance().differences(std::slice::from_ref(&a), &[a.clone(), b]),
            ["accuracy of a, seed 0, step 5 is new"]
        );
    }

    #[test]
    fn wall_times_and_late_losses_are_left_out() {
        let widths = "[time]\nleft_out = \"all\"\n[train_loss]\nfirst_steps = { rel = 1e-4 }\nleft_out = \"later\"\n";
        let run = |name: &str, step| metric(name, step, 1.0);
        let last = [run("time", 9), run("loss", 90), run("train_loss", 90)];
        let curve = [run("train_loss", 1), run("train_loss", 21), run("loss", 1), run("time", 1)];
        let compared = Tolerance::parse(widths).unwrap().compared(&last, &curve);
        assert_eq!(compared, [run("loss", 90), run("train_loss", 1)]);
    }

    #[test]
    fn widths_are_typed() {
        assert!(Tolerance::parse("[loss]\nrle = 0.1\n").is_err());
    }
}

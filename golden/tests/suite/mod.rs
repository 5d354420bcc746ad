//! What every item's golden tests share: the smoke run, its metrics, verdicts, tables, figures and texts.

use std::collections::BTreeMap;
use std::path::Path;

use cli::Experiment;
use golden::{SNAPSHOTS, Tolerance};
use insta::Settings;
use report::claim::judge_all;
use report::figure;
use report::measured::{Measured, Metric};
use report::paper::{self, Item};
use report::record::{from_csv, to_csv};
use report::table::{self, Column, Format};

const WIDTHS: &str = include_str!("../../widths.toml");

pub(crate) fn item(experiment: &dyn Experiment) -> Item {
    paper::item(experiment.item()).unwrap()
}

/// What `cargo run -p reproduce-<item>` measures, as far as `widths.toml` compares it.
pub(crate) fn smoke(experiment: &dyn Experiment) -> Vec<Metric> {
    let out = tempfile::tempdir().unwrap();
    let flags = ["--out", out.path().to_str().unwrap(), "-q"].map(String::from);
    let mut stdout = Vec::new();
    let code = cli::run_with(experiment, &flags, &mut stdout);
    assert!(code <= 1, "exit code {code}: {}", String::from_utf8_lossy(&stdout));
    let read = |file: &str| {
        let path = out.path().join(file);
        if path.exists() { from_csv(&std::fs::read(path).unwrap()).unwrap() } else { Vec::new() }
    };
    Tolerance::parse(WIDTHS).unwrap().compared(&read("metrics.csv"), &read("curve.csv"))
}

/// The golden metrics, which tables and figures are rendered from: they must not move with the last bit of a run.
pub(crate) fn golden_metrics(experiment: &dyn Experiment) -> Vec<Metric> {
    let path = Path::new(SNAPSHOTS).join(format!("{}.metrics.snap", experiment.item()));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; accept the goldens", path.display()));
    let body = text.splitn(3, "---\n").nth(2).unwrap();
    from_csv(format!("{}\n", body.trim()).as_bytes()).unwrap()
}

pub(crate) fn settings() -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

pub(crate) fn metrics_are_within_their_widths(experiment: &dyn Experiment, smoke: &[Metric]) {
    let mut settings = settings();
    settings.set_comparator(Box::new(Tolerance::parse(WIDTHS).unwrap()));
    settings.bind(|| insta::assert_snapshot!(format!("{}.metrics", experiment.item()), to_csv(smoke)));
}

pub(crate) fn verdicts_are_exact(experiment: &dyn Experiment, smoke: &[Metric]) {
    let item = item(experiment);
    let judged = judge_all(&item, &Measured::of(&item, smoke), "smoke", "cpu");
    let lines: BTreeMap<_, _> = judged.into_iter().map(|j| (j.id.clone(), j.verdict.word())).collect();
    let text: String = lines.into_iter().map(|(id, word)| format!("{id}: {word}\n")).collect();
    settings().bind(|| insta::assert_snapshot!(format!("{}.verdicts", item.id), text));
}

pub(crate) fn tables_and_figures_render_from_the_golden_metrics(experiment: &dyn Experiment) {
    let (item, metrics) = (item(experiment), golden_metrics(experiment));
    let measured = Measured::of(&item, &metrics);
    let mut rows: Vec<String> = metrics.iter().map(|m| m.row.clone()).collect();
    rows.dedup();
    rows.extend(item.derived_rows().map(String::from));
    let run = || Column { measured: &measured, scale: "smoke", device: "cpu", hardware: "golden", stale: None };
    let table = table::build(&item, &rows, None, Some(run()));
    settings().bind(|| {
        for (name, format) in
            [("txt", Format::Text), ("md", Format::Markdown), ("json", Format::Json), ("csv", Format::Csv)]
        {
            insta::assert_snapshot!(format!("{}.table.{name}", item.id), table.render(format));
        }
        for spec in &item.figures {
            let figure = figure::build(&item, spec, &measured);
            insta::assert_snapshot!(format!("{}.{}.svg", item.id, spec.id), figure.svg().unwrap());
            insta::assert_snapshot!(format!("{}.{}.csv", item.id, spec.id), figure.csv());
        }
    });
}

pub(crate) fn help_and_list(experiment: &dyn Experiment) {
    for flag in ["--help", "--list"] {
        let mut stdout = Vec::new();
        assert_eq!(cli::run_with(experiment, &[flag.into()], &mut stdout), 0);
        let text = String::from_utf8(stdout).unwrap();
        settings().bind(|| insta::assert_snapshot!(format!("{}{flag}", experiment.item()), text));
    }
}

/// The tests of an item: its smoke run, made once, and everything rendered from it.
#[macro_export]
macro_rules! golden_item {
    ($experiment:expr) => {
        fn smoke() -> &'static [report::measured::Metric] {
            static METRICS: std::sync::OnceLock<Vec<report::measured::Metric>> = std::sync::OnceLock::new();
            METRICS.get_or_init(|| suite::smoke(&$experiment))
        }

        #[test]
        fn metrics_are_within_their_widths() {
            suite::metrics_are_within_their_widths(&$experiment, smoke());
        }

        #[test]
        fn verdicts_are_exact() {
            suite::verdicts_are_exact(&$experiment, smoke());
        }

        #[test]
        fn tables_and_figures_render_from_the_golden_metrics() {
            suite::tables_and_figures_render_from_the_golden_metrics(&$experiment);
        }

        #[test]
        fn help_and_list() {
            suite::help_and_list(&$experiment);
        }

        #[test]
        fn every_row_resolves_at_every_scale() {
            cli::check(&$experiment).unwrap();
        }
    };
}

//! The recall figure at scale smoke: its metrics, verdicts, tables, figures and texts against the goldens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use cli::Experiment;
use golden::{FIRST_STEPS, Tolerance};
use insta::Settings;
use report::claim::judge_all;
use report::figure;
use report::measured::{Measured, Metric};
use report::paper::{self, Item};
use report::record::{from_csv, to_csv};
use report::table::{self, Column, Format};

const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots");

fn item() -> Item {
    paper::item("figure-recall").unwrap()
}

/// What `cargo run -p reproduce-figure-recall` measures: run once for all tests of this file.
fn smoke() -> &'static [Metric] {
    static METRICS: OnceLock<Vec<Metric>> = OnceLock::new();
    METRICS.get_or_init(|| {
        let out = tempfile::tempdir().unwrap();
        let flags = ["--out", out.path().to_str().unwrap(), "-q"].map(String::from);
        let mut stdout = Vec::new();
        let code = cli::run_with(&recall::Figure, &flags, &mut stdout);
        assert!(code <= 1, "exit code {code}: {}", String::from_utf8_lossy(&stdout));
        let read = |file: &str| from_csv(&std::fs::read(out.path().join(file)).unwrap()).unwrap();
        let first_losses = read("curve.csv").into_iter().filter(|m| m.metric == "train_loss" && m.step <= FIRST_STEPS);
        let kept = ["accuracy", "loss", "initial_loss", "initial_grad_norm"];
        let last = read("metrics.csv").into_iter().filter(|m| kept.contains(&m.metric.as_str()));
        last.chain(first_losses).collect()
    })
}

/// The golden metrics, which tables and figures are rendered from: they must not move with the last bit of a run.
fn golden_metrics() -> Vec<Metric> {
    let path = Path::new(SNAPSHOTS).join("figure-recall.metrics.snap");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; accept the goldens", path.display()));
    let body = text.splitn(3, "---\n").nth(2).unwrap();
    from_csv(format!("{}\n", body.trim()).as_bytes()).unwrap()
}

fn settings() -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

fn verdicts(metrics: &[Metric]) -> String {
    let judged = judge_all(&item(), &Measured::new(metrics), "smoke", "cpu");
    let lines: BTreeMap<_, _> = judged.into_iter().map(|j| (j.id.clone(), j.verdict.word())).collect();
    lines.into_iter().map(|(id, word)| format!("{id}: {word}\n")).collect()
}

#[test]
fn metrics_are_within_their_widths() {
    let mut settings = settings();
    settings.set_comparator(Box::new(Tolerance::parse(include_str!("../widths.toml")).unwrap()));
    settings.bind(|| insta::assert_snapshot!("figure-recall.metrics", to_csv(smoke())));
}

#[test]
fn verdicts_are_exact() {
    settings().bind(|| insta::assert_snapshot!("figure-recall.verdicts", verdicts(smoke())));
}

#[test]
fn tables_and_figures_render_from_the_golden_metrics() {
    let (item, metrics) = (item(), golden_metrics());
    let measured = Measured::new(&metrics);
    let mut rows: Vec<String> = metrics.iter().map(|m| m.row.clone()).collect();
    rows.dedup();
    let run = || Column { measured: &measured, scale: "smoke", device: "cpu", hardware: "golden", stale: None };
    let table = table::build(&item, &rows, None, Some(run()));
    settings().bind(|| {
        for (name, format) in
            [("txt", Format::Text), ("md", Format::Markdown), ("json", Format::Json), ("csv", Format::Csv)]
        {
            insta::assert_snapshot!(format!("figure-recall.table.{name}"), table.render(format));
        }
        for spec in &item.figures {
            let figure = figure::build(&item, spec, &measured);
            insta::assert_snapshot!(format!("figure-recall.{}.svg", spec.id), figure.svg().unwrap());
            insta::assert_snapshot!(format!("figure-recall.{}.csv", spec.id), figure.csv());
        }
    });
}

#[test]
fn help_and_list() {
    for flag in ["--help", "--list"] {
        let mut stdout = Vec::new();
        assert_eq!(cli::run_with(&recall::Figure, &[flag.into()], &mut stdout), 0);
        let text = String::from_utf8(stdout).unwrap();
        settings().bind(|| insta::assert_snapshot!(format!("figure-recall{flag}"), text));
    }
}

#[test]
fn every_row_resolves_at_every_scale() {
    cli::check(&recall::Figure).unwrap();
    assert_eq!(recall::Figure.item(), "figure-recall");
}

/// Seeds run side by side or with several threads each: a run has the same bits at any number of threads.
#[test]
fn a_row_has_the_same_bits_at_1_2_and_4_threads() {
    let mut runs = Vec::new();
    for threads in ["1", "2", "4"] {
        let out = tempfile::tempdir().unwrap();
        let flags = ["--rows", "varkey.lowrank", "--seeds", "1", "--threads", threads, "-q", "--out"];
        let flags: Vec<String> = flags.into_iter().chain(out.path().to_str()).map(String::from).collect();
        assert!(cli::run_with(&recall::Figure, &flags, &mut Vec::new()) <= 1);
        runs.push(["metrics.csv", "curve.csv"].map(|file| std::fs::read(out.path().join(file)).unwrap()));
    }
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Every file under snapshots is one that a test above claims.
#[test]
fn no_snapshot_is_an_orphan() {
    let mut claimed: Vec<String> =
        ["metrics", "verdicts", "table.txt", "table.md", "table.json", "table.csv"].map(|n| format!(".{n}")).to_vec();
    claimed.extend(["--help".into(), "--list".into()]);
    for spec in &item().figures {
        claimed.extend(["svg", "csv"].map(|kind| format!(".{}.{kind}", spec.id)));
    }
    let claimed: Vec<String> = claimed.iter().map(|name| format!("figure-recall{name}.snap")).collect();
    for entry in std::fs::read_dir(SNAPSHOTS).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(claimed.contains(&name), "golden/snapshots/{name} belongs to no test: remove it");
    }
}

//! The recorded runs: whole, of today's plan or named stale, and rendered as they were when they were accepted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cli::Experiment;
use golden::{SNAPSHOTS, record_snapshots_of};
use insta::Settings;
use lm_scaling::Table;
use report::claim::judge_all;
use report::measured::Measured;
use report::paper;
use report::plan::Plan;
use report::record::{Run, changed_kernels, read};
use report::table::{Column, Format, build};

const GOLDEN: &str = env!("CARGO_MANIFEST_DIR");

/// Every experiment whose runs may be recorded.
fn experiments() -> Vec<Box<dyn Experiment>> {
    vec![
        Box::new(recall::Figure),
        Box::new(kernel_throughput::Table::default()),
        Box::new(Table::one(&[linear_rnn::probe, moe::probe])),
        Box::new(Table::three()),
        Box::new(Table::scaling()),
        Box::new(Table::nanogpt()),
        Box::new(step_throughput::Table::default()),
    ]
}

/// The records by name, `<item>.<scale>.<device>`.
fn records() -> BTreeMap<String, Run> {
    let folder = Path::new(GOLDEN).join("records");
    let Ok(entries) = std::fs::read_dir(&folder) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.map(|path| (name(&path), read(&path).unwrap_or_else(|e| panic!("{e}")))).collect()
}

/// The reasons of `golden/stale.toml`.
fn stale() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(Path::new(GOLDEN).join("stale.toml")).unwrap_or_default();
    let mut file: BTreeMap<String, BTreeMap<String, String>> = toml::from_str(&text).unwrap();
    file.remove("stale").unwrap_or_default()
}

#[test]
fn a_record_is_named_after_what_it_holds() {
    for (name, Run { record, .. }) in records() {
        let parts: Vec<&str> = name.split('.').collect();
        assert_eq!(parts[..2], [record.item.as_str(), record.scale.as_str()], "{name}");
        assert_eq!(parts.len(), 3, "{name}: <item>.<scale>.<device>");
        assert_eq!(record.source.dirty, Some(false), "{name} was measured on a tree that no commit holds");
    }
}

/// A row that today's plan configures otherwise, or GPU kernels that have changed since, need a reason in stale.toml;
/// and a reason needs a record.
#[test]
fn a_record_is_of_todays_plan_and_kernels_or_named_stale() {
    let (records, stale) = (records(), stale());
    for name in stale.keys() {
        assert!(records.contains_key(name), "golden/stale.toml names {name}, which is not recorded");
    }
    for experiment in experiments() {
        let plan = Plan::parse(experiment.plan()).unwrap();
        let of_item = records.iter().filter(|(_, run)| run.record.item == experiment.item());
        for (name, Run { record, .. }) in of_item.filter(|(name, _)| !stale.contains_key(*name)) {
            let today = plan.resolve(&record.scale, None).unwrap();
            for row in &record.rows {
                let same = today.iter().any(|t| t.id == row.id && t.config_sha256 == row.config_sha256);
                assert!(same, "{name}: row {} is not today's; run it again or say why in golden/stale.toml", row.id);
            }
            let changed = changed_kernels(&record.kernels_sha256, &experiment.facts(&record.device).kernels_sha256);
            assert!(changed.is_empty(), "{name}: {changed:?} have changed; say why in golden/stale.toml");
        }
    }
}

#[test]
fn records_render_as_accepted() {
    let stale = stale();
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (name, Run { record, metrics, .. }) in records() {
        let Ok(item) = paper::item(&record.item) else { continue };
        let measured = Measured::of(&item, &metrics);
        let rows = record.rows.iter().map(|row| row.id.as_str()).chain(item.derived_rows());
        let rows: Vec<String> = rows.map(String::from).collect();
        let (scale, device, hardware) = (&record.scale, &record.device.kind, &record.device.name);
        let stale = stale.get(&name).map(String::as_str);
        let table = build(&item, &rows, Some(Column { measured: &measured, scale, device, hardware, stale }), None);
        let judged = judge_all(&item, &measured, scale, device);
        let verdicts: String = judged.iter().map(|j| format!("{}: {}\n", j.id, j.verdict.word())).collect();
        settings.bind(|| {
            insta::assert_snapshot!(format!("record.{name}.txt"), table.render(Format::Text));
            insta::assert_snapshot!(format!("record.{name}.verdicts"), verdicts);
            for spec in &item.figures {
                let figure = report::figure::build(&item, spec, &measured);
                insta::assert_snapshot!(format!("record.{name}.{}.svg", spec.id), figure.svg().unwrap());
            }
        });
    }
}

#[test]
fn no_record_snapshot_is_an_orphan() {
    let claimed: Vec<String> =
        records().iter().flat_map(|(name, run)| record_snapshots_of(name, &run.record.item)).collect();
    for entry in std::fs::read_dir(SNAPSHOTS).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let known = !name.starts_with("record.") || claimed.contains(&name);
        assert!(known, "golden/snapshots/{name} belongs to no record: remove it");
    }
}

use super::*;
use crate::measured;
use crate::paper;

/// Values by row: one per seed from 0.
fn values(metric: &str, cells: &[(&str, &[f64])]) -> Vec<measured::Metric> {
    let mut metrics = Vec::new();
    for (row, values) in cells {
        for (seed, &value) in values.iter().enumerate() {
            let (row, metric) = (row.to_string(), metric.to_string());
            metrics.push(measured::Metric { row, seed: seed as u64, step: 100, metric, value });
        }
    }
    metrics
}

fn recall() -> Table {
    let item = paper::item("figure-recall").unwrap();
    let mut run = values(
        "accuracy",
        &[
            ("varkey.none", &[0.118, 0.104, 0.121]),
            ("varkey.static", &[0.412, 0.398, 0.441]),
            ("varkey.headwise", &[0.998, 0.310, 1.0]),
            ("varkey.lowrank", &[0.999, 1.0, 0.997]),
            ("compositional.static", &[1.0, 1.0, 0.998]),
            ("compositional.headwise", &[1.0, f64::NAN, 1.0]),
        ],
    );
    run.extend(values("loss", &[("varkey.none", &[2.1, 2.2, 2.3])]));
    let recorded = values(
        "accuracy",
        &[("mad-fuzzy.none", &[0.30, 0.31, 0.29, 0.30, 0.33]), ("mad-fuzzy.lowrank", &[0.71, 0.74, 0.70, 0.72, 0.73])],
    );
    let (run, recorded) = (Measured::new(&run), Measured::new(&recorded));
    let rows: Vec<String> = ["varkey", "compositional", "mad-fuzzy"]
        .iter()
        .flat_map(|task| ["none", "static", "headwise", "lowrank"].map(|v| format!("{task}.{v}")))
        .collect();
    build(
        &item,
        &rows,
        Some(Column {
            measured: &recorded,
            scale: "small",
            device: "cuda",
            hardware: "NVIDIA H100 80GB HBM3",
            stale: Some("the kernels changed"),
        }),
        Some(Column { measured: &run, scale: "smoke", device: "cpu", hardware: "cpu", stale: None }),
    )
}

#[test]
fn snapshots_of_every_format() {
    let table = recall();
    insta::assert_snapshot!("recall.txt", table.render(Format::Text));
    insta::assert_snapshot!("recall.md", table.render(Format::Markdown));
    insta::assert_snapshot!("recall.json", table.render(Format::Json));
    insta::assert_snapshot!("recall.csv", table.render(Format::Csv));
}

#[test]
fn several_metrics_per_row() {
    let item = paper::item("table-1").unwrap();
    let rows: Vec<String> = item.rows().map(|row| row.id.clone()).collect();
    let mut run = values("ppl", &[("dense-300m.none", &[19.2, 19.3, 19.25])]);
    run.extend(values("params", &[("dense-300m.none", &[305.17])]));
    let run = Measured::new(&run);
    let column =
        Column { measured: &run, scale: "paper", device: "cuda", hardware: "NVIDIA H100 80GB HBM3", stale: None };
    insta::assert_snapshot!("table-1.txt", build(&item, &rows, None, Some(column)).render(Format::Text));
}

/// Every item, filled as widely as it can be, stays within 100 columns.
#[test]
fn a_page_is_100_columns() {
    for (id, ..) in paper::EMBEDDED {
        let item = paper::item(id).unwrap();
        let rows: Vec<String> = item.rows().map(|row| row.id.clone()).collect();
        let mut all = Vec::new();
        for metric in &item.metrics {
            let number = |row: &Row| item.number(&row.id, &metric.id).and_then(|n| n.value).unwrap_or(0.1);
            for row in item.rows().filter(|row| !row.paper_only) {
                let value = number(row);
                all.extend(values(&metric.id, &[(row.id.as_str(), &[value, value * 1.01, value * 1.02])]));
            }
        }
        let measured = Measured::new(&all);
        let recorded = Column {
            measured: &measured,
            scale: "small",
            device: "cuda",
            hardware: "NVIDIA H100 80GB HBM3",
            stale: Some("why"),
        };
        let run = Column { stale: None, ..recorded };
        let text = build(&item, &rows, Some(recorded), Some(run)).render(Format::Text);
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{id}: {} columns: {line}", line.chars().count());
            assert_eq!(line, line.trim_end(), "{id}");
        }
    }
}

#[test]
fn a_row_has_the_verdict_of_the_claims_about_it() {
    let table = recall();
    let of = |row: &str| table.lines.iter().find(|line| line.row == row).and_then(|line| line.verdict);
    assert_eq!(of("varkey.lowrank"), Some(Verdict::Ok));
    assert_eq!(of("varkey.headwise"), Some(Verdict::Off));
    assert_eq!(of("varkey.static"), Some(Verdict::Ok), "it beats no convolution, although head-wise fails to beat it");
    assert_eq!(of("varkey.none"), None, "last in every order: no claim is about it");
    assert_eq!(of("compositional.lowrank"), Some(Verdict::Skip), "not run");
    assert_eq!(of("compositional.none"), None, "no claim is about it");
    assert!(table.is_off());
}

/// The level of the test is told once, and only where a claim was judged by it.
#[test]
fn the_level_of_the_test_is_told_once() {
    for format in [Format::Text, Format::Markdown] {
        assert_eq!(recall().render(format).matches("p <= 0.125").count(), 1);
    }
    let item = paper::item("table-2").unwrap();
    let run = Measured::new(&values("fwd_bwd", &[("headwise-1", &[0.3])]));
    let column = Column { measured: &run, scale: "small", device: "cuda", hardware: "", stale: None };
    let rows = ["headwise-1".to_string()];
    assert!(!build(&item, &rows, None, Some(column)).render(Format::Text).contains("p <= 0.125"));
}

#[test]
fn without_values_the_papers_rows_remain() {
    let item = paper::item("table-2").unwrap();
    let rows: Vec<String> = item.rows().map(|row| row.id.clone()).collect();
    let table = build(&item, &rows, None, None);
    assert!(table.claims.is_empty() && !table.is_off());
    let text = table.render(Format::Text);
    assert!(text.contains("0.382 V") && !text.contains("this run"), "{text}");
}

#[test]
fn json_has_the_documented_shape() {
    let json: serde_json::Value = serde_json::from_str(&recall().render(Format::Json)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["claims", "device", "item", "rows", "scale"]);
    assert_eq!(keys(&json["rows"][0]), ["id", "metric", "paper", "recorded", "run"]);
    assert_eq!(keys(&json["rows"][0]["run"]), ["max", "median", "min", "seeds", "solved"]);
    assert_eq!(keys(&json["claims"][0]), ["detail", "id", "kind", "verdict"]);
}

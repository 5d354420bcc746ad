use super::*;
use crate::paper;

/// Points of `E + A C^-alpha` at compute `gain * C`, with a relative error per point.
fn curve(gain: f64, error: impl Fn(usize) -> f64) -> Vec<Point> {
    let compute = |i: usize| 1e17 * 3.0_f64.powi(i as i32);
    let loss = |i: usize| (1.8 + 900.0 * (gain * compute(i)).powf(-0.16)) * (1.0 + error(i));
    (0..7).map(|i| Point { compute: compute(i), loss: loss(i) }).collect()
}

#[test]
fn the_offset_law_is_recovered() {
    let law = fit_offset(&curve(1.0, |_| 0.0)).unwrap();
    assert!((law.offset() - 1.8).abs() < 1e-3, "{law:?}");
    assert!((law.exponent() - 0.16).abs() < 1e-3, "{law:?}");
}

#[test]
fn the_power_law_is_recovered_and_inverts() {
    let points: Vec<Point> =
        (1..5).map(|i| Point { compute: i as f64 * 1e18, loss: 50.0 * (i as f64 * 1e18).powf(-0.07) }).collect();
    let law = fit_power(&points).unwrap();
    assert!((law.exponent() - 0.07).abs() < 1e-9, "{law:?}");
    for p in points {
        assert!((law.ln_compute(p.loss).unwrap() - p.compute.ln()).abs() < 1e-6);
    }
}

#[test]
fn a_known_advantage_is_found() {
    for gain in [1.0, 1.33, 1.6] {
        let found = advantage(&curve(1.0, |_| 0.0), &curve(gain, |_| 0.0)).unwrap();
        assert!((found.mean / gain - 1.0).abs() < 0.01, "{gain}: {found:?}");
        assert!(found.low <= found.mean && found.mean <= found.high, "{found:?}");
    }
}

#[test]
fn noise_widens_the_interval_and_it_holds_the_truth() {
    let wobble = |seed: usize| move |i: usize| 1.5e-3 * ((i * 7 + seed * 3) % 5) as f64 - 3e-3;
    let noisy = |gain: f64, seed: usize| -> Vec<Point> { (0..3).flat_map(|s| curve(gain, wobble(seed + s))).collect() };
    let found = advantage(&noisy(1.0, 0), &noisy(1.33, 11)).unwrap();
    assert!(found.low < 1.33 && 1.33 < found.high, "{found:?}");
    assert!(found.high - found.low > 0.01 && found.high / found.low < 1.5, "{found:?}");
}

#[test]
fn one_broken_run_does_not_bend_the_law() {
    let broken = curve(1.33, |i| if i == 3 { 0.2 } else { 0.0 });
    let found = advantage(&curve(1.0, |_| 0.0), &broken).unwrap();
    assert!((found.mean / 1.33 - 1.0).abs() < 0.02, "{found:?}");
}

#[test]
fn what_cannot_be_fitted_is_none() {
    let flat = [Point { compute: 1.0, loss: 2.0 }; 5];
    assert_eq!(fit_power(&flat), None);
    let nan: Vec<Point> = curve(1.0, |i| if i == 2 { f64::NAN } else { 0.0 });
    assert_eq!(fit_offset(&nan), None);
    assert_eq!(fit_offset(&curve(1.0, |_| 0.0)[..3]), None);
    let apart = curve(1e12, |_| 0.0);
    assert_eq!(advantage(&curve(1.0, |_| 0.0), &apart), None, "no loss was reached by both");
}

/// The paper's perplexities at 300M and 2B, at its 50 tokens a parameter, lie where its 1.33 lies.
#[test]
fn the_papers_points_give_about_its_advantage() {
    let table = paper::item("table-1").unwrap();
    let scaling = paper::item("figure-scaling").unwrap();
    let value = |row: &str, metric: &str| table.number(row, metric).unwrap().value.unwrap();
    let points = |variant: &str| -> Vec<Point> {
        let point = |size: &str| {
            let params = value(&format!("{size}.none"), "params") * 1e6;
            Point { compute: 6.0 * 50.0 * params * params, loss: value(&format!("{size}.{variant}"), "ppl").ln() }
        };
        ["dense-300m", "dense-2b"].map(point).to_vec()
    };
    let found = advantage(&points("none"), &points("lowrank")).unwrap();
    let printed = scaling.number("advantage.qkv", "compute_advantage").unwrap().value.unwrap();
    assert!((found.mean / printed - 1.0).abs() < 0.15, "{found:?} beside {printed}");
}

#[test]
fn derived_rows_stand_in_the_item() {
    let item = paper::item("figure-scaling").unwrap();
    let spec = &item.scaling[0];
    let rows: Vec<String> =
        item.rows().map(|r| r.id.clone()).filter(|id| id.ends_with(".none") || id.ends_with(".qkv")).collect();
    let mut metrics = Vec::new();
    for series in ["none", "qkv"] {
        let gain = if series == "qkv" { 1.5 } else { 1.0 };
        let of_series = rows.iter().filter(|id| id.ends_with(&format!(".{series}")));
        for (row, point) in of_series.zip(curve(gain, |_| 0.0)) {
            for (metric, value) in [(&spec.x, point.compute), (&spec.y, point.loss)] {
                metrics.push(Metric { row: row.clone(), seed: 0, step: 1, metric: metric.clone(), value });
            }
        }
    }
    let measured = Measured::of(&item, &metrics);
    let found = measured.seeds("advantage.qkv", "compute_advantage")[&0];
    assert!((found - 1.5).abs() < 0.02, "{found}");
    assert!(measured.seeds("advantage.all-linear", "compute_advantage").is_empty(), "not run, not derived");
}

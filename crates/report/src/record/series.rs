//! Measured values as csv, and the split of a training series into its last value and a thinned curve.

use crate::measured::Metric;
use std::collections::BTreeMap;

/// The most points that a (row, seed, metric) keeps in `curve.csv`.
pub const CURVE_POINTS: usize = 500;

const HEADER: &str = "row,seed,step,metric,value";

/// Values as csv text with its header, in the order given. Numbers are written so that they read back bit for bit.
pub fn to_csv(metrics: &[Metric]) -> String {
    let mut text = String::from(HEADER);
    text.push('\n');
    for m in metrics {
        let (row, metric) = (quoted(&m.row), quoted(&m.metric));
        text.push_str(&format!("{row},{},{},{metric},{}\n", m.seed, m.step, m.value));
    }
    text
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into() }
}

/// Values from csv text, or what is wrong with it. A last line without its end counts as cut short.
pub fn from_csv(bytes: &[u8]) -> Result<Vec<Metric>, String> {
    if bytes.last() != Some(&b'\n') {
        return Err("the last line has no end".into());
    }
    let mut reader = csv::Reader::from_reader(bytes);
    let header = reader.headers().map_err(|e| e.to_string())?.iter().collect::<Vec<_>>().join(",");
    if header != HEADER {
        return Err(format!("the header is `{header}`, not `{HEADER}`"));
    }
    reader.deserialize().map(|line| line.map_err(|e: csv::Error| e.to_string())).collect()
}

/// Splits everything a row measured into the last value of each (row, seed, metric), for `metrics.csv`, and the
/// series of more than one step, thinned, for `curve.csv`. Both are sorted by first appearance, then by step.
pub fn split(points: &[Metric]) -> (Vec<Metric>, Vec<Metric>) {
    let mut order: Vec<Vec<&Metric>> = Vec::new();
    let mut places: BTreeMap<(&str, u64, &str), usize> = BTreeMap::new();
    for point in points {
        let place = *places.entry((&point.row, point.seed, &point.metric)).or_insert_with(|| {
            order.push(Vec::new());
            order.len() - 1
        });
        order[place].push(point);
    }
    let (mut last, mut curve) = (Vec::new(), Vec::new());
    for series in &mut order {
        series.sort_by_key(|point| point.step);
        last.extend(series.last().map(|&point| point.clone()));
        if series.len() > 1 {
            curve.extend(thin(series.len()).map(|i| series[i].clone()));
        }
    }
    (last, curve)
}

/// At most [`CURVE_POINTS`] indices below `len`, evenly spread, the first and the last among them.
fn thin(len: usize) -> impl Iterator<Item = usize> {
    let kept = len.min(CURVE_POINTS);
    (0..kept).map(move |i| if kept < 2 { 0 } else { i * (len - 1) / (kept - 1) })
}

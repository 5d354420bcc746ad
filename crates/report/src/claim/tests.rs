use super::*;
use crate::measured;
use crate::paper::parse;

const ITEM: &str = r#"
id = "x"
title = "X"
caption = ""
caption_grade = "U"
notes = []
[[metric]]
id = "acc"
label = "accuracy"
unit = ""
direction = "up"
decimals = 2
solved_at = 0.9
[[metric]]
id = "ppl"
label = "perplexity"
unit = ""
direction = "down"
decimals = 2
[[metric]]
id = "ms"
label = "time"
unit = ""
direction = "down"
decimals = 1
over_seeds = false
[[group]]
label = "all"
rows = [{ id = "a", label = "A" }, { id = "b", label = "B" }, { id = "c", label = "C" }]
"#;

const NUMBERS: &str = "row,metric,value,unit,grade,source,note
a,acc,0.80,,V,t,
b,acc,0.40,,I,t,
c,acc,,,U,t,
a,ms,10.0,,V,t,
b,ms,20.0,,V,t,
";

/// Rows with their values, one per seed from 0.
type Cells = &'static [(&'static str, &'static [f64])];

/// Judges `test` on `metric` with values by row, one per seed from 0.
fn verdict(metric: &str, test: &str, cells: &[(&str, &[f64])]) -> Judged {
    judged_at(metric, test, cells, "small", "cuda")
}

fn judged_at(metric: &str, test: &str, cells: &[(&str, &[f64])], scale: &str, device: &str) -> Judged {
    let toml = format!(
        "{ITEM}[[claim]]\nid = \"q\"\nsays = \"\"\nmetric = \"{metric}\"\n\
         scales = [\"small\"]\ndevices = [\"cuda\"]\n{test}\n"
    );
    let item = parse("x", &toml, NUMBERS).unwrap();
    let mut metrics = Vec::new();
    for (row, values) in cells {
        for (seed, &value) in values.iter().enumerate() {
            let (row, metric) = (row.to_string(), metric.to_string());
            metrics.push(measured::Metric { row, seed: seed as u64, step: 1, metric, value });
        }
    }
    judge(&item, &item.claims[0], &Measured::new(&metrics), scale, device)
}

const NAN: f64 = f64::NAN;
const ABOVE: &str = "test.ordering = { sides = [[\"a\"], [\"b\"]] }";
const CHAIN: &str = "test.ordering = { sides = [[\"a\"], [\"b\"], [\"c\"]] }";
const POOLED: &str = "test.ordering = { sides = [[\"a\", \"b\"], [\"c\"]] }";
const MARGIN: &str = "test.ordering = { sides = [[\"a\"], [\"b\"]], margin = 0.05 }";
const NEAR_ROW: &str = "test.within = { rows = [\"a\"], of = \"b\", abs = 0.05 }";
const NEAR_PAPER: &str = "test.within = { rows = [\"a\"], rel = 0.1 }";
const EXACT: &str = "test.exact = { rows = [\"a\"] }";
const RATIO: &str = "test.ratio = { of = \"a\", to = \"b\", rel = 0.1 }";
const AT_LEAST: &str = "test.bound = { rows = [\"a\"], at_least = 0.5 }";
const AT_MOST_SAME: &str = "test.bound = { rows = [\"a\", \"b\"], at_most_paper = \"same\" }";

#[test]
fn verdicts_of_every_kind() {
    use Verdict::{Off, Ok, Skip};
    let cases: &[(&str, &str, Cells, Verdict)] = &[
        // Three clear seeds hold; one reversal among three does not; one small reversal among five does.
        ("acc", ABOVE, &[("a", &[0.9, 1.0, 0.95]), ("b", &[0.2, 0.3, 0.1])], Ok),
        ("acc", ABOVE, &[("a", &[0.9, 1.0, 0.1]), ("b", &[0.2, 0.3, 0.2])], Off),
        ("acc", ABOVE, &[("a", &[1.0, 1.0, 1.0, 1.0, 0.29]), ("b", &[0.3, 0.3, 0.3, 0.3, 0.3])], Ok),
        ("acc", ABOVE, &[("a", &[0.2, 0.3, 0.1]), ("b", &[0.9, 1.0, 0.95])], Off),
        ("acc", ABOVE, &[("a", &[1.0, 1.0, 1.0]), ("b", &[1.0, 1.0, 1.0])], Off),
        // A greater median with fewer solved seeds is no order of a bimodal task.
        ("acc", ABOVE, &[("a", &[0.8; 5]), ("b", &[0.1, 0.1, 0.1, 0.1, 0.95])], Off),
        ("ppl", ABOVE, &[("a", &[18.0, 18.1, 18.2]), ("b", &[19.0, 19.1, 19.2])], Ok),
        ("ppl", ABOVE, &[("a", &[19.0, 19.1, 19.2]), ("b", &[18.0, 18.1, 18.2])], Off),
        ("acc", CHAIN, &[("a", &[0.9; 3]), ("b", &[0.5; 3]), ("c", &[0.2; 3])], Ok),
        ("acc", CHAIN, &[("a", &[0.9; 3]), ("b", &[0.5; 3]), ("c", &[0.6; 3])], Off),
        ("acc", POOLED, &[("a", &[0.9; 3]), ("b", &[0.3; 3]), ("c", &[0.5; 3])], Ok),
        ("acc", POOLED, &[("a", &[0.9; 3]), ("b", &[0.0; 3]), ("c", &[0.5; 3])], Off),
        // Not worse by more than a margin.
        ("acc", MARGIN, &[("a", &[0.79, 0.80, 0.81]), ("b", &[0.80; 3])], Ok),
        ("acc", MARGIN, &[("a", &[0.70; 3]), ("b", &[0.80; 3])], Off),
        ("acc", NEAR_ROW, &[("a", &[0.99, 1.0, 1.0]), ("b", &[1.0, 0.98, 1.0])], Ok),
        ("acc", NEAR_ROW, &[("a", &[0.9; 3]), ("b", &[1.0; 3])], Off),
        ("acc", NEAR_ROW, &[("a", &[1.0, 1.0, 0.1]), ("b", &[1.0, 1.0, 1.0])], Off),
        // The whole interval, not the median, has to lie within.
        ("acc", NEAR_PAPER, &[("a", &[0.78, 0.80, 0.82])], Ok),
        ("acc", NEAR_PAPER, &[("a", &[0.78, 0.80, 0.99])], Off),
        ("acc", AT_LEAST, &[("a", &[0.6, 0.7, 0.8])], Ok),
        ("acc", AT_LEAST, &[("a", &[0.4, 0.7, 0.8])], Off),
        ("acc", EXACT, &[("a", &[0.80, 0.804, 0.796])], Ok),
        ("acc", EXACT, &[("a", &[0.80, 0.81, 0.80])], Off),
        ("acc", RATIO, &[("a", &[0.8, 0.6, 0.4]), ("b", &[0.4, 0.3, 0.2])], Ok),
        ("acc", RATIO, &[("a", &[0.8, 0.6, 0.6]), ("b", &[0.4, 0.3, 0.2])], Off),
        ("acc", RATIO, &[("a", &[0.8, 0.6, 0.6]), ("b", &[0.4, 0.3, 0.0])], Off),
        // What does not vary with the seed needs one value.
        ("ms", AT_MOST_SAME, &[("a", &[9.0]), ("b", &[19.0])], Ok),
        ("ms", AT_MOST_SAME, &[("a", &[9.0]), ("b", &[20.5])], Off),
        ("ms", ABOVE, &[("a", &[9.0]), ("b", &[19.0])], Ok),
        ("ms", ABOVE, &[("a", &[19.0]), ("b", &[9.0])], Off),
        // NaN is off, even beside a row that was not run; what was not run is skip, never ok.
        ("acc", ABOVE, &[("a", &[0.9, NAN, 1.0]), ("b", &[0.1; 3])], Off),
        ("acc", ABOVE, &[("a", &[0.9, NAN])], Off),
        ("acc", AT_LEAST, &[("a", &[0.9, 0.9, f64::INFINITY])], Off),
        ("acc", EXACT, &[("a", &[NAN; 3])], Off),
        ("acc", ABOVE, &[("a", &[0.9; 3])], Skip),
        ("acc", CHAIN, &[("a", &[0.9; 3]), ("b", &[0.5; 3])], Skip),
        ("acc", AT_LEAST, &[], Skip),
        ("acc", ABOVE, &[("a", &[0.9; 2]), ("b", &[0.1; 5])], Skip),
        ("ms", AT_MOST_SAME, &[("a", &[9.0])], Skip),
    ];
    for (metric, test, cells, expected) in cases {
        let judged = verdict(metric, test, cells);
        assert_eq!(judged.verdict, *expected, "{test} on {cells:?}: {}", judged.detail);
        assert!(!judged.detail.is_empty());
    }
}

#[test]
fn details_and_reasons_say_what_decided() {
    let good: Cells = &[("a", &[0.9, 1.0, 0.95]), ("b", &[0.2, 0.3, 0.1])];
    for (judged, detail) in [
        (verdict("acc", ABOVE, good), "a 0.95 and b 0.20, asked above, solved 100 % and 0 %, p = 0.125 over 3 seeds"),
        (verdict("acc", ABOVE, &good[..1]), "not run: b"),
        (verdict("acc", ABOVE, &[("a", &[0.9; 2]), ("b", &[0.1; 3])]), "2 of 3 seeds needed in common: a, b"),
        (verdict("acc", AT_LEAST, &[("a", &[0.9, NAN, 1.0])]), "a is NaN at seed 1"),
        (verdict("acc", "test.exact = { rows = [\"c\"] }", good), "the paper's acc of c is unknown"),
        (
            verdict("acc", "test.within = { rows = [\"b\"], rel = 0.5 }", good),
            "b 0.20 [0.10, 0.30] over 3 seeds (75 % interval), asked in 0.20 to 0.60 (inferred by us)",
        ),
        (judged_at("acc", ABOVE, good, "smoke", "cuda"), "stated for scale small, not smoke"),
        (judged_at("acc", ABOVE, good, "small", "cpu"), "stated for device cuda, not cpu"),
    ] {
        assert_eq!(judged.detail, detail);
    }
}

/// Of a claim that is off, the rows that hold are ok.
#[test]
fn a_row_has_its_own_part_of_the_verdict() {
    use Verdict::{Off, Ok, Skip};
    type Rows = &'static [(&'static str, Verdict)];
    let chain: Cells = &[("a", &[0.5; 3]), ("b", &[0.9; 3]), ("c", &[0.2; 3])];
    let cases: [(&str, &str, Cells, Rows); 6] = [
        ("ms", AT_MOST_SAME, &[("a", &[9.0]), ("b", &[20.5])], &[("a", Ok), ("b", Off)]),
        ("ms", AT_MOST_SAME, &[("a", &[9.0])], &[("a", Ok), ("b", Skip)]),
        ("acc", CHAIN, chain, &[("a", Off), ("b", Ok)]),
        ("acc", CHAIN, &chain[1..], &[("a", Skip), ("b", Ok)]),
        ("acc", POOLED, &[("a", &[0.9; 3]), ("b", &[0.3; 3]), ("c", &[0.5; 3])], &[("a", Ok), ("b", Ok)]),
        ("acc", RATIO, &[("a", &[0.8, 0.6, 0.4]), ("b", &[0.4, 0.3, 0.2])], &[("a", Ok)]),
    ];
    for (metric, test, cells, expected) in cases {
        let found = verdict(metric, test, cells).by_row;
        let found: Vec<(&str, Verdict)> = found.iter().map(|(row, verdict)| (row.as_str(), *verdict)).collect();
        assert_eq!(found, expected, "{test} on {cells:?}");
    }
    let elsewhere = judged_at("acc", CHAIN, chain, "smoke", "cuda").by_row;
    assert_eq!(elsewhere, [("a".to_string(), Skip), ("b".to_string(), Skip)]);
}

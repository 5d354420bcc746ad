use super::*;
use crate::measured::Metric;
use crate::paper;

fn points(cells: &[(&str, &str, &[f64])]) -> Measured {
    let mut metrics = Vec::new();
    for (row, metric, values) in cells {
        for (seed, &value) in values.iter().enumerate() {
            metrics.push(Metric {
                row: row.to_string(),
                seed: seed as u64,
                step: 1,
                metric: metric.to_string(),
                value,
            });
        }
    }
    Measured::new(&metrics)
}

fn recall() -> Measured {
    points(&[
        ("varkey.none", "accuracy", &[0.1, 0.12, 0.15]),
        ("varkey.static", "accuracy", &[0.4, 0.41, 0.9]),
        ("varkey.lowrank", "accuracy", &[0.99, 0.2, 1.0]),
        ("compositional.static", "accuracy", &[1.0, 1.0, 1.0]),
        ("compositional.lowrank", "accuracy", &[1.0, f64::NAN, 1.0]),
    ])
}

fn figure(item: &str, id: &str, measured: &Measured) -> Figure {
    let item = paper::item(item).unwrap();
    let spec = item.figures.iter().find(|f| f.id == id).unwrap();
    build(&item, spec, measured)
}

#[test]
fn the_csv_is_the_figures_data() {
    let figure = figure("figure-recall", "varkey", &recall());
    assert_eq!(
        figure.csv(),
        "category,series,x,median,min,max,seeds,paper\n\
         \"variable-key\",\"no convolution\",,0.12,0.1,0.15,3,\n\
         \"variable-key\",\"static\",,0.41,0.4,0.9,3,\n\
         \"variable-key\",\"dynamic, low-rank\",,0.99,0.2,1,3,\n\
         \"compositional\",\"static\",,1,1,1,3,\n\
         \"compositional\",\"dynamic, low-rank\",,NaN,NaN,NaN,3,\n"
    );
    assert!(!figure.is_empty());
}

#[test]
fn the_svg_is_byte_identical_and_holds_every_label() {
    let dots = figure("figure-recall", "varkey", &recall());
    let svg = dots.svg().unwrap();
    assert_eq!(svg, figure("figure-recall", "varkey", &recall()).svg().unwrap());
    insta::assert_snapshot!("varkey.svg", svg);
    for part in ["variable-key", "compositional", "dynamic, low-rank", "test accuracy", "</svg>"] {
        assert!(svg.contains(part), "{part}");
    }
    assert_eq!(svg.matches("NaN").count(), 1, "a broken run is a word, never a coordinate");
    assert!(!svg.contains("dynamic, head-wise"), "a series without values is left out");
}

#[test]
fn the_papers_values_are_hollow_squares_and_inferred_ones_are_not() {
    let mad = figure("figure-recall", "mad", &points(&[("mad-fuzzy.lowrank", "accuracy", &[0.7, 0.71, 0.72])]));
    let fuzzy: Vec<Option<f64>> = mad.series.iter().map(|one| one.points[0].paper).collect();
    assert_eq!(fuzzy[..1], [Some(0.298)]);
    assert!(mad.svg().unwrap().contains("the paper"), "the legend explains them");
    let none = figure("figure-recall", "varkey", &points(&[]));
    assert!(none.is_empty() && none.series.is_empty() && none.svg().is_ok());
}

#[test]
fn lines_stand_at_their_x_and_need_one() {
    let cells: &[(&str, &str, &[f64])] = &[
        ("150m.none", "flops", &[1e18]),
        ("150m.none", "loss", &[3.2, 3.3, 3.25]),
        ("300m.none", "flops", &[4e18]),
        ("300m.none", "loss", &[2.9, 3.0, 2.95]),
        ("300m.qkv", "loss", &[2.8]),
    ];
    let figure = figure("figure-scaling", "scaling", &points(cells));
    assert_eq!(figure.series.len(), 1, "a point without x is not drawn");
    assert_eq!(figure.series[0].points[1].x, Some(4e18));
    let svg = figure.svg().unwrap();
    assert!(svg.contains("polyline") && svg.contains("training compute (FLOP)"));
}

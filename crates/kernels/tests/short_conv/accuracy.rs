//! The definition against finite differences, and ours against the definition: outputs and all gradients.

use kernels::short_conv::Options;

use crate::problem::{Kind, Spec, Tensors, check_close, find, operands, ours};
use crate::reference::{self, to_f64};

const LIMIT: f64 = 1e-5;

fn check(spec: &Spec) {
    let operands = operands(spec);
    let ours = ours(spec, &operands).unwrap_or_else(|error| panic!("{error}: {spec:?}"));
    check_close(spec, &ours, &reference::all(spec, &to_f64(&operands)), LIMIT);
}

/// Every width with every kind; lengths, channels and options take turns.
#[test]
fn agrees_with_the_definition() {
    let lengths = [1, 2, 3, 63, 1000];
    let kinds: [(Kind, usize); 22] = [
        (Kind::Static, 8),
        (Kind::Static, 7),
        (Kind::Static, 33),
        (Kind::Static, 96),
        (Kind::HeadWise(1), 7),
        (Kind::HeadWise(1), 96),
        (Kind::HeadWise(4), 8),
        (Kind::HeadWise(8), 8),
        (Kind::HeadWise(11), 33),
        (Kind::HeadWise(8), 96),
        (Kind::HeadWise(16), 96),
        (Kind::HeadWise(24), 96),
        (Kind::HeadWise(32), 96),
        (Kind::HeadWise(96), 96),
        (Kind::LowRank(1), 33),
        (Kind::LowRank(4), 7),
        (Kind::LowRank(15), 96),
        (Kind::LowRank(16), 96),
        (Kind::LowRank(17), 33),
        (Kind::LowRank(64), 8),
        (Kind::LowRank(64), 33),
        (Kind::LowRank(128), 96),
    ];
    let mut case = 0;
    for width in 1..=8 {
        for (i, &(kind, d)) in kinds.iter().enumerate() {
            // The steps are coprime with the numbers of lengths and of option sets, so that pairs differ by width.
            let len = lengths[(i + 2 * width) % lengths.len()];
            let bits = case * 11 % 64;
            let mut spec = Spec::new(kind, if len < 1000 { 2 } else { 1 }, len, d, width);
            spec.options = Options { residual: bits & 1 != 0, silu: bits & 2 != 0 };
            spec.with_static = bits & 4 != 0;
            spec.initial = bits & 8 != 0;
            spec.dfinal = bits & 16 != 0;
            spec.gap = if bits & 32 != 0 { 5 } else { 0 };
            spec.seed = case as u64;
            check(&spec);
            case += 1;
        }
    }
}

/// Packed sequences, some empty, some shorter than the filter, across the borders of tasks.
#[test]
fn agrees_with_the_definition_when_packed() {
    let bounds = vec![0, 0, 1, 3, 3, 60, 61, 70, 190, 192, 200, 201, 201];
    for (i, kind) in [Kind::Static, Kind::HeadWise(3), Kind::HeadWise(16), Kind::LowRank(5)].into_iter().enumerate() {
        for width in [1, 2, 4, 8] {
            let mut spec = Spec::new(kind, 1, 201, 48, width);
            spec.cu_seqlens = Some(bounds.clone());
            spec.options = Options { residual: i % 2 == 0, silu: (i + width / 2) % 2 == 0 };
            check(&spec);
        }
    }
}

/// The definition's gradients are those of sum(dy y) + sum(dfinal_state final_state).
#[test]
fn the_definition_agrees_with_finite_differences() {
    for (i, kind) in [Kind::Static, Kind::HeadWise(2), Kind::LowRank(3)].into_iter().enumerate() {
        for silu in [false, true] {
            let mut spec = Spec::new(kind, 1, 7, 4, 3 + i % 2);
            spec.cu_seqlens = Some(vec![0, 1, 1, 7]);
            spec.options = Options { residual: silu, silu };
            let operands = to_f64(&operands(&spec));
            let gradients = reference::all(&spec, &operands);
            for (at, (name, values)) in operands.iter().enumerate() {
                if matches!(*name, "dy" | "dfinal_state") {
                    continue;
                }
                let gradient = find(&gradients, &format!("d{name}"));
                assert_eq!(gradient.len(), values.len());
                for j in 0..values.len() {
                    let loss = |step: f64| {
                        let mut moved = operands.clone();
                        moved[at].1[j] += step;
                        loss(&spec, &moved)
                    };
                    let step = 1e-5;
                    let difference = (loss(step) - loss(-step)) / (2.0 * step);
                    assert!((difference - gradient[j]).abs() < 1e-8, "d{name}[{j}]: {difference} {}", gradient[j]);
                }
            }
        }
    }
}

fn loss(spec: &Spec, operands: &Tensors<f64>) -> f64 {
    let out = reference::forward(spec, operands);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(find(&out, "y"), find(operands, "dy")) + dot(find(&out, "final_state"), find(operands, "dfinal_state"))
}

//! Properties that hold bit for bit.

use kernels::Sequences;
use kernels::short_conv::{Filter, Options, Rows, RowsMut, Shape, step};

use crate::problem::{Kind, Spec, Tensors, check_same, find, operands, ours, random};

const KINDS: [Kind; 5] = [Kind::Static, Kind::HeadWise(16), Kind::HeadWise(4), Kind::LowRank(5), Kind::LowRank(16)];

fn run(spec: &Spec, operands: &Tensors<f32>) -> Tensors<f32> {
    ours(spec, operands).unwrap_or_else(|error| panic!("{error}: {spec:?}"))
}

fn set(tensors: &mut Tensors<f32>, name: &str, change: impl FnOnce(&mut Vec<f32>)) {
    change(&mut tensors.iter_mut().find(|(n, _)| *n == name).expect("a tensor of that name").1);
}

/// The rows of one sequence out of all operands of a packed problem.
fn part(spec: &Spec, all: &Tensors<f32>, sequence: usize) -> (Spec, Tensors<f32>) {
    let bounds = spec.bounds();
    let (tokens, d) = (bounds[sequence]..bounds[sequence + 1], spec.d);
    let state = (spec.width - 1) * d;
    let mut alone = spec.clone();
    alone.cu_seqlens = None;
    alone.len = tokens.len();
    let rows = |v: &[f32], columns: usize| v[tokens.start * columns..tokens.end * columns].to_vec();
    let take = |(name, v): &(&'static str, Vec<f32>)| {
        let values = match *name {
            "x" | "dy" | "y" | "dx" => rows(v, d),
            "weight" | "z" | "dweight" | "dz" => rows(v, spec.columns()),
            "initial_state" | "dfinal_state" | "final_state" | "dinitial_state" => {
                v[sequence * state..][..state].to_vec()
            }
            _ => v.clone(),
        };
        (*name, values)
    };
    (alone, all.iter().map(take).collect())
}

/// The gradients that sum over sequences.
fn without_sums(mut tensors: Tensors<f32>) -> Tensors<f32> {
    tensors.retain(|(name, _)| !matches!(*name, "dw" | "du" | "dstatic_w"));
    tensors
}

#[test]
fn packed_sequences_equal_separate_ones() {
    for kind in KINDS {
        for (width, silu) in [(4, false), (8, true)] {
            let mut spec = Spec::new(kind, 1, 140, 48, width);
            spec.cu_seqlens = Some(vec![0, 1, 3, 40, 42, 61, 130, 140]);
            spec.options = Options { residual: silu, silu };
            let operands = operands(&spec);
            let packed = run(&spec, &operands);
            for sequence in 0..spec.bounds().len() - 1 {
                let (alone, alone_operands) = part(&spec, &operands, sequence);
                let expected = part(&spec, &packed, sequence).1;
                let found = run(&alone, &alone_operands);
                check_same(&alone, &without_sums(found), &without_sums(expected));
            }
        }
    }
}

/// What a neighbour holds, NaN even, changes nothing.
#[test]
fn nothing_leaks_over_a_border() {
    for kind in KINDS {
        let mut spec = Spec::new(kind, 1, 60, 32, 4);
        spec.cu_seqlens = Some(vec![0, 21, 39, 60]);
        let clean = operands(&spec);
        let mut poisoned = clean.clone();
        for name in ["x", "dy"] {
            set(&mut poisoned, name, |v| {
                v[..21 * 32].fill(f32::NAN);
                v[39 * 32..].fill(f32::NAN);
            });
        }
        if kind != Kind::Static {
            let (name, columns) = (if let Kind::LowRank(_) = kind { "z" } else { "weight" }, spec.columns());
            set(&mut poisoned, name, |v| {
                v[..21 * columns].fill(f32::NAN);
                v[39 * columns..].fill(f32::NAN);
            });
        }
        let middle = |operands| without_sums(part(&spec, &run(&spec, operands), 1).1);
        check_same(&spec, &middle(&poisoned), &middle(&clean));
    }
}

#[test]
fn later_tokens_do_not_change_earlier_outputs() {
    for kind in KINDS {
        let spec = Spec::new(kind, 1, 50, 32, 4);
        let before = operands(&spec);
        let mut after = before.clone();
        set(&mut after, "x", |x| x[23 * 32..].fill(f32::INFINITY));
        let (before, after) = (run(&spec, &before), run(&spec, &after));
        let (before, after) = (find(&before, "y"), find(&after, "y"));
        assert!(before[..23 * 32].iter().zip(after).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind:?}");
        assert_ne!(before[23 * 32], after[23 * 32]);
    }
}

/// Two halves with the state carried over equal the whole, at every place of the cut, one inside the state included.
#[test]
fn a_sequence_can_be_cut() {
    for kind in KINDS {
        for cut in [1, 2, 20, 41] {
            let mut spec = Spec::new(kind, 1, 42, 32, 4);
            spec.options.silu = cut == 20;
            let operands = operands(&spec);
            let whole = run(&spec, &operands);
            let mut cuts = spec.clone();
            cuts.cu_seqlens = Some(vec![0, cut, 42]);
            // Only rows are taken from `cuts`: the states are those of the whole.
            let half = |i: usize, state: &[f32]| {
                let mut rows = operands.clone();
                set(&mut rows, "initial_state", |v| *v = [v.clone(), v.clone()].concat());
                set(&mut rows, "dfinal_state", |v| *v = [v.clone(), v.clone()].concat());
                let (spec, mut operands) = part(&cuts, &rows, i);
                set(&mut operands, "initial_state", |v| *v = state.to_vec());
                run(&spec, &operands)
            };
            let first = half(0, find(&operands, "initial_state"));
            let second = half(1, find(&first, "final_state"));
            let joined = vec![
                ("y", [find(&first, "y"), find(&second, "y")].concat()),
                ("final_state", find(&second, "final_state").to_vec()),
            ];
            check_same(&spec, &joined, &whole[..2].to_vec());
        }
    }
}

#[test]
fn steps_equal_the_whole() {
    for kind in KINDS {
        for (batch, width) in [(1, 4), (3, 1), (11, 4), (2, 7)] {
            let mut spec = Spec::new(kind, batch, 9, 48, width);
            spec.options = Options { residual: true, silu: batch == 3 };
            let operands = operands(&spec);
            let whole = run(&spec, &operands);
            let (d, columns) = (spec.d, spec.columns());
            let mut state = find(&operands, "initial_state").to_vec();
            for t in 0..9 {
                // Row b of step t is token b * 9 + t: the stride reaches from one batch element to the next.
                let rows = |name: &str, columns: usize| &find(&operands, name)[t * columns..];
                let static_w = operands.iter().find(|(name, _)| *name == "static_w").map(|(_, w)| &w[..]);
                let filter = match kind {
                    Kind::Static => Filter::Static { w: find(&operands, "w") },
                    Kind::HeadWise(head_size) => {
                        let weight = Rows { data: rows("weight", columns), stride: 9 * columns };
                        Filter::HeadWise { weight, head_size, static_w }
                    }
                    Kind::LowRank(rank) => {
                        let z = Rows { data: rows("z", rank), stride: 9 * rank };
                        Filter::LowRank { z, u: find(&operands, "u"), rank, static_w }
                    }
                };
                let mut y = vec![f32::NAN; batch * d];
                let x = Rows { data: rows("x", d), stride: 9 * d };
                let shape = Shape { seqs: Sequences::Equal { batch, len: 1 }, ..spec.shape() };
                step(shape, spec.options, x, filter, &mut state, RowsMut::packed(&mut y, d)).expect("valid arguments");
                let expected: Vec<f32> =
                    (0..batch).flat_map(|b| find(&whole, "y")[(b * 9 + t) * d..][..d].to_vec()).collect();
                check_same(&spec, &vec![("y", y)], &vec![("y", expected)]);
            }
            check_same(&spec, &vec![("state", state)], &vec![("state", find(&whole, "final_state").to_vec())]);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for kind in KINDS {
        let mut spec = Spec::new(kind, 2, 300, 80, 4);
        spec.options.silu = kind == Kind::LowRank(16);
        let operands = operands(&spec);
        let results: Vec<_> = [1, 2, 4]
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
                pool.install(|| run(&spec, &operands))
            })
            .into();
        check_same(&spec, &results[1], &results[0]);
        check_same(&spec, &results[2], &results[0]);
    }
}

#[test]
fn a_dynamic_part_of_zero_leaves_the_static_filter() {
    for kind in &KINDS[1..] {
        for zero in ["z", "weight", "u"] {
            let spec = Spec::new(*kind, 2, 40, 48, 4);
            let mut dynamic = operands(&spec);
            if !dynamic.iter().any(|(name, _)| *name == zero) {
                continue;
            }
            set(&mut dynamic, zero, |v| v.fill(0.0));
            let mut fixed = dynamic.clone();
            fixed.retain(|(name, _)| !matches!(*name, "z" | "weight" | "u"));
            fixed.iter_mut().for_each(|(name, _)| *name = if *name == "static_w" { "w" } else { name });
            let mut static_spec = spec.clone();
            static_spec.kind = Kind::Static;
            let (dynamic, fixed) = (run(&spec, &dynamic), run(&static_spec, &fixed));
            check_same(&spec, &dynamic[..4].to_vec(), &fixed[..4].to_vec());
        }
    }
}

/// The counter's values are no constant: a test of the tests.
#[test]
fn random_values_vary() {
    let values = random(3, 1000);
    let mean = values.iter().sum::<f32>() / 1000.0;
    let square = values.iter().map(|v| v * v).sum::<f32>() / 1000.0;
    assert!(mean.abs() < 0.1 && (square - 1.0 / 3.0).abs() < 0.05);
}

//! Random shapes, options and packings: never a panic, never a wrong result, and an error where an argument is
//! malformed.

use kernels::short_conv::Options;
use proptest::prelude::*;

use crate::problem::{Kind, Spec, check_close, operands, ours};
use crate::reference::{self, to_f64};

fn kinds(d: usize) -> impl Strategy<Value = Kind> {
    let divisors: Vec<usize> = (1..=d).filter(|size| d.is_multiple_of(*size)).collect();
    prop_oneof![
        Just(Kind::Static),
        prop::sample::select(divisors).prop_map(Kind::HeadWise),
        (1..=40usize).prop_map(Kind::LowRank),
    ]
}

fn specs() -> impl Strategy<Value = Spec> {
    let shape = (1..=3usize, 1..=90usize, 1..=8usize, prop_oneof![1..=70usize, Just(64), Just(128), Just(272)]);
    let flags = any::<[bool; 6]>();
    shape.prop_flat_map(move |(batch, len, width, d)| {
        let cuts = prop::collection::vec(0..=len, 0..6);
        (kinds(d), cuts, flags, 0..3usize, 0..1000u64).prop_map(move |(kind, mut cuts, flags, gap, seed)| {
            let [packed, residual, silu, with_static, initial, dfinal] = flags;
            let mut spec = Spec::new(kind, if packed { 1 } else { batch }, len, d, width);
            if packed {
                cuts.extend([0, len]);
                cuts.sort_unstable();
                spec.cu_seqlens = Some(cuts);
            }
            Spec { with_static, options: Options { residual, silu }, initial, dfinal, gap, seed, ..spec }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_definition(spec in specs()) {
        let operands = operands(&spec);
        let ours = ours(&spec, &operands).unwrap_or_else(|error| panic!("{error}: {spec:?}"));
        check_close(&spec, &ours, &reference::all(&spec, &to_f64(&operands)), 1e-5);
    }

    /// One operand, drawn at random, has an element too few or too many.
    #[test]
    fn refuses_operands_of_the_wrong_size(spec in specs(), which in any::<prop::sample::Index>(), shorter: bool) {
        let mut operands = operands(&spec);
        // The last row of x, dy, weight and z may be followed by others: only too few is wrong there.
        let i = which.index(operands.len());
        let (name, values) = &mut operands[i];
        let rows = matches!(*name, "x" | "dy" | "weight" | "z");
        if (shorter || rows) && !values.is_empty() {
            values.pop();
        } else {
            values.push(0.0);
        }
        prop_assume!(!(rows && spec.gap > 0));
        let name = *name;
        let error = ours(&spec, &operands).expect_err("an error").to_string();
        prop_assert!(error.contains(name), "{} was wrong, the error is: {}", name, error);
    }

    #[test]
    fn refuses_a_wrong_packing(mut spec in specs(), at in any::<prop::sample::Index>(), value in 0..200usize) {
        let operands = operands(&spec);
        let mut bounds = spec.bounds();
        let at = at.index(bounds.len());
        prop_assume!(bounds[at] != value);
        let last = bounds.len() - 1;
        let before = if at == 0 { 0 } else { bounds[at - 1] };
        let after = if at == last { spec.tokens() } else { bounds[at + 1] };
        // A bound that still lies between its neighbours is another right packing, as is one of fewer tokens than there are.
        prop_assume!(at == 0 || at == last && value == 0 || !(before..=after).contains(&value));
        bounds[at] = value;
        spec.cu_seqlens = Some(bounds);
        prop_assert!(ours(&spec, &operands).is_err());
    }
}

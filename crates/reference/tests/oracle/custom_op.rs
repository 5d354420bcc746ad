//! The custom ops against the compositions of the same convolutions, values and gradients, and what they refuse.

use dfdx::prelude::*;
use reference::compose::{Dynamic, Matrix, short_conv};
use reference::op::{head_wise_conv, low_rank_conv, static_conv};
use reference::{Layout, Real};

use crate::common::{distance, norm};

type Traced<E> = Matrix<E, Cpu, OwnedTape<E, Cpu>>;

/// The values of a function of matrices, then the gradients of its squared sines by each input.
fn run<E: Real>(inputs: &[Matrix<E, Cpu>], f: impl Fn(Vec<Traced<E>>) -> Traced<E>) -> Vec<Vec<f64>>
where
    Cpu: Device<E>,
{
    let y = f(inputs.iter().map(|x| x.retaped()).collect());
    let mut found = vec![y.as_vec()];
    let gradients = y.sin().square().sum::<(), _>().backward();
    found.extend(inputs.iter().map(|x| gradients.get(x).as_vec()));
    found.into_iter().map(|values| values.into_iter().map(E::lower).collect()).collect()
}

fn normal(dev: &Cpu, n: usize) -> Vec<f64> {
    dev.sample_normal_like(&(n,)).as_vec()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Static,
    HeadWise,
    LowRank,
}

/// Every kind of filter at sizes around its edges: one token, widths past the row, one head, one channel a head.
fn check<E: Real>(tolerance: f64)
where
    Cpu: Device<E>,
{
    let dev = Cpu::seed_from_u64(1);
    let matrix = |rows, columns| -> Matrix<E, Cpu> {
        let values = normal(&dev, rows * columns).into_iter().map(E::lift).collect();
        dev.tensor_from_vec(values, (rows, columns))
    };
    for [b, t, d, width, heads, rank] in
        [[2, 1, 6, 4, 2, 2], [1, 2, 4, 1, 4, 1], [2, 9, 6, 3, 1, 5], [3, 5, 8, 8, 2, 3]]
    {
        let (layout, n) = (Layout::rows(b, t), b * t);
        for kind in [Kind::Static, Kind::HeadWise, Kind::LowRank] {
            let mut inputs = vec![matrix(n, d)];
            match kind {
                Kind::Static => inputs.push(matrix(width, d)),
                Kind::HeadWise => inputs.push(matrix(n, heads * width)),
                Kind::LowRank => inputs.extend([matrix(n, rank), matrix(rank, width * d)]),
            }
            let custom = run(&inputs, |inputs| {
                let mut inputs = inputs.into_iter();
                let mut next = || inputs.next().unwrap();
                let x = next().reshape_like(&(b, t, d));
                let y = match kind {
                    Kind::Static => static_conv(x, next()),
                    Kind::HeadWise => head_wise_conv(x, next().reshape_like(&(b, t, heads, width))),
                    Kind::LowRank => low_rank_conv(x, next().reshape_like(&(b, t, rank)), next()),
                };
                y.unwrap().reshape_like(&(n, d))
            });
            let composed = run(&inputs, |inputs| {
                let mut inputs = inputs.into_iter();
                let mut next = || inputs.next().unwrap();
                let x = next();
                let (dynamic, static_w) = match kind {
                    Kind::Static => (None, Some(next())),
                    Kind::HeadWise => (Some(Dynamic::HeadWise(next())), None),
                    Kind::LowRank => (Some(Dynamic::LowRank(next(), next())), None),
                };
                short_conv(x, dynamic, static_w, width, &layout).unwrap()
            });
            for (i, (have, want)) in custom.iter().zip(&composed).enumerate() {
                let (apart, size) = (distance(have, want), norm(want));
                assert!(size > 0.0 && apart <= tolerance * size, "{kind:?} {b} x {t}, {i}: {apart:.1e} of {size:.1e}");
            }
        }
    }
}

#[test]
fn agrees_in_f64() {
    check::<f64>(1e-12);
}

#[test]
fn agrees_in_f32() {
    check::<f32>(1e-5);
}

/// An input that is not contiguous, and one tensor in two places: x and its own transpose filter x.
#[test]
fn views_and_repeated_inputs() {
    let dev = Cpu::seed_from_u64(2);
    let x: Matrix<f64, Cpu> = dev.sample_normal_like(&(4, 4));
    let transpose = |x: Traced<f64>| x.permute::<(usize, usize), Axes2<1, 0>>();
    let custom = run(std::slice::from_ref(&x), |i| {
        let [x] = i.try_into().unwrap();
        let weight = transpose(x.retaped()).reshape_like(&(1, 4, 1, 4));
        let z = x.retaped::<OwnedTape<f64, Cpu>>().reshape_like(&(1, 4, 4));
        let y = low_rank_conv(x.reshape_like(&(1, 4, 4)), z, dev.ones_like(&(4, 8))).unwrap();
        head_wise_conv(y, weight).unwrap().reshape_like(&(4, 4))
    });
    let layout = Layout::rows(1, 4);
    let composed = run(std::slice::from_ref(&x), |i| {
        let [x] = i.try_into().unwrap();
        let (weight, z) = (transpose(x.retaped()), x.retaped());
        let generator = dev.ones_like(&(4, 8)).put_tape(OwnedTape::default());
        let y = short_conv(x, Some(Dynamic::LowRank(z, generator)), None, 2, &layout).unwrap();
        short_conv(y, Some(Dynamic::HeadWise(weight)), None, 4, &layout).unwrap()
    });
    for (have, want) in custom.iter().zip(&composed) {
        assert!(distance(have, want) <= 1e-12 * norm(want));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let dev = Cpu::default();
    let x: Tensor<(usize, usize, usize), f32, _> = dev.zeros_like(&(2, 3, 4));
    let z = || dev.zeros_like(&(2, 3, 5));
    let messages = [
        static_conv(x.clone(), dev.zeros_like(&(4, 3))).unwrap_err(),
        head_wise_conv(x.clone(), dev.zeros_like(&(2, 3, 3, 4))).unwrap_err(),
        head_wise_conv(x.clone(), dev.zeros_like(&(2, 3, 0, 4))).unwrap_err(),
        head_wise_conv(x.clone(), dev.zeros_like(&(2, 2, 2, 4))).unwrap_err(),
        low_rank_conv(x.clone(), z(), dev.zeros_like(&(6, 8))).unwrap_err(),
        low_rank_conv(x.clone(), z(), dev.zeros_like(&(5, 7))).unwrap_err(),
        low_rank_conv(dev.zeros_like(&(2, 3, 0)), z(), dev.zeros_like(&(5, 7))).unwrap_err(),
    ]
    .map(|e| e.to_string());
    assert_eq!(messages[0], "static_conv: w [4, 3] for x [2, 3, 4]; give w [W, D] for x [B, T, D]");
    for message in &messages {
        assert!(message.contains("for x [2, 3, ") && message.contains("give "), "{message}");
    }
}

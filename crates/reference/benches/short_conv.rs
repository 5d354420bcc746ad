//! A short convolution and its backward pass: composed of dfdx primitives, as the custom dfdx op, and by our kernels.
//!
//! W = 4 taps, f32; head size 32, rank 16; no static taps beside dynamic ones, no residual. The gradient that comes in is
//! all ones. dfdx runs on one thread but for matrix products, the kernels on rayon's: RAYON_NUM_THREADS=1 compares them
//! on one.
//!
//! `cargo bench -p reference` (four minutes)

use criterion::{Criterion, criterion_group, criterion_main};
use dfdx::prelude::*;
use kernels::Sequences;
use kernels::short_conv::{
    self as native, Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut,
};
use reference::Layout;
use reference::compose::{Dynamic, Matrix, short_conv};
use reference::op::{head_wise_conv, low_rank_conv, static_conv};
use std::hint::black_box;
use std::time::Duration;

const WIDTH: usize = 4;
const HEAD_SIZE: usize = 32;
const RANK: usize = 16;

type Traced = Matrix<f32, Cpu, OwnedTape<f32, Cpu>>;

/// B, T and D.
#[derive(Clone, Copy)]
struct Sizes(usize, usize, usize);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Static,
    HeadWise,
    LowRank,
}

/// x and what the taps are made of, as matrices of B T rows or as they are.
fn inputs(kind: Kind, Sizes(b, t, d): Sizes) -> Vec<Matrix<f32, Cpu>> {
    let dev = Cpu::seed_from_u64(0);
    let normal = |rows, columns| dev.sample_normal_like(&(rows, columns));
    let mut inputs = vec![normal(b * t, d)];
    match kind {
        Kind::Static => inputs.push(normal(WIDTH, d)),
        Kind::HeadWise => inputs.push(normal(b * t, d / HEAD_SIZE * WIDTH)),
        Kind::LowRank => inputs.extend([normal(b * t, RANK), normal(RANK, WIDTH * d)]),
    }
    inputs
}

fn composed(kind: Kind, Sizes(b, t, _): Sizes, inputs: Vec<Traced>) -> Traced {
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().expect("an input per argument");
    let x = next();
    let (dynamic, static_w) = match kind {
        Kind::Static => (None, Some(next())),
        Kind::HeadWise => (Some(Dynamic::HeadWise(next())), None),
        Kind::LowRank => (Some(Dynamic::LowRank(next(), next())), None),
    };
    short_conv(x, dynamic, static_w, WIDTH, &Layout::rows(b, t)).expect("memory for a convolution")
}

fn custom(kind: Kind, Sizes(b, t, d): Sizes, inputs: Vec<Traced>) -> Traced {
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().expect("an input per argument");
    let x = next().reshape_like(&(b, t, d));
    let y = match kind {
        Kind::Static => static_conv(x, next()),
        Kind::HeadWise => head_wise_conv(x, next().reshape_like(&(b, t, d / HEAD_SIZE, WIDTH))),
        Kind::LowRank => low_rank_conv(x, next().reshape_like(&(b, t, RANK)), next()),
    };
    y.expect("fitting shapes").reshape_like(&(b * t, d))
}

/// The kernels' operands and results: x and the filter's parts, y, and a gradient for each.
struct Native {
    kind: Kind,
    shape: native::Shape<'static>,
    inputs: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    y: Vec<f32>,
    dy: Vec<f32>,
}

impl Native {
    fn new(kind: Kind, Sizes(batch, len, d): Sizes, inputs: &[Matrix<f32, Cpu>]) -> Self {
        let inputs: Vec<_> = inputs.iter().map(|x| x.as_vec()).collect();
        let n = batch * len * d;
        let shape = native::Shape { seqs: Sequences::Equal { batch, len }, d, width: WIDTH };
        Self { kind, shape, gradients: inputs.clone(), inputs, y: vec![0.0; n], dy: vec![1.0; n] }
    }

    fn forward(&mut self) {
        let output = Output { y: RowsMut::packed(&mut self.y, self.shape.d), final_state: None };
        let input = input(self.kind, self.shape.d, &self.inputs);
        native::forward(self.shape, Options::default(), &input, output).expect("fitting shapes");
    }

    fn backward(&mut self) {
        let d = self.shape.d;
        let (dx, parts) = self.gradients.split_first_mut().expect("x has a gradient");
        let (first, rest) = parts.split_first_mut().expect("a filter has a part");
        let filter = match self.kind {
            Kind::Static => FilterGrad::Static { dw: first },
            Kind::HeadWise => {
                FilterGrad::HeadWise { dweight: RowsMut::packed(first, d / HEAD_SIZE * WIDTH), dstatic_w: None }
            }
            Kind::LowRank => {
                FilterGrad::LowRank { dz: RowsMut::packed(first, RANK), du: &mut rest[0], dstatic_w: None }
            }
        };
        let output = OutputGrad { dy: Rows::packed(&self.dy, d), dfinal_state: None };
        let grad = InputGrad { dx: RowsMut::packed(dx, d), filter, dinitial_state: None };
        let input = input(self.kind, d, &self.inputs);
        native::backward(self.shape, Options::default(), &input, output, grad).expect("fitting shapes");
    }
}

fn input(kind: Kind, d: usize, inputs: &[Vec<f32>]) -> Input<'_> {
    let filter = match kind {
        Kind::Static => Filter::Static { w: &inputs[1] },
        Kind::HeadWise => {
            let weight = Rows::packed(&inputs[1], d / HEAD_SIZE * WIDTH);
            Filter::HeadWise { weight, head_size: HEAD_SIZE, static_w: None }
        }
        Kind::LowRank => {
            Filter::LowRank { z: Rows::packed(&inputs[1], RANK), u: &inputs[2], rank: RANK, static_w: None }
        }
    };
    Input { x: Rows::packed(&inputs[0], d), filter, initial_state: None }
}

fn bench(c: &mut Criterion) {
    for sizes @ Sizes(b, t, d) in [Sizes(1, 2048, 512), Sizes(4, 512, 1024)] {
        for kind in [Kind::Static, Kind::HeadWise, Kind::LowRank] {
            let inputs = inputs(kind, sizes);
            let traced = || inputs.iter().map(|x| x.leaky_trace()).collect();
            let mut group = c.benchmark_group(format!("{kind:?}, B={b} T={t} D={d}"));
            group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
            for (name, conv) in [("dfdx composed", composed as fn(_, _, _) -> _), ("dfdx custom op", custom)] {
                group.bench_function(format!("{name}, forward"), |bench| {
                    bench.iter(|| black_box(conv(kind, sizes, traced())));
                });
                group.bench_function(format!("{name}, forward and backward"), |bench| {
                    bench.iter(|| black_box(conv(kind, sizes, traced()).sum::<(), _>().backward()));
                });
            }
            let mut native = Native::new(kind, sizes, &inputs);
            group.bench_function("kernels, forward", |bench| bench.iter(|| native.forward()));
            group.bench_function("kernels, forward and backward", |bench| {
                bench.iter(|| {
                    native.forward();
                    native.backward();
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);

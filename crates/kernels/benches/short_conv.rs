//! Forward, and forward with backward, of each kind of filter beside a copy of x to y, at 1 and 2 threads.
//!
//! Throughput counts the fewest bytes, each operand read once and each result written once: per element of x
//! a copy 8, a static filter 8 forward and 12 backward, a head-wise one 4 W / head_size more forward and twice that
//! more backward, a low-rank one 4 R / D and twice that. A low-rank filter is bound by arithmetic: 2 R W + 2 W
//! operations per element forward and 6 R W + 3 W backward.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernels::Sequences;
use kernels::short_conv::{
    Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape, backward, forward,
};
use rayon::prelude::*;

const WIDTH: usize = 4;

#[derive(Clone, Copy)]
enum Kind {
    Static,
    HeadWise(usize),
    LowRank(usize),
}

struct Operands {
    shape: Shape<'static>,
    kind: Kind,
    x: Vec<f32>,
    dy: Vec<f32>,
    /// `[W, D]` or U.
    w: Vec<f32>,
    /// weight or z.
    rows: Vec<f32>,
    columns: usize,
}

struct Results {
    y: Vec<f32>,
    dx: Vec<f32>,
    dw: Vec<f32>,
    drows: Vec<f32>,
}

impl Operands {
    fn new(shape: Shape<'static>, kind: Kind) -> Self {
        let (n, d) = (shape.seqs.rows(), shape.d);
        let fill = |len: usize| (0..len).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect::<Vec<_>>();
        let (columns, parts) = match kind {
            Kind::Static => (0, 1),
            Kind::HeadWise(size) => (d / size * WIDTH, 0),
            Kind::LowRank(rank) => (rank, rank),
        };
        let (w, rows) = (fill(parts * WIDTH * d), fill(n * columns));
        Self { shape, kind, x: fill(n * d), dy: fill(n * d), w, rows, columns }
    }

    fn results(&self) -> Results {
        let zeros = |like: &[f32]| vec![0.0; like.len()];
        Results { y: zeros(&self.x), dx: zeros(&self.x), dw: zeros(&self.w), drows: zeros(&self.rows) }
    }

    fn input(&self) -> Input<'_> {
        let rows = Rows::packed(&self.rows, self.columns);
        let filter = match self.kind {
            Kind::Static => Filter::Static { w: &self.w },
            Kind::HeadWise(head_size) => Filter::HeadWise { weight: rows, head_size, static_w: None },
            Kind::LowRank(rank) => Filter::LowRank { z: rows, u: &self.w, rank, static_w: None },
        };
        Input { x: Rows::packed(&self.x, self.shape.d), filter, initial_state: None }
    }

    fn forward(&self, results: &mut Results) {
        let output = Output { y: RowsMut::packed(&mut results.y, self.shape.d), final_state: None };
        forward(self.shape, Options::default(), &self.input(), output).expect("valid arguments");
    }

    fn backward(&self, results: &mut Results) {
        let drows = RowsMut::packed(&mut results.drows, self.columns);
        let filter = match self.kind {
            Kind::Static => FilterGrad::Static { dw: &mut results.dw },
            Kind::HeadWise(_) => FilterGrad::HeadWise { dweight: drows, dstatic_w: None },
            Kind::LowRank(_) => FilterGrad::LowRank { dz: drows, du: &mut results.dw, dstatic_w: None },
        };
        let output = OutputGrad { dy: Rows::packed(&self.dy, self.shape.d), dfinal_state: None };
        let dx = RowsMut::packed(&mut results.dx, self.shape.d);
        let grad = InputGrad { dx, filter, dinitial_state: None };
        backward(self.shape, Options::default(), &self.input(), output, grad).expect("valid arguments");
    }

    /// Fewest bytes, forward and backward.
    fn bytes(&self) -> (u64, u64) {
        let (x, rows) = (4 * self.x.len() as u64, 4 * self.rows.len() as u64);
        (2 * x + rows, 3 * x + 2 * rows)
    }
}

fn bench(c: &mut Criterion) {
    let kinds = [("static", Kind::Static), ("head-wise 32", Kind::HeadWise(32)), ("low-rank 16", Kind::LowRank(16))];
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        for (batch, len, d) in [(1, 2048, 512), (4, 512, 1024)] {
            let shape = Shape { seqs: Sequences::Equal { batch, len }, d, width: WIDTH };
            let mut group = c.benchmark_group(format!("threads={threads} B={batch} T={len} D={d}"));
            group.sample_size(20);
            let operands = Operands::new(shape, Kind::Static);
            let mut results = operands.results();
            group.throughput(Throughput::Bytes(operands.bytes().0));
            group.bench_function("copy", |b| {
                pool.install(|| b.iter(|| copy(black_box(&operands.x), black_box(&mut results.y))));
            });
            for (name, kind) in kinds {
                let operands = Operands::new(shape, kind);
                let mut results = operands.results();
                let (forward, backward) = operands.bytes();
                group.throughput(Throughput::Bytes(forward));
                group.bench_function(format!("{name} forward"), |b| {
                    pool.install(|| b.iter(|| operands.forward(black_box(&mut results))));
                });
                group.throughput(Throughput::Bytes(forward + backward));
                group.bench_function(format!("{name} forward+backward"), |b| {
                    pool.install(|| {
                        b.iter(|| {
                            operands.forward(black_box(&mut results));
                            operands.backward(black_box(&mut results));
                        })
                    });
                });
            }
            group.finish();
        }
    }
}

fn copy(from: &[f32], to: &mut [f32]) {
    const STEP: usize = 1 << 16;
    to.par_chunks_mut(STEP).zip(from.par_chunks(STEP)).for_each(|(to, from)| to.copy_from_slice(from));
}

criterion_group!(benches, bench);
criterion_main!(benches);

//! One training step of a small GPT, its ops chained by hand: forward, backward, timed.
//!
//! 4 layers, d 256, 4 heads, FFN 1024, vocabulary 1024, LayerNorm, GELU, no biases in the linear layers; 8 sequences of
//! 256 tokens. 46 GFLOP, nearly all of them matrix products. `RAYON_NUM_THREADS=1 cargo run --release -p kernels
//! --example gpt_step` prints the smallest and the median time of 12 steps.

use std::time::Instant;

use kernels::attention::{self, Saved};
use kernels::linear::Shape as Linear;
use kernels::{Result, Sequences, Store, cross_entropy, embedding, gelu, layer_norm, linear};

const BATCH: usize = 8;
const LEN: usize = 256;
const ROWS: usize = BATCH * LEN;
const D: usize = 256;
const HEADS: usize = 4;
const FFN: usize = 1024;
const VOCAB: usize = 1024;
const LAYERS: usize = 4;
const EPS: f32 = 1e-5;

const SQUARE: Linear = Linear { rows: ROWS, inputs: D, outputs: D };
const UP: Linear = Linear { rows: ROWS, inputs: D, outputs: FFN };
const DOWN: Linear = Linear { rows: ROWS, inputs: FFN, outputs: D };
const HEAD: Linear = Linear { rows: ROWS, inputs: D, outputs: VOCAB };
const ATTENTION: attention::Shape = attention::Shape {
    seqs: Sequences::Equal { batch: BATCH, len: LEN },
    heads: HEADS,
    kv_heads: HEADS,
    head_size: D / HEADS,
};

/// A norm's gain and bias, or their gradients.
struct Norm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

/// A layer's parameters, or their gradients.
struct Layer {
    norm1: Norm,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    norm2: Norm,
    up: Vec<f32>,
    down: Vec<f32>,
}

/// The model's parameters, or their gradients.
struct Model {
    table: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
    head: Vec<f32>,
}

/// Parameters drawn from `weight(count)`, norms filled with `gain` and 0.
fn model(mut weight: impl FnMut(usize) -> Vec<f32>, gain: f32) -> Model {
    let norm = || Norm { gain: vec![gain; D], bias: zeros(D) };
    let mut layer = |_| {
        let [q, k, v, o] = [(); 4].map(|()| weight(D * D));
        Layer { norm1: norm(), q, k, v, o, norm2: norm(), up: weight(FFN * D), down: weight(D * FFN) }
    };
    let layers = (0..LAYERS).map(&mut layer).collect();
    Model { table: weight(VOCAB * D), layers, norm: norm(), head: weight(VOCAB * D) }
}

/// What a norm keeps for its backward: input, output, mean and deviation.
struct NormTrace {
    x: Vec<f32>,
    y: Vec<f32>,
    stats: Vec<f32>,
}

impl NormTrace {
    fn new() -> Self {
        Self { x: zeros(ROWS * D), y: zeros(ROWS * D), stats: zeros(2 * ROWS) }
    }

    fn forward(&mut self, p: &Norm) -> Result<()> {
        layer_norm::forward(&self.x, &p.gain, &p.bias, EPS, &mut self.y, &mut self.stats)
    }

    /// Adds the norm's share to dx, the gradient of the residual stream.
    fn backward(&self, p: &Norm, dy: &[f32], dx: &mut [f32], g: &mut Norm) -> Result<()> {
        let (dgain, dbias) = (&mut g.gain, &mut g.bias);
        layer_norm::backward(&self.x, &p.gain, &self.stats, dy, dx, Store::Accumulate, dgain, dbias, Store::Overwrite)
    }
}

/// What a layer keeps for its backward.
struct LayerTrace {
    norm1: NormTrace,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    o: Vec<f32>,
    lse: Vec<f32>,
    norm2: NormTrace,
    up: Vec<f32>,
    active: Vec<f32>,
}

impl LayerTrace {
    fn new() -> Self {
        let [q, k, v, o] = [(); 4].map(|()| zeros(ROWS * D));
        let (up, active) = (zeros(ROWS * FFN), zeros(ROWS * FFN));
        Self { norm1: NormTrace::new(), q, k, v, o, lse: zeros(ROWS * HEADS), norm2: NormTrace::new(), up, active }
    }

    /// `norm1.x` is the layer's input; its output goes to `y`.
    fn forward(&mut self, p: &Layer, y: &mut [f32]) -> Result<()> {
        self.norm1.forward(&p.norm1)?;
        let h = &self.norm1.y;
        linear::forward(SQUARE, h, &p.q, None, &mut self.q, Store::Overwrite)?;
        linear::forward(SQUARE, h, &p.k, None, &mut self.k, Store::Overwrite)?;
        linear::forward(SQUARE, h, &p.v, None, &mut self.v, Store::Overwrite)?;
        attention::forward(&ATTENTION, &self.q, &self.k, &self.v, &mut self.o, &mut self.lse)?;
        self.norm2.x.copy_from_slice(&self.norm1.x);
        linear::forward(SQUARE, &self.o, &p.o, None, &mut self.norm2.x, Store::Accumulate)?;
        self.norm2.forward(&p.norm2)?;
        linear::forward(UP, &self.norm2.y, &p.up, None, &mut self.up, Store::Overwrite)?;
        gelu::forward(&self.up, &mut self.active)?;
        y.copy_from_slice(&self.norm2.x);
        linear::forward(DOWN, &self.active, &p.down, None, y, Store::Accumulate)
    }

    /// `dx`, the gradient of the layer's output, becomes that of its input.
    fn backward(&self, p: &Layer, dx: &mut [f32], g: &mut Layer, work: &mut Work) -> Result<()> {
        let Work { dh, dq, dk, dv, d_o, dup, dactive } = work;
        linear::backward_weight(DOWN, &self.active, dx, &mut g.down, Store::Overwrite)?;
        linear::backward_input(DOWN, &p.down, dx, dactive, Store::Overwrite)?;
        gelu::backward(&self.up, dactive, dup)?;
        linear::backward_weight(UP, &self.norm2.y, dup, &mut g.up, Store::Overwrite)?;
        linear::backward_input(UP, &p.up, dup, dh, Store::Overwrite)?;
        self.norm2.backward(&p.norm2, dh, dx, &mut g.norm2)?;

        linear::backward_weight(SQUARE, &self.o, dx, &mut g.o, Store::Overwrite)?;
        linear::backward_input(SQUARE, &p.o, dx, d_o, Store::Overwrite)?;
        let saved = Saved { q: &self.q, k: &self.k, v: &self.v, o: &self.o, lse: &self.lse };
        attention::backward(&ATTENTION, &saved, d_o, dq, dk, dv)?;
        let h = &self.norm1.y;
        let mut store = Store::Overwrite;
        for (w, dy, dw) in [(&p.q, &*dq, &mut g.q), (&p.k, &*dk, &mut g.k), (&p.v, &*dv, &mut g.v)] {
            linear::backward_weight(SQUARE, h, dy, dw, Store::Overwrite)?;
            linear::backward_input(SQUARE, w, dy, dh, store)?;
            store = Store::Accumulate;
        }
        self.norm1.backward(&p.norm1, dh, dx, &mut g.norm1)
    }
}

/// Gradients of activations, shared by the layers.
struct Work {
    dh: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    d_o: Vec<f32>,
    dup: Vec<f32>,
    dactive: Vec<f32>,
}

fn zeros(n: usize) -> Vec<f32> {
    vec![0.0; n]
}

fn main() -> Result<()> {
    let threads = rayon::current_num_threads();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    pool.install(|| train(threads))
}

fn train(threads: usize) -> Result<()> {
    let mut state = 1u64;
    let uniform = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The standard deviation of a uniform value in [-a, a] is a / sqrt(3); 0.02 is wanted.
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.02 * 3f32.sqrt()
    };
    let mut uniform = uniform;
    let p = model(|n| (0..n).map(&mut uniform).collect(), 1.0);
    let mut g = model(zeros, 0.0);
    let mut traces: Vec<LayerTrace> = (0..LAYERS).map(|_| LayerTrace::new()).collect();
    let (mut last, mut logits, mut nll, mut argmax) =
        (NormTrace::new(), zeros(ROWS * VOCAB), zeros(ROWS), vec![0; ROWS]);
    let [dh, dq, dk, dv, d_o] = [(); 5].map(|()| zeros(ROWS * D));
    let mut work = Work { dh, dq, dk, dv, d_o, dup: zeros(ROWS * FFN), dactive: zeros(ROWS * FFN) };
    let mut dx = zeros(ROWS * D);
    let ids: Vec<u32> = (0..ROWS as u32).map(|i| i * 7919 % VOCAB as u32).collect();
    let targets: Vec<u32> = (0..ROWS as u32).map(|i| (i * 104_729 + 1) % VOCAB as u32).collect();

    let mut times = Vec::new();
    let mut loss = 0.0;
    for _ in 0..12 {
        let start = Instant::now();
        embedding::forward(&ids, &p.table, D, &mut traces[0].norm1.x)?;
        for i in 0..LAYERS {
            let (done, next) = traces.split_at_mut(i + 1);
            let y = next.first_mut().map_or(&mut last.x, |t| &mut t.norm1.x);
            done[i].forward(&p.layers[i], y)?;
        }
        last.forward(&p.norm)?;
        linear::forward(HEAD, &last.y, &p.head, None, &mut logits, Store::Overwrite)?;
        let rows = cross_entropy::Rows { nll: &mut nll, argmax: &mut argmax };
        loss = cross_entropy::forward_backward(&mut logits, &targets, VOCAB, rows)?;
        let forward = start.elapsed().as_secs_f64() * 1e3;

        linear::backward_weight(HEAD, &last.y, &logits, &mut g.head, Store::Overwrite)?;
        linear::backward_input(HEAD, &p.head, &logits, &mut work.dh, Store::Overwrite)?;
        dx.fill(0.0);
        last.backward(&p.norm, &work.dh, &mut dx, &mut g.norm)?;
        for (i, trace) in traces.iter().enumerate().rev() {
            trace.backward(&p.layers[i], &mut dx, &mut g.layers[i], &mut work)?;
        }
        embedding::backward(&ids, &dx, D, &mut g.table, Store::Overwrite)?;
        times.push((start.elapsed().as_secs_f64() * 1e3, forward));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let [(least, forward), (median, _)] = [times[0], times[times.len() / 2]];
    println!("{threads} threads: {least:.1} ms (forward {forward:.1}), median {median:.1} ms, loss {loss:.4}");
    Ok(())
}

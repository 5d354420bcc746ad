//! Mixtures of experts on the GPU against the CPU op, every gradient; then timed beside dense products of as many operations.
//!
//! `cargo run --release -p kernels --example cuda_moe [-- check [--small]|time|once]`; exit code 1 if a case is out of bounds; once: each launch once, for
//! a profiler. Choices, load and the
//! balancing bias equal the CPU's, outputs and gradients are within a relative norm of 1e-4 (f32) or 2e-2 (bf16: the CPU op is given the
//! rounded inputs); a second run has the same bits. Work memory holds NaN before.

#[path = "../gpu/mod.rs"]
#[allow(dead_code, reason = "times are those of graphs here")]
mod gpu;
mod time;

use std::process::ExitCode;

use half::bf16;
use kernels::cuda::dense::{self, Experts, Mixture};
use kernels::cuda::{CudaError, CudaResult, Device, Dtype, Memory, Tensor};
use kernels::moe::{self, Options, Saved, Shape, Weight, Weights};
use kernels::{Error, Store};

fn main() -> ExitCode {
    gpu::ended(run())
}

fn run() -> CudaResult<ExitCode> {
    let only = gpu::asked(&["check", "time", "once"]);
    let device = Device::new(0)?;
    println!("{}, {}", device.name(), device.arch());
    let wrong = if matches!(only.as_deref(), Some("time" | "once")) {
        0
    } else {
        check(&device, std::env::args().any(|a| a == "--small"))?
    };
    if only.as_deref() != Some("check") {
        time::time(&device, only.as_deref() == Some("once"))?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the router's logits are like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Logits {
    Random,
    /// A few experts get all tokens.
    Few,
    Equal,
    Nan,
}

const ALL: Options = Options { renormalize: true, aux_weight: 0.3, z_weight: 0.1 };
const PLAIN: Options = Options { renormalize: false, aux_weight: 0.0, z_weight: 0.0 };

/// Cases out of bounds.
fn check(device: &Device, small: bool) -> CudaResult<usize> {
    let (mut cases, mut wrong, mut worst) = (0, 0, [0f64; 2]);
    for ([tokens, d, experts, top_k, ffn], logits) in [
        ([1, 8, 1, 1, 8], Logits::Random),
        ([1, 12, 5, 2, 5], Logits::Random),
        ([7, 16, 3, 1, 24], Logits::Random),
        ([129, 20, 4, 2, 12], Logits::Random),
        ([300, 33, 4, 3, 7], Logits::Few),
        ([300, 64, 8, 3, 40], Logits::Equal),
        ([300, 64, 40, 2, 72], Logits::Few),
        ([300, 64, 40, 2, 72], Logits::Nan),
        ([513, 136, 33, 8, 72], Logits::Random),
        ([64, 40, 70, 32, 8], Logits::Random),
        ([257, 32, 256, 16, 136], Logits::Random),
        ([2000, 256, 16, 2, 176], Logits::Random),
    ] {
        if small && tokens > 130 {
            continue;
        }
        for (options, bias) in [
            (PLAIN, false),
            (ALL, true),
            (Options { renormalize: false, ..ALL }, true),
            (Options { aux_weight: 0.0, ..ALL }, false),
        ] {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let shape = Shape { tokens, d, experts, top_k, ffn };
                let case = Case::new(shape, options, bias, logits, dtype)?;
                let (apart, faults) = case.check(device)?;
                let bound = if dtype == Dtype::F32 { 1e-4 } else { 2e-2 };
                let worst = &mut worst[usize::from(dtype == Dtype::Bf16)];
                *worst = apart.iter().fold(*worst, |w, a| w.max(a.1));
                let far = apart.into_iter().filter(|a| a.1.is_nan() || a.1 > bound);
                let all: Vec<String> = far.map(|(name, apart)| format!("{name} {apart:.1e}")).chain(faults).collect();
                cases += 1;
                if !all.is_empty() {
                    wrong += 1;
                    println!("{shape:?} {options:?} bias {bias} {logits:?} {dtype:?}: {}", all.join(", "));
                }
            }
        }
    }
    println!("{cases} cases, {wrong} out of bounds, worst f32 {:.1e}, bf16 {:.1e}", worst[0], worst[1]);
    Ok(wrong)
}

/// Uniform numbers of size `scale`.
fn drawn(len: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let draw = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(draw).collect()
}

/// A row of a type on the device: all of its bits set (NaN), or these values.
fn flat(device: &Device, len: usize, dtype: Dtype, values: Option<&[f32]>) -> CudaResult<Tensor> {
    let words = (len * dtype.bytes()).div_ceil(4).max(1);
    let memory = Memory::new(device, words * 4)?;
    Tensor::new(&memory, 0, 1, words, words, Dtype::U32)?.write(device, &vec![u32::MAX; words])?;
    let tensor = Tensor::new(&memory, 0, 1, len, len, dtype)?;
    match (values, dtype) {
        (Some(values), Dtype::Bf16) => {
            tensor.write(device, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>())?;
        }
        (Some(values), _) => tensor.write(device, values)?,
        (None, _) => {}
    }
    Ok(tensor)
}

/// `[rows, cols]` with 8 elements of NaN behind each row.
fn matrix(device: &Device, rows: usize, cols: usize, dtype: Dtype, values: Option<&[f32]>) -> CudaResult<Tensor> {
    let stride = cols.next_multiple_of(8) + 8;
    let apart = values.map(|v| {
        let row =
            |row: &[f32]| row.iter().copied().chain(std::iter::repeat_n(f32::NAN, stride - cols)).collect::<Vec<_>>();
        v.chunks(cols).flat_map(row).collect::<Vec<f32>>()
    });
    let all = flat(device, rows * stride, dtype, apart.as_deref())?;
    Tensor::new(all.memory(), 0, rows, cols, stride, dtype)
}

struct Case {
    shape: Shape,
    options: Options,
    logits_are: Logits,
    dtype: Dtype,
    /// x, logits, gate, up, down, dy, as the device has them.
    inputs: [Vec<f32>; 6],
    bias: Option<Vec<f32>>,
}

/// What a run finds: outputs and gradients by name, and what has to be equal.
struct Found {
    near: Vec<(&'static str, Vec<f32>)>,
    choices: Vec<u32>,
    load: Vec<usize>,
    bias: Vec<f32>,
}

/// The relative distance of each tensor.
type Distances = Vec<(&'static str, f64)>;

const NAMES: [&str; 7] = ["y", "aux", "dx", "dlogits", "dgate", "dup", "ddown"];
const SHARE: f32 = 0.5;
const GAMMA: f32 = 0.01;

impl Case {
    fn new(shape: Shape, options: Options, bias: bool, logits_are: Logits, dtype: Dtype) -> CudaResult<Self> {
        let Shape { tokens, d, experts, ffn, .. } = shape;
        let logits = match logits_are {
            Logits::Random => drawn(tokens * experts, 2, 3.0),
            Logits::Few => {
                let far = |(i, v): (usize, &f32)| if i % experts < 4 { *v } else { v - 40.0 };
                drawn(tokens * experts, 2, 3.0).iter().enumerate().map(far).collect()
            }
            Logits::Equal => vec![0.5; tokens * experts],
            Logits::Nan => vec![f32::NAN; tokens * experts],
        };
        let weight = |seed, inner: usize| drawn(experts * ffn * d, seed, 2.0 / (inner as f32).sqrt());
        let mut inputs =
            [drawn(tokens * d, 1, 1.0), logits, weight(3, d), weight(4, d), weight(5, ffn), drawn(tokens * d, 6, 1.0)];
        if dtype == Dtype::Bf16 {
            inputs.iter_mut().flatten().for_each(|v| *v = bf16::from_f32(*v).to_f32());
        }
        let bias = bias.then(|| drawn(experts, 7, 0.2));
        Ok(Self { shape, options, logits_are, dtype, inputs, bias })
    }

    fn weights(&self) -> Weights<'_> {
        Weights { gate: &self.inputs[2], up: &self.inputs[3], down: &self.inputs[4] }
    }

    fn cpu(&self) -> Result<Found, Error> {
        let Shape { tokens, d, experts, ffn, .. } = self.shape;
        let [x, logits, .., dy] = &self.inputs;
        let (mut y, mut saved) = (vec![0.0; tokens * d], Saved::default());
        let w = self.weights();
        moe::forward(self.shape, self.options, x, logits, self.bias.as_deref(), w, &mut y, &mut saved)?;
        let (aux, choices) = (saved.aux(), saved.choices().to_vec());
        let (mut dx, mut dlogits) = (vec![0.0; tokens * d], vec![0.0; tokens * experts]);
        let Options { renormalize, aux_weight, z_weight } = self.options;
        let shared = Options { renormalize, aux_weight: SHARE * aux_weight, z_weight: SHARE * z_weight };
        moe::backward_input(self.shape, shared, w, &mut saved, dy, &mut dx, &mut dlogits)?;
        let mut near = vec![y, vec![aux], dx, dlogits];
        for weight in [Weight::Gate, Weight::Up, Weight::Down] {
            let mut dw = vec![0.0; experts * ffn * d];
            moe::backward_weight(self.shape, &saved, weight, &mut dw, Store::Overwrite)?;
            near.push(dw);
        }
        let load: Vec<usize> = saved.load().collect();
        let mean = load.iter().sum::<usize>() as f64 / experts as f64;
        let excess: Vec<f32> = load.iter().map(|&n| (n as f64 - mean) as f32).collect();
        let mut bias = self.bias.clone().unwrap_or_else(|| vec![0.0; experts]);
        moe::rebalance(GAMMA, &excess, &mut bias)?;
        Ok(Found { near: NAMES.into_iter().zip(near).collect(), choices, load, bias })
    }

    /// One forward and `times` backward passes, each from a forward of its own, the later ones added to the first.
    fn gpu(&self, device: &Device, times: usize) -> CudaResult<Found> {
        let (s, dtype) = (self.shape, self.dtype);
        let Shape { tokens, d, experts, ffn, .. } = s;
        let [x, logits, gate, up, down, dy] = &self.inputs;
        let input = |cols: usize, v: &[f32]| matrix(device, tokens, cols, dtype, Some(v));
        let (x, logits, dy) = (input(d, x)?, input(experts, logits)?, input(d, dy)?);
        let of = |v: &[f32]| flat(device, v.len(), dtype, Some(v));
        let (gate, up, down) = (of(gate)?, of(up)?, of(down)?);
        let w: Experts<'_> = [&gate, &up, &down];
        let row = |len| flat(device, len, Dtype::F32, None);
        let slots = Mixture::slots(s);
        let by_slot = |cols| -> CudaResult<Tensor> {
            let stride = usize::next_multiple_of(cols, 8);
            Tensor::new(flat(device, slots * stride, dtype, None)?.memory(), 0, slots, cols, stride, dtype)
        };
        let (y, dx) = (matrix(device, tokens, d, dtype, None)?, matrix(device, tokens, d, dtype, None)?);
        let dlogits = matrix(device, tokens, experts, dtype, None)?;
        let dw = [row(experts * ffn * d)?, row(experts * ffn * d)?, row(experts * ffn * d)?];
        let outcome = flat(device, experts + 1, Dtype::U32, None)?;
        let (excess, share, norm) =
            (row(experts)?, flat(device, 1, Dtype::F32, Some(&[SHARE]))?, flat(device, 1, Dtype::F32, Some(&[1.0]))?);
        let start = self.bias.clone().unwrap_or_else(|| vec![0.0; experts]);
        let bias = flat(device, experts, Dtype::F32, Some(&start))?;
        let routing = row(Mixture::words(s))?;
        let m = Mixture { shape: s, options: self.options, routing: &routing };
        for time in 0..times {
            let (both, hidden, out) = (by_slot(2 * ffn)?, by_slot(ffn)?, by_slot(d)?);
            let add = time > 0;
            dense::moe_route(
                device,
                m,
                &logits,
                self.bias.as_ref().map(|_| &bias),
                &row(Mixture::route_parts(s))?,
                &outcome,
            )?;
            dense::moe_experts(device, m, &x, w, Some(&both), (&hidden, &out), &y)?;
            let (hidden, out, parts) = (by_slot(ffn)?, by_slot(d)?, row(Mixture::weight_parts(s))?);
            dense::moe_backward(device, m, &dy, w, &both, (&hidden, &parts, &out), (&dx, add))?;
            dense::moe_weights_backward(device, m, (&x, &dy), (&both, &hidden), dw.each_ref(), [add; 3])?;
            dense::moe_route_backward(device, m, &logits, (&parts, &outcome, &share), &dlogits)?;
            dense::moe_excess(device, s, &outcome, &excess, false)?;
        }
        dense::rebalance(device, GAMMA, &excess, &bias, &norm)?;
        let words = outcome.read::<u32>(device)?;
        let mut near = vec![y.read_f32(device)?, vec![f32::from_bits(words[experts])], dx.read_f32(device)?];
        near.push(dlogits.read_f32(device)?);
        for dw in &dw {
            near.push(dw.read_f32(device)?);
        }
        Ok(Found {
            near: NAMES.into_iter().zip(near).collect(),
            choices: m.choices()?.read(device)?,
            load: words[..experts].iter().map(|&n| n as usize).collect(),
            bias: bias.read(device)?,
        })
    }

    /// How far tensors are from the CPU's, and what is not as it has to be.
    fn check(&self, device: &Device) -> CudaResult<(Distances, Vec<String>)> {
        let want = self.cpu().map_err(CudaError::Argument)?;
        let (have, again, twice) = (self.gpu(device, 1)?, self.gpu(device, 1)?, self.gpu(device, 2)?);
        let bits = |found: &Found| -> Vec<u32> { found.near.iter().flat_map(|t| &t.1).map(|v| v.to_bits()).collect() };
        let mut faults = Vec::new();
        let mut fault = |is: bool, what: &str| {
            if is {
                faults.push(what.into())
            }
        };
        fault(bits(&have) != bits(&again), "two runs differ");
        fault(have.choices != want.choices, "other choices");
        fault(have.load != want.load, "another load");
        fault(have.bias != want.bias, "another bias");
        if self.logits_are == Logits::Nan {
            return Ok((Vec::new(), faults));
        }
        let mut apart = Vec::new();
        for (((name, want), (_, have)), (_, twice)) in want.near.iter().zip(&have.near).zip(&twice.near) {
            apart.push((*name, distance(want, have, 1.0)));
            let added = if ["dx", "dgate", "dup", "ddown"].contains(name) { 2.0 } else { 1.0 };
            apart.push((*name, distance(want, twice, added)));
        }
        Ok((apart, faults))
    }
}

/// `|have - factor want| / |factor want|`.
fn distance(want: &[f32], have: &[f32], factor: f64) -> f64 {
    let of = |v: f32| factor * f64::from(v);
    let apart: f64 = want.iter().zip(have).map(|(&w, &h)| (f64::from(h) - of(w)).powi(2)).sum();
    let size: f64 = want.iter().map(|&w| of(w).powi(2)).sum();
    if want.len() != have.len() { f64::NAN } else { (apart / size.max(1e-12)).sqrt() }
}

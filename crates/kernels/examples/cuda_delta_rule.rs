//! The gated delta rule on a GPU against the CPU op in f32: o and every gradient; then times.
//!
//! `cargo run --release -p kernels --example cuda_delta_rule [-- check|time [N]]`, of the N-th size alone; exit code 1 if a tensor is
//! further away than 1e-4 in f32 or 2e-2 in bf16, relative to its norm, if two runs differ by a bit or if anything beside the outputs
//! was written. The gradients of a_log and dt_bias are sums over all tokens, which may nearly cancel: they are held against the sums of
//! their terms' sizes. Inputs are columns of one buffer, rounded to bf16 for both; outputs, the gaps beside them and the work hold NaN
//! before.

mod gpu;

use std::process::ExitCode;

use gpu::median;
use half::bf16;
use kernels::cuda::dense::{self, DeltaGrad, DeltaRule, DeltaShape};
use kernels::cuda::{CudaResult, Device, Dtype, Memory, Tensor};
use kernels::{Sequences, gated_delta_rule as cpu};

/// Columns between two inputs, and between two outputs.
const GAP: usize = 8;
const NAMES: [&str; 8] = ["o", "dq", "dk", "dv", "da", "db", "da_log", "ddt_bias"];

/// One call: sequences of equal length, or packed by borders.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    len: usize,
    borders: Option<Vec<usize>>,
    heads: usize,
    key_size: usize,
    value_size: usize,
    dtype: Dtype,
}

fn main() -> ExitCode {
    gpu::ended(run())
}

fn run() -> CudaResult<ExitCode> {
    let only = gpu::asked(&["check", "time"]);
    let device = Device::new(0)?;
    println!("{}, {}", device.name(), device.arch());
    let size = std::env::args().nth(2).and_then(|n| n.parse().ok());
    let wrong = if only.as_deref() == Some("time") { 0 } else { check(&device, size)? };
    if only.as_deref() != Some("check") {
        time(&device, size)?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One of them, or all.
fn chosen<T: Copy>(all: &[T], only: Option<usize>) -> Vec<T> {
    all.iter().enumerate().filter(|(i, _)| only.is_none_or(|only| only == *i)).map(|(_, size)| *size).collect()
}

/// Cases that are wrong.
fn check(device: &Device, only: Option<usize>) -> CudaResult<usize> {
    let sizes = [(1, 2, 1), (2, 3, 8), (1, 16, 16), (3, 40, 24), (2, 128, 128), (1, 256, 64), (1, 72, 160)];
    let rows = [
        (2, 1, None),
        (1, 63, None),
        (3, 64, None),
        (1, 65, None),
        (1, 1000, None),
        (1, 194, Some(vec![0, 64, 65, 194])),
    ];
    let (mut cases, mut wrong, mut worst) = (0, 0, [[0.0f64; 8]; 2]);
    for (heads, key_size, value_size) in chosen(&sizes, only) {
        for (batch, len, borders) in rows.clone() {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let case = Case { batch, len, borders: borders.clone(), heads, key_size, value_size, dtype };
                let found = Setup::new(device, case.clone())?.distances(device)?;
                let allowed = if dtype == Dtype::F32 { 1e-4 } else { 2e-2 };
                let bad = found.iter().any(|d| d.is_nan() || *d > allowed);
                cases += 1;
                wrong += usize::from(bad);
                let worst = &mut worst[usize::from(dtype == Dtype::Bf16)];
                worst.iter_mut().zip(&found).for_each(|(w, d)| *w = w.max(*d));
                if bad {
                    println!("{case:?}: {}", line(&found));
                }
            }
        }
    }
    println!("{cases} cases, {wrong} wrong; worst f32: {}; bf16: {}", line(&worst[0]), line(&worst[1]));
    Ok(wrong)
}

fn line(distances: &[f64; 8]) -> String {
    NAMES.iter().zip(distances).map(|(name, d)| format!("{name} {d:.1e}")).collect::<Vec<_>>().join(", ")
}

/// The operands of a case, on both sides.
struct Setup {
    case: Case,
    shape: DeltaShape,
    /// q, k, v, a, b, then a_log, dt_bias, then do.
    host: [Vec<f32>; 8],
    inputs: [Tensor; 5],
    params: [Tensor; 2],
    d_o: Tensor,
    cu: Option<Tensor>,
}

/// A matrix of NaN.
fn poisoned(device: &Device, rows: usize, cols: usize, dtype: Dtype) -> CudaResult<Tensor> {
    let all = Tensor::new(&Memory::new(device, (rows * cols).max(1) * dtype.bytes())?, 0, rows, cols, cols, dtype)?;
    match dtype {
        Dtype::Bf16 => all.write(device, &vec![bf16::NAN; rows * cols])?,
        Dtype::F64 => all.write(device, &vec![f64::NAN; rows * cols])?,
        _ => all.write(device, &vec![f32::NAN; rows * cols])?,
    }
    Ok(all)
}

/// Matrices side by side, each with a gap behind it.
fn columns(all: &Tensor, widths: &[usize]) -> CudaResult<Vec<Tensor>> {
    let mut at = 0;
    let parts = widths.iter().map(|&cols| {
        at += cols.next_multiple_of(8) + GAP;
        all.columns(at - cols.next_multiple_of(8) - GAP, cols)
    });
    parts.collect()
}

fn width(widths: &[usize]) -> usize {
    widths.iter().map(|cols| cols.next_multiple_of(8) + GAP).sum()
}

fn array<const N: usize>(tensors: Vec<Tensor>) -> [Tensor; N] {
    tensors.try_into().unwrap_or_else(|_| unreachable!("as many as widths"))
}

impl Setup {
    fn new(device: &Device, case: Case) -> CudaResult<Self> {
        let Case { batch, len, heads, key_size, value_size, dtype, .. } = case;
        let rows = batch * len;
        let mut seed = 7u64;
        // Uniform, of unit size times `scale`.
        let mut drawn = |len: usize, scale: f32| -> Vec<f32> {
            let next = |_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                bf16::from_f32(((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale).to_f32()
            };
            (0..len).map(next).collect()
        };
        let widths = [heads * key_size, heads * key_size, heads * value_size, heads, heads];
        let [q, k, v, a, b] = widths.map(|cols| drawn(rows * cols, 1.5));
        let host = [q, k, v, a, b, drawn(heads, 1.0), drawn(heads, 1.0), drawn(rows * widths[2], 1.0)];
        let all = poisoned(device, rows, width(&widths), dtype)?;
        let inputs: [Tensor; 5] = array(columns(&all, &widths)?);
        let mut filled = vec![f32::NAN; rows * all.cols];
        let mut at = 0;
        for (x, &cols) in host.iter().zip(&widths) {
            for row in 0..rows {
                filled[row * all.cols + at..][..cols].copy_from_slice(&x[row * cols..][..cols]);
            }
            at += cols.next_multiple_of(8) + GAP;
        }
        write(device, &all, &filled)?;
        let flat = |values: &[f32], rows: usize, dtype: Dtype| -> CudaResult<Tensor> {
            let cols = values.len() / rows;
            let t = poisoned(device, rows, cols, dtype)?;
            write(device, &t, values)?;
            Ok(t)
        };
        let params = [flat(&host[5], 1, Dtype::F32)?, flat(&host[6], 1, Dtype::F32)?];
        let d_o = flat(&host[7], rows, dtype)?;
        let mut seqs = batch;
        let cu = match &case.borders {
            None => None,
            Some(borders) => {
                // Room for one sequence more than there is.
                seqs = borders.len();
                let words: Vec<u32> = borders.iter().chain([&rows]).map(|&b| b as u32).collect();
                let t =
                    Tensor::new(&Memory::new(device, words.len() * 4)?, 0, 1, words.len(), words.len(), Dtype::U32)?;
                t.write(device, &words)?;
                Some(t)
            }
        };
        let shape = DeltaShape { rows, seqs, heads, key_size, value_size };
        Ok(Self { case, shape, host, inputs, params, d_o, cu })
    }

    fn op(&self) -> DeltaRule<'_> {
        let [q, k, v, a, b] = &self.inputs;
        let [a_log, dt_bias] = &self.params;
        DeltaRule { shape: self.shape, cu_seqlens: self.cu.as_ref(), inputs: [q, k, v, a, b], params: [a_log, dt_bias] }
    }

    /// o and the gradients by the CPU.
    fn want(&self) -> [Vec<f32>; 8] {
        let Case { batch, len, heads, key_size, value_size, .. } = self.case;
        let seqs = match &self.case.borders {
            Some(borders) => Sequences::Packed { cu_seqlens: borders },
            None => Sequences::Equal { batch, len },
        };
        let s = cpu::Shape { seqs, heads, key_size, value_size };
        let [q, k, v, a, b, a_log, dt_bias, d_o] = &self.host;
        let input = cpu::Input { q, k, v, a, b, a_log, dt_bias, initial_state: None };
        let mut saved = vec![0.0; s.saved_len()];
        let lens = [v.len(), q.len(), k.len(), v.len(), a.len(), b.len(), heads, heads];
        let mut all = lens.map(|len| vec![0.0; len]);
        let [o, dq, dk, dv, da, db, da_log, ddt_bias] = &mut all;
        cpu::forward(&s, &input, o, None, &mut saved).expect("sizes that fit");
        let grads = cpu::Grads { dq, dk, dv, da, db, da_log, ddt_bias, dinitial_state: None };
        cpu::backward(&s, &input, &saved, d_o, None, grads).expect("sizes that fit");
        all
    }

    /// Everything written, with the gaps.
    fn have(&self, device: &Device) -> CudaResult<(Outputs, [Vec<f32>; 8], usize)> {
        let out = Outputs::new(device, self)?;
        out.forward(device, self)?;
        out.backward(device, self)?;
        let mut nan = 0;
        let tensors: Vec<&Tensor> = [&out.o].into_iter().chain(&out.inputs).chain(&out.params).collect();
        let mut values: Vec<Vec<f32>> = Vec::new();
        for t in tensors {
            values.push(t.read_f32(device)?);
        }
        for whole in [&out.o_all, &out.inputs_all] {
            nan += whole.read_f32(device)?.iter().filter(|v| v.is_nan()).count();
        }
        Ok((out, values.try_into().unwrap_or_else(|_| unreachable!("eight tensors")), nan))
    }

    /// Relative distances from the CPU's; NaN if two runs differ or a gap was written.
    fn distances(&self, device: &Device) -> CudaResult<[f64; 8]> {
        let (out, have, nan) = self.have(device)?;
        let (_, again, _) = self.have(device)?;
        let gaps = out.o_all.cols - out.o.cols + out.inputs_all.cols - out.inputs.iter().map(|t| t.cols).sum::<usize>();
        let bits = |all: &[Vec<f32>; 8]| all.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let sound = bits(&have) == bits(&again) && nan == gaps * self.shape.rows;
        let want = self.want();
        let wide = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let terms = self.terms(&want[4]);
        Ok(std::array::from_fn(|i| {
            let (want, have) = (wide(&want[i]), wide(&have[i]));
            let apart: Vec<f64> = want.iter().zip(&have).map(|(a, b)| a - b).collect();
            let size = if i < 6 { norm(&want) } else { norm(&terms[i - 6]) };
            if sound { norm(&apart) / size.max(1e-30) } else { f64::NAN }
        }))
    }

    /// For each head, the sums over the tokens of the sizes of what the gradients of a_log and dt_bias are sums of.
    fn terms(&self, da: &[f32]) -> [Vec<f64>; 2] {
        let [.., a, _, _, dt_bias, _] = &self.host;
        let heads = self.case.heads;
        let mut sums = [vec![0.0; heads], vec![0.0; heads]];
        for (i, (a, da)) in a.iter().zip(da).enumerate() {
            let x = f64::from(*a) + f64::from(dt_bias[i % heads]);
            // softplus over its slope: from a term of dt_bias's gradient to that of a_log's.
            let ratio = x.exp().ln_1p() * (1.0 + (-x).exp());
            sums[0][i % heads] += f64::from(da.abs()) * ratio;
            sums[1][i % heads] += f64::from(da.abs());
        }
        sums
    }
}

fn write(device: &Device, t: &Tensor, values: &[f32]) -> CudaResult<()> {
    match t.dtype {
        Dtype::Bf16 => t.write(device, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>()),
        _ => t.write(device, values),
    }
}

/// Where a case writes.
struct Outputs {
    o_all: Tensor,
    o: Tensor,
    inputs_all: Tensor,
    inputs: [Tensor; 5],
    params: [Tensor; 2],
    work: [Tensor; 5],
    more: [Tensor; 4],
    shares: Tensor,
}

impl Outputs {
    fn new(device: &Device, setup: &Setup) -> CudaResult<Self> {
        let DeltaShape { rows, heads, .. } = setup.shape;
        let dtype = setup.case.dtype;
        let widths = setup.inputs.each_ref().map(|t| t.cols);
        let o_all = poisoned(device, rows, width(&widths[2..3]), dtype)?;
        let inputs_all = poisoned(device, rows, width(&widths), dtype)?;
        let work = |shapes: &[(usize, usize)]| -> CudaResult<Vec<Tensor>> {
            shapes.iter().map(|&(rows, cols)| poisoned(device, rows, cols, Dtype::F32)).collect()
        };
        Ok(Self {
            o: o_all.columns(0, widths[2])?,
            o_all,
            inputs: array(columns(&inputs_all, &widths)?),
            inputs_all,
            params: [poisoned(device, 1, heads, Dtype::F32)?, poisoned(device, 1, heads, Dtype::F32)?],
            work: array(work(&setup.shape.work())?),
            more: array(work(&setup.shape.work_backward())?),
            shares: poisoned(device, 1, setup.shape.shares(), Dtype::F64)?,
        })
    }

    fn forward(&self, device: &Device, setup: &Setup) -> CudaResult<()> {
        dense::gated_delta_rule(device, setup.op(), &self.o, self.work.each_ref())
    }

    fn backward(&self, device: &Device, setup: &Setup) -> CudaResult<()> {
        let (inputs, params) = (self.inputs.each_ref(), self.params.each_ref());
        let grad = DeltaGrad { inputs, params, accumulate: [false; 2] };
        let work = (self.work.each_ref(), self.more.each_ref(), &self.shares);
        dense::gated_delta_rule_backward(device, setup.op(), &setup.d_o, grad, work)
    }
}

/// Microseconds of a pass in bf16 and f32.
fn time(device: &Device, only: Option<usize>) -> CudaResult<()> {
    let sizes = [(32, 512, 2, 128, 128), (4, 4096, 2, 256, 512), (4, 4096, 8, 128, 128)];
    for (batch, len, heads, key_size, value_size) in chosen(&sizes, only) {
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let case = Case { batch, len, borders: None, heads, key_size, value_size, dtype };
            let setup = Setup::new(device, case)?;
            let out = Outputs::new(device, &setup)?;
            let forward = median(device, 10, || out.forward(device, &setup))?;
            let backward = median(device, 10, || out.backward(device, &setup))?;
            let per_token = 6 * key_size * value_size + 4 * 64 * key_size + 3 * 64 * value_size;
            let flop = (batch * len * heads * per_token) as f64;
            println!(
                "{batch} x {len}, {heads} heads of {key_size} and {value_size}, {dtype:?}: forward {forward:.1} us ({:.1} TFLOP/s), \
                 backward {backward:.1} us ({:.1})",
                flop / forward / 1e6,
                2.5 * flop / backward / 1e6
            );
        }
    }
    Ok(())
}

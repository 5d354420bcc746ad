//! Mamba-2's recurrence on the GPU against the CPU op in f32, every output and gradient; then timed.
//!
//! `cargo run --release -p kernels --example cuda_ssd [-- check [HEAD_SIZE]|time]`, on a machine with a GPU; exit code 1 if a tensor is further
//! apart than 1e-4 of its norm in f32 or 2e-2 in bf16, if two runs differ in a bit, or if anything outside of an output was written.
//! The operands are columns of one wide buffer of NaN; what the launches write and work in holds NaN before.

mod gpu;

use std::process::ExitCode;

use gpu::median;
use half::bf16;
use kernels::cuda::dense::{self, Ssd, SsdGrad, SsdShape, chunk_count};
use kernels::cuda::{CudaResult, Device, Dtype, Memory, Tensor};
use kernels::{Sequences, ssd};

/// Heads, columns of one, groups, rows of a state.
type Sizes = (usize, usize, usize, usize);

const NAMES: [&str; 8] = ["y", "dx", "db", "dc", "ddt", "da_log", "ddt_bias", "dd"];

fn main() -> ExitCode {
    gpu::ended(run())
}

fn run() -> CudaResult<ExitCode> {
    let only = gpu::asked(&["check", "time"]);
    let device = Device::new(0)?;
    println!("{}, {}", device.name(), device.arch());
    let head_size = std::env::args().nth(2).and_then(|size| size.parse().ok());
    let wrong = if only.as_deref() == Some("time") { 0 } else { check(&device, head_size)? };
    if only.as_deref() != Some("check") {
        time(&device)?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tensors that differ, of heads of all sizes or of one.
fn check(device: &Device, head_size: Option<usize>) -> CudaResult<usize> {
    let (mut wrong, mut cases, mut worst) = (0, 0, [[0.0f64; 8]; 2]);
    let lengths: [&[usize]; 8] =
        [&[1], &[63, 63], &[64], &[65], &[1000], &[1, 63, 64, 65, 1000], &[194], &[3, 1, 2, 1]];
    let all: [Sizes; 6] =
        [(2, 64, 1, 64), (4, 19, 1, 216), (6, 38, 2, 32), (4, 6, 2, 4), (3, 1, 3, 5), (2, 128, 1, 256)];
    for sizes in all.into_iter().filter(|sizes| head_size.is_none_or(|size| sizes.1 == size)) {
        for lens in lengths {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                cases += 1;
                let place = usize::from(dtype == Dtype::Bf16);
                let (apart, bound) =
                    (Setup::new(device, sizes, lens, dtype, true)?.apart(device)?, [1e-4, 2e-2][place]);
                for (i, apart) in apart.into_iter().enumerate() {
                    worst[place][i] = worst[place][i].max(apart);
                    if apart.is_nan() || apart > bound {
                        wrong += 1;
                        println!("{sizes:?}, {lens:?}, {dtype:?}: {} {apart:.2e} apart", NAMES[i]);
                    }
                }
            }
        }
    }
    let line = |worst: &[f64; 8]| NAMES.iter().zip(worst).map(|(n, w)| format!("{n} {w:.1e}")).collect::<Vec<_>>();
    println!("f32: {}\nbf16: {}", line(&worst[0]).join(", "), line(&worst[1]).join(", "));
    println!("{cases} cases, {wrong} tensors out of bounds");
    Ok(wrong)
}

/// A case, its operands on the host and on the device.
struct Setup {
    sizes: Sizes,
    borders: Vec<usize>,
    equal: bool,
    dtype: Dtype,
    /// x, b, c, dt, dy; a_log, dt_bias, d.
    values: [Vec<f32>; 5],
    params: [Vec<f32>; 3],
    inputs: [Tensor; 5],
    by_head: [Tensor; 3],
    cu: Tensor,
    shape: SsdShape,
    plan: Tensor,
    saved: Tensor,
    work: [Tensor; 2],
}

/// A matrix of NaN, `rows` by `cols`, rows `stride` apart.
fn poisoned(device: &Device, rows: usize, cols: usize, stride: usize, dtype: Dtype) -> CudaResult<Tensor> {
    let all = Tensor::new(&Memory::new(device, rows * stride * dtype.bytes())?, 0, rows, stride, stride, dtype)?;
    match dtype {
        Dtype::Bf16 => all.write(device, &vec![bf16::NAN; rows * stride])?,
        Dtype::F64 => all.write(device, &vec![f64::NAN; rows * stride])?,
        _ => all.write(device, &vec![f32::NAN; rows * stride])?,
    }
    all.columns(0, cols)
}

fn write(device: &Device, t: &Tensor, values: &[f32]) -> CudaResult<()> {
    match t.dtype {
        Dtype::Bf16 => t.write(device, &values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>()),
        _ => t.write(device, values),
    }
}

impl Setup {
    /// Sequences of these lengths; of equal ones, as rows of a batch. With `apart`, operands whose columns lie in wider buffers.
    fn new(device: &Device, sizes: Sizes, lens: &[usize], dtype: Dtype, apart: bool) -> CudaResult<Self> {
        let (heads, head_size, groups, state_size) = sizes;
        let mut borders = vec![0];
        lens.iter().for_each(|len| borders.push(borders[borders.len() - 1] + len));
        let (rows, equal) = (borders[lens.len()], lens.iter().all(|len| *len == lens[0]));
        let mut seed = 7u64;
        let mut drawn = |len: usize, low: f32, high: f32| -> Vec<f32> {
            let values = (0..len).map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let v = low + (high - low) * ((seed >> 40) as f32 / (1u64 << 24) as f32);
                if dtype == Dtype::Bf16 { bf16::from_f32(v).to_f32() } else { v }
            });
            values.collect()
        };
        let cols = [heads * head_size, groups * state_size, groups * state_size, heads, heads * head_size];
        let values = cols.map(|cols| drawn(rows * cols, -1.0, 1.0));
        // Rates of 1 to 16 and steps of 0.001 to 2: memories of a token and of more than a chunk.
        let params = [drawn(heads, 0.0, 2.77), drawn(heads, -6.0, 2.0), drawn(heads, 0.5, 1.5)];
        // Side by side from an odd column on, then as the columns of a product lie, at multiples of 8.
        let stride = (cols.iter().sum::<usize>() + 16).next_multiple_of(8);
        let whole = poisoned(device, rows, stride, stride, dtype)?;
        let mut wide = vec![f32::NAN; rows * stride];
        let mut at = if apart && lens.len() > 1 { 1 } else { 0 };
        let mut inputs = Vec::new();
        for (values, cols) in values.iter().zip(cols) {
            for row in 0..rows {
                wide[row * stride + at..][..cols].copy_from_slice(&values[row * cols..][..cols]);
            }
            inputs.push(whole.columns(at, cols)?);
            at += cols;
        }
        write(device, &whole, &wide)?;
        let by_head = params.iter().map(|p| {
            let t = poisoned(device, 1, heads, heads, Dtype::F32)?;
            t.write(device, p)?;
            Ok(t)
        });
        let by_head: Vec<Tensor> = by_head.collect::<CudaResult<_>>()?;
        // A packed batch has room for more sequences than it holds.
        let room = if equal { lens.len() } else { lens.len().next_power_of_two() };
        let mut words: Vec<u32> = borders.iter().map(|&at| at as u32).collect();
        words.resize(room + 1, rows as u32);
        let flat = |len: usize, dtype| Tensor::new(&Memory::new(device, 4 * len)?, 0, 1, len, len, dtype);
        let cu = flat(room + 1, Dtype::U32)?;
        cu.write(device, &words)?;
        let chunks = chunk_count(rows, room, equal);
        let shape = SsdShape { sequences: room, chunks, heads, head_size, groups, state_size };
        let row = |len: usize, dtype| poisoned(device, 1, len, len, dtype);
        Ok(Self {
            sizes,
            equal,
            dtype,
            values,
            params,
            inputs: inputs.try_into().unwrap_or_else(|_| unreachable!("five operands")),
            by_head: by_head.try_into().unwrap_or_else(|_| unreachable!("three parameters")),
            cu,
            shape,
            plan: flat(4 * chunks, Dtype::U32)?,
            saved: row(shape.saved_len(), Dtype::F32)?,
            work: [row(shape.work_len(), Dtype::F32)?, row(shape.shares_len(), Dtype::F64)?],
            borders,
        })
    }

    fn op(&self) -> Ssd<'_> {
        let [x, b, c, dt, _] = &self.inputs;
        let [a_log, dt_bias, d] = &self.by_head;
        let params = [a_log, dt_bias, d];
        Ssd { sequences: self.shape.sequences, groups: self.sizes.2, plan: &self.plan, x, b, c, dt, params }
    }

    fn forward(&self, device: &Device, y: &Tensor) -> CudaResult<()> {
        dense::ssd(device, self.op(), y, &self.saved)
    }

    fn backward(
        &self,
        device: &Device,
        [dx, db, dc, ddt]: [&Tensor; 4],
        params: [(&Tensor, bool); 3],
    ) -> CudaResult<()> {
        let grad = SsdGrad { dx, db, dc, ddt, params };
        let [work, shares] = &self.work;
        dense::ssd_backward(device, self.op(), &self.saved, &self.inputs[4], grad, [work, shares])
    }

    /// y and all gradients, in the order of `NAMES`, and whether the gaps beside them were left alone.
    fn run(&self, device: &Device) -> CudaResult<(Vec<Vec<f32>>, bool)> {
        // In vectors where the operands are.
        let (rows, gap) = (self.inputs[0].rows, if self.borders.len() > 2 { 3 } else { 8 });
        let outputs: Vec<Tensor> = [0, 0, 1, 2, 3]
            .into_iter()
            .map(|i: usize| {
                let cols = self.inputs[i].cols;
                poisoned(device, rows, cols, cols + gap, self.dtype)
            })
            .collect::<CudaResult<_>>()?;
        let [y, dx, db, dc, ddt] = &outputs[..] else { unreachable!("five outputs") };
        let params = (0..3).map(|_| poisoned(device, 1, self.sizes.0, self.sizes.0, Dtype::F32));
        let params: Vec<Tensor> = params.collect::<CudaResult<_>>()?;
        dense::plan_chunks(device, &self.cu, &self.plan)?;
        self.forward(device, y)?;
        self.backward(device, [dx, db, dc, ddt], [(&params[0], false), (&params[1], false), (&params[2], false)])?;
        let mut clean = true;
        for t in &outputs {
            let all = Tensor::new(t.memory(), 0, rows, t.cols + gap, t.cols + gap, self.dtype)?.read_f32(device)?;
            clean &= all.chunks(t.cols + gap).all(|row| row[t.cols..].iter().all(|v| v.is_nan()));
        }
        let all = outputs.iter().chain(&params).map(|t| t.read_f32(device));
        Ok((all.collect::<CudaResult<_>>()?, clean))
    }

    /// The relative distance of each tensor; NaN where two runs differ or a gap was written to.
    fn apart(&self, device: &Device) -> CudaResult<[f64; 8]> {
        let (heads, head_size, groups, state_size) = self.sizes;
        let seqs = if self.equal {
            Sequences::Equal { batch: self.borders.len() - 1, len: self.borders[1] }
        } else {
            Sequences::Packed { cu_seqlens: &self.borders }
        };
        let shape = ssd::Shape { seqs, heads, head_size, groups, state_size };
        let ([x, b, c, dt, dy], [a_log, dt_bias, d]) = (&self.values, &self.params);
        let input = ssd::Input { x, b, c, dt, a_log, dt_bias, d, initial_state: None };
        let mut saved = vec![0.0; shape.saved_len()];
        let zeros = |of: [&Vec<f32>; 8]| of.map(|v| vec![0.0; v.len()]);
        let mut want = zeros([x, x, b, c, dt, a_log, dt_bias, d]);
        let [y, dx, db, dc, ddt, da_log, ddt_bias, dd] = &mut want;
        ssd::forward(&shape, &input, y, None, &mut saved)?;
        let grads = ssd::Grads { dx, db, dc, ddt, da_log, ddt_bias, dd, dinitial_state: None };
        ssd::backward(&shape, &input, &saved, dy, None, grads)?;
        let ((have, clean), (again, _)) = (self.run(device)?, self.run(device)?);
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        Ok(std::array::from_fn(|i| {
            if !clean || bits(&have[i]) != bits(&again[i]) {
                return f64::NAN;
            }
            let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                want[i].iter().zip(&have[i]).map(|(&a, &b)| f(f64::from(a), f64::from(b))).sum()
            };
            (sum(&|a, b| (a - b) * (a - b)) / sum(&|a, _| a * a).max(1e-30)).sqrt()
        }))
    }
}

/// Microseconds forward and backward, the plan apart.
fn time(device: &Device) -> CudaResult<()> {
    for (sizes, batch, len) in [((8, 64, 1, 64), 32, 512), ((64, 19, 1, 216), 4, 4096), ((24, 64, 1, 128), 4, 4096)] {
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let setup = Setup::new(device, sizes, &vec![len; batch], dtype, false)?;
            dense::plan_chunks(device, &setup.cu, &setup.plan)?;
            let rows = batch * len;
            let like = |i: usize| {
                poisoned(device, rows, setup.inputs[i].cols, setup.inputs[i].cols.next_multiple_of(8), dtype)
            };
            let [y, dx, db, dc, ddt] = [like(0)?, like(0)?, like(1)?, like(2)?, like(3)?];
            let params = [0, 1, 2].map(|_| poisoned(device, 1, sizes.0, sizes.0, Dtype::F32));
            let [a, b, d] = params;
            let (a, b, d) = (a?, b?, d?);
            let forward = median(device, 10, || setup.forward(device, &y))?;
            let grads = [(&a, false), (&b, false), (&d, false)];
            let backward = median(device, 10, || setup.backward(device, [&dx, &db, &dc, &ddt], grads))?;
            let states = 4.0 * (setup.shape.chunks * sizes.0 * sizes.1.next_multiple_of(4) * sizes.3) as f64;
            println!(
                "{batch} x {len}, {} heads of {}, {} groups of {}, {dtype:?}: forward {forward:.1} us, backward {backward:.1}; states {:.0} MB",
                sizes.0,
                sizes.1,
                sizes.2,
                sizes.3,
                states / 1e6
            );
        }
    }
    Ok(())
}

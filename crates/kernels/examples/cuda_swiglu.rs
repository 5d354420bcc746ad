//! SwiGLU of two low-rank convolutions in one launch against the convolution and SwiGLU one after the other, bit for bit; then both
//! timed.
//!
//! `cargo run --release -p kernels --example cuda_swiglu [-- check|time]`, on a GPU of sm_90a; exit code 1 if a bit differs. gate, up and
//! their codes are columns of one buffer, as a product writes them; outputs and the gaps beside them hold NaN before. Lengths,
//! channels that do not fill a block, packed sequences, ranks with and without static taps and residual.

mod gpu;

use std::process::ExitCode;

use gpu::median;
use half::bf16;
use kernels::cuda::dense::{self, Conv, Taps};
use kernels::cuda::short_conv::Options;
use kernels::cuda::{CudaResult, Device, Dtype, Memory, Tensor};

const NAN: u16 = 0x7fc0;

/// One call: batch sequences of len tokens, or so many tokens packed; with `fixed`, static taps.
#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    len: usize,
    d: usize,
    width: usize,
    rank: usize,
    fixed: bool,
    residual: bool,
    packed: bool,
}

fn main() -> ExitCode {
    gpu::ended(run())
}

fn run() -> CudaResult<ExitCode> {
    let only = gpu::asked(&["check", "time"]);
    let device = Device::new(0)?;
    println!("{}, {}", device.name(), device.arch());
    let wrong = if only.as_deref() == Some("time") { 0 } else { check(&device)? };
    if only.as_deref() != Some("check") {
        time(&device)?;
    }
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cases that differ.
fn check(device: &Device) -> CudaResult<usize> {
    let mut wrong = 0;
    let mut cases = 0;
    for d in [2736, 200, 136] {
        for (width, rank, fixed, residual) in
            [(4, 15, true, true), (4, 16, false, false), (4, 16, true, true), (2, 7, true, false), (1, 4, false, true)]
        {
            for (batch, len) in [(1, 1), (3, 2), (2, 3), (1, 63), (5, 64), (2, 1000)] {
                for packed in [false, true] {
                    let case = Case { batch, len, d, width, rank, fixed, residual, packed };
                    cases += 1;
                    let found = Setup::new(device, case)?.differing(device)?;
                    wrong += usize::from(found.is_some());
                    found.into_iter().for_each(|what| println!("{case:?}: {what}"));
                }
            }
        }
    }
    println!("{cases} cases, {wrong} differ");
    Ok(wrong)
}

/// The operands of a case.
struct Setup {
    case: Case,
    x: Tensor,
    z: Tensor,
    u: Tensor,
    fixed: Tensor,
    dh: Tensor,
    cu: Tensor,
}

fn matrix(device: &Device, rows: usize, cols: usize) -> CudaResult<Tensor> {
    Tensor::new(&Memory::new(device, rows * cols * 2)?, 0, rows, cols, cols, Dtype::Bf16)
}

impl Setup {
    fn new(device: &Device, case: Case) -> CudaResult<Self> {
        let Case { batch, len, d, width, rank, .. } = case;
        let (rows, mut seed) = (batch * len, 7u64);
        // Uniform, of unit size times `scale`.
        let mut drawn = |rows: usize, cols: usize, scale: f32| -> CudaResult<Tensor> {
            let all = matrix(device, rows, cols)?;
            let values = (0..rows * cols).map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                bf16::from_f32(((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale)
            });
            all.write(device, &values.collect::<Vec<_>>())?;
            Ok(all)
        };
        let stride = (2 * d + 2 * rank).next_multiple_of(8);
        let whole = drawn(rows, stride, 3.0)?;
        let (u, taps) = (drawn(1, 2 * rank * width * d, 0.2)?, drawn(1, 2 * width * d, 1.0)?);
        // Sequences of many lengths, one of them empty.
        let mut borders: Vec<u32> = [0, 1, 3, 12, 12, 76].into_iter().filter(|&at| at < rows as u32).collect();
        borders.push(rows as u32);
        let memory = Memory::new(device, borders.len() * 4)?;
        let cu = Tensor::new(&memory, 0, 1, borders.len(), borders.len(), Dtype::U32)?;
        cu.write(device, &borders)?;
        Ok(Self {
            case,
            x: whole.columns(0, 2 * d)?,
            z: whole.columns(2 * d, 2 * rank)?,
            u,
            fixed: taps,
            dh: drawn(rows, d + 8, 1.0)?.columns(0, d)?,
            cu,
        })
    }

    fn conv(&self) -> Conv<'_> {
        let Case { batch, width, residual, packed, .. } = self.case;
        let batch = if packed { 1 } else { batch };
        let taps = Taps::LowRank(&self.z, &self.u, self.case.fixed.then_some(&self.fixed));
        let (options, cu_seqlens) = (Options { residual, silu: false }, packed.then_some(&self.cu));
        Conv { streams: 2, batch, width, options, cu_seqlens, x: &self.x, taps }
    }

    /// h and the gradients of both convolutions' outputs, with the gaps beside them, as bits.
    fn run(&self, device: &Device, fused: bool) -> CudaResult<[Vec<u16>; 2]> {
        let (rows, d) = (self.x.rows, self.case.d);
        let poisoned = |stride: usize| -> CudaResult<Tensor> {
            let all = matrix(device, rows, stride)?;
            all.write(device, &vec![bf16::from_bits(NAN); rows * stride])?;
            Ok(all)
        };
        let (h_all, dab_all) = (poisoned(d + 8)?, poisoned(2 * d + 16)?);
        let (h, dab) = (h_all.columns(0, d)?, dab_all.columns(8, 2 * d)?);
        if fused {
            dense::short_conv_swiglu(device, self.conv(), &h)?;
            dense::short_conv_swiglu_backward(device, self.conv(), &self.dh, &dab)?;
        } else {
            let ab = poisoned(2 * d)?;
            dense::short_conv(device, self.conv(), &ab)?;
            let [a, b] = [ab.columns(0, d)?, ab.columns(d, d)?];
            dense::swiglu(device, &a, &b, &h)?;
            dense::swiglu_backward(device, &a, &b, &self.dh, &dab.columns(0, d)?, &dab.columns(d, d)?)?;
        }
        let bits = |t: Tensor| -> CudaResult<Vec<u16>> {
            Ok(t.read::<bf16>(device)?.into_iter().map(bf16::to_bits).collect())
        };
        Ok([bits(h_all)?, bits(dab_all)?])
    }

    /// What is wrong, if anything is.
    fn differing(&self, device: &Device) -> CudaResult<Option<String>> {
        let (want, have, again) = (self.run(device, false)?, self.run(device, true)?, self.run(device, true)?);
        let gaps = [8, 16].map(|gap| self.x.rows * gap);
        for (i, name) in ["h", "da and db"].into_iter().enumerate() {
            let (want, have) = (&want[i], &have[i]);
            let differ = want.iter().zip(have).filter(|(a, b)| a != b).count();
            let nan = want.iter().filter(|&&v| v == NAN).count();
            if differ > 0 || nan != gaps[i] || *have != again[i] {
                let first = want.iter().zip(have).position(|(a, b)| a != b);
                let runs = if *have == again[i] { "alike" } else { "apart" };
                let what =
                    format!("{name}: {differ} of {} differ, first {first:?}, runs {runs}, {nan} NaN", want.len());
                return Ok(Some(what));
            }
        }
        Ok(None)
    }
}

/// Microseconds of a call at about the sizes of a 300 million parameter model's MLP.
fn time(device: &Device) -> CudaResult<()> {
    let case = Case { batch: 4, len: 4096, d: 2736, width: 4, rank: 15, fixed: true, residual: true, packed: false };
    let setup = Setup::new(device, case)?;
    let (rows, d) = (setup.x.rows, case.d);
    let (ab, dab) = (matrix(device, rows, 2 * d)?, matrix(device, rows, 2 * d)?);
    let h = matrix(device, rows, d)?;
    let [a, b, da, db] = [ab.columns(0, d)?, ab.columns(d, d)?, dab.columns(0, d)?, dab.columns(d, d)?];
    let apart = median(device, 20, || dense::short_conv(device, setup.conv(), &ab))?;
    let after = median(device, 20, || dense::swiglu(device, &a, &b, &h))?;
    let back = median(device, 20, || dense::swiglu_backward(device, &a, &b, &setup.dh, &da, &db))?;
    let fused = median(device, 20, || dense::short_conv_swiglu(device, setup.conv(), &h))?;
    let fused_back = median(device, 20, || dense::short_conv_swiglu_backward(device, setup.conv(), &setup.dh, &dab))?;
    // Bytes of h, written once; gate and up are twice that.
    let rate = |us: f64, passes: f64| passes * (rows * d * 2) as f64 / us / 1e6;
    println!("{rows} x {d}, us (TB/s of the activations alone)");
    println!("short_conv {apart:.1} ({:.2}), swiglu {after:.1} ({:.2})", rate(apart, 4.0), rate(after, 3.0));
    println!("conv + swiglu {fused:.1} ({:.2})", rate(fused, 3.0));
    println!("swiglu back {back:.1} ({:.2})", rate(back, 5.0));
    println!("conv + swiglu back {fused_back:.1} ({:.2})", rate(fused_back, 5.0));
    Ok(())
}

//! Causal attention on the GPU: the formulas of the CPU op ([`crate::attention`]), in f32, bf16 and f16.
//!
//! `o[t] = sum_{s <= t} p[t, s] v[s]`, `p[t, s] = exp(q[t].k[s] / sqrt(head_size) - lse[t])`, per head, within each
//! sequence. Rows may be strided ([`Rows`]): q, k, v and their gradients are columns of one buffer where that suits.
//! Sums are fp32. bf16 on Hopper with head size 16, 32, 64 or 128 and rows at multiples of 16 bytes takes the warpgroup
//! kernels (`hopper`), which round p and its gradient to bf16 for the products that sum them; all else takes plain
//! fp32 arithmetic (`any`), many times slower.
//!
//! Checked against the CPU op and timed by `examples/cuda_attention` (kernels/NOTES.md).
//!
//! Calls queue their kernels on the device's stream and return; errors of a kernel come out at the next synchronisation.
//! Scratch is allocated in stream order, so a call can be captured in a graph once its kernels are compiled (run it once
//! before). Two runs give the same bits.

mod any;
mod args;
mod check;
mod hopper;
mod params;
mod variants;

pub use args::{Input, InputGrad, Output, OutputGrad, Rows, RowsMut, Shape};
pub use variants::variants;

use cudarc::driver::CudaView;

use super::arguments::{at, at_mut};
use super::device::Device;
use super::error::CudaResult;
use super::short_conv::Element;
use check::Check;
use params::{Call, Place};

/// Writes o and lse.
pub fn forward<T: Element>(
    device: &Device,
    shape: Shape,
    input: &Input<'_, T>,
    mut output: Output<'_, T>,
) -> CudaResult<()> {
    Check::input("cuda::attention::forward", shape, input)?.output(&output)?;
    let (mut call, stream) = (Call::new(device, shape, input), device.stream());
    let o = Place::of_mut(&mut output.o, stream);
    (call.p.o, call.p.ldo, call.p.lse) = (o.at, o.ld, at_mut(&mut output.lse, stream));
    if hopper::takes(&call) { hopper::forward(&mut call) } else { any::forward(&mut call) }
}

/// Writes dq, dk and dv.
///
/// With `angles`, `[len, head_size / 2]` pairs of cosine and sine by position, q and k are what rotary positions made of
/// others, and dq and dk are the gradients of those.
pub fn backward<T: Element>(
    device: &Device,
    shape: Shape,
    input: &Input<'_, T>,
    output: OutputGrad<'_, T>,
    mut grad: InputGrad<'_, T>,
    angles: Option<&CudaView<'_, f32>>,
) -> CudaResult<()> {
    Check::input("cuda::attention::backward", shape, input)?.gradients(&output, &grad, angles)?;
    let (mut call, stream) = (Call::new(device, shape, input), device.stream());
    let (o, d_o) = (Place::of(&output.o, stream), Place::of(&output.d_o, stream));
    let (dq, dk, dv) = places(&mut grad, stream);
    let p = &mut call.p;
    p.angles = angles.map_or(0, |v| at(v, stream));
    (p.o, p.ldo, p.d_o, p.lddo, p.lse) = (o.at, o.ld, d_o.at, d_o.ld, at(&output.lse, stream));
    (p.dq, p.lddq, p.dk, p.lddk, p.dv, p.lddv) = (dq.at, dq.ld, dk.at, dk.ld, dv.at, dv.ld);
    if hopper::takes(&call) { hopper::backward(&mut call) } else { any::backward(&mut call) }
}

fn places<T>(grad: &mut InputGrad<'_, T>, stream: &cudarc::driver::CudaStream) -> (Place, Place, Place) {
    match grad {
        InputGrad::Fused { data, stride, dq, dk, dv } => {
            let base = at_mut(data, stream);
            let column = |c: usize| Place { at: base + (c * size_of::<T>()) as u64, ld: *stride as i64 };
            (column(*dq), column(*dk), column(*dv))
        }
        InputGrad::Apart { dq, dk, dv } => {
            (Place::of_mut(dq, stream), Place::of_mut(dk, stream), Place::of_mut(dv, stream))
        }
    }
}

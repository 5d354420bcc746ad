//! The other ops of a training step on the GPU, on [`Tensor`]s: norms, pointwise ops, rotary positions, embedding, mixtures of
//! experts, recurrences, loss, optimizer; and the convolution and attention on the same matrices.
//!
//! Each function checks its operands' shapes and types, queues its kernels and returns. Formulas and bytes: the `.cu` files'
//! headers. Activations are f32 or bf16, all of a call alike; statistics and gradients of parameters are f32. Operands may lie
//! in one another (columns of a wider matrix) and, where a function says so, be the same.

mod adamw;
mod attention;
mod chunks;
mod column_sums;
mod cross_entropy;
mod embedding;
mod gated_delta_rule;
mod moe;
mod norm;
mod pointwise;
mod rope;
mod short_conv;
mod ssd;

pub use adamw::{Parameters, Rule, cast, update};
pub use attention::{attention, attention_backward};
pub use chunks::{CHUNK, chunk_count, plan_chunks};
pub use column_sums::column_sums;
pub use cross_entropy::cross_entropy;
pub use embedding::{Sorted, embedding, embedding_backward, positions, positions_backward};
pub use gated_delta_rule::{
    DeltaGrad, DeltaRule, DeltaShape, delta_variants, gated_delta_rule, gated_delta_rule_backward,
};
pub use moe::{
    Experts, MOE_EXPERTS, MOE_TOP_K, Mixture, is_hopper_only, moe_backward, moe_excess, moe_experts, moe_route,
    moe_route_backward, moe_variants, moe_weights_backward, rebalance,
};
pub use norm::{NORM_BLOCKS, Norm, norm, norm_backward};
pub use pointwise::{add, clear, copy, gelu, gelu_backward, swiglu, swiglu_backward};
pub use rope::{Turn, rope};
pub use short_conv::{
    Conv, ConvGrad, Taps, TapsGrad, short_conv, short_conv_backward, short_conv_swiglu, short_conv_swiglu_backward,
};
pub use ssd::{Ssd, SsdGrad, SsdShape, ssd, ssd_backward, ssd_variants};

use std::ffi::c_void;

use super::compile::Defines;
use super::device::{Device, Grid};
use super::error::{CudaError, CudaResult};
use super::memory::{Dtype, Tensor};
use crate::error::Error;

/// An argument of a kernel: every parameter of these kernels is a pointer, an i64, an int (the low half of its word) or a float.
#[derive(Debug, Clone, Copy)]
struct Arg(u64);

impl From<&Tensor> for Arg {
    fn from(t: &Tensor) -> Self {
        Self(t.address())
    }
}

impl From<Option<&Tensor>> for Arg {
    fn from(t: Option<&Tensor>) -> Self {
        Self(t.map_or(0, Tensor::address))
    }
}

impl From<usize> for Arg {
    fn from(v: usize) -> Self {
        Self(v as u64)
    }
}

impl From<f32> for Arg {
    fn from(v: f32) -> Self {
        Self(v.to_bits().into())
    }
}

/// One kernel to launch.
struct Kernel<'a> {
    file: &'static str,
    entry: &'static str,
    defines: &'a [(&'static str, i64)],
    blocks: (usize, usize),
    threads: usize,
    /// Bytes of dynamic shared memory.
    shared: usize,
}

impl Kernel<'_> {
    /// # Safety
    /// The arguments are those of the kernel, in order, and reach as far as it reads and writes.
    unsafe fn launch(&self, device: &Device, args: &mut [Arg]) -> CudaResult<()> {
        let size = |n: usize, most: u32, name| match u32::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => {
                let (range, remedy) = (format!("0..={most}"), "split the batch");
                Err(CudaError::Argument(Error::Range { op: self.entry, name, found: n, range, remedy }))
            }
        };
        // CUDA's limits.
        let blocks = (size(self.blocks.0, i32::MAX as u32, "blocks")?, size(self.blocks.1, 65535, "rows of blocks")?);
        let grid = Grid {
            blocks,
            threads: (size(self.threads, 1024, "threads")?, 1),
            shared: size(self.shared, u32::MAX, "shared")?,
        };
        let mut pointers: Vec<*mut c_void> = args.iter_mut().map(|a| std::ptr::from_mut(&mut a.0).cast()).collect();
        // SAFETY: by the caller; every argument is at most 8 bytes, at the start of its word.
        unsafe { device.launch(self.file, self.entry, &Defines::new(self.defines), grid, &mut pointers) }
    }
}

/// DTYPE of activations.
fn code(op: &'static str, t: &Tensor) -> CudaResult<i64> {
    match t.dtype {
        Dtype::F32 => Ok(0),
        Dtype::Bf16 => Ok(1),
        Dtype::U32 | Dtype::F64 => Err(refused(op, format!("activations of {:?}", t.dtype), "pass f32 or bf16")),
    }
}

/// Elements that a thread moves at once: 16 bytes where all operands allow it and they divide every one of `lengths`, else 1.
fn vector(operands: &[&Tensor], lengths: &[usize]) -> usize {
    let Some(element) = operands.iter().map(|t| t.dtype.bytes()).min() else { return 1 };
    let wide = 16 / element;
    let aligned = operands.iter().all(|t| t.alignment() >= wide * t.dtype.bytes().min(element));
    if aligned && lengths.iter().all(|n| n.is_multiple_of(wide)) { wide } else { 1 }
}

fn refused(op: &'static str, what: String, remedy: &'static str) -> CudaError {
    CudaError::Argument(Error::Argument { op, what, remedy })
}

/// Checks that each operand is `[rows, cols]` of that type.
fn check(op: &'static str, rows: usize, cols: usize, dtype: Dtype, operands: &[(&str, &Tensor)]) -> CudaResult<()> {
    for (name, t) in operands {
        if (t.rows, t.cols, t.dtype) != (rows, cols, dtype) {
            let what = format!("{name} is [{}, {}] {:?}, expected [{rows}, {cols}] {dtype:?}", t.rows, t.cols, t.dtype);
            return Err(refused(op, what, "pass operands of the op's shape"));
        }
    }
    Ok(())
}

/// Checks that an operand is a row of at least `len` adjacent elements of that type.
fn check_flat(op: &'static str, name: &str, t: &Tensor, len: usize, dtype: Dtype) -> CudaResult<()> {
    let adjacent = t.rows <= 1 || t.stride == t.cols;
    if t.dtype == dtype && adjacent && t.rows * t.cols >= len {
        return Ok(());
    }
    let what = format!("{name} is [{}, {}] {:?}, expected {len} adjacent {dtype:?}", t.rows, t.cols, t.dtype);
    Err(refused(op, what, "pass operands of the op's shape"))
}

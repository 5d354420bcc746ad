//! Causal attention on matrices.

use super::{check, check_flat, refused};
use crate::cuda::attention::{Input, InputGrad, Output, OutputGrad, Rows, RowsMut, Shape, backward, forward};
use crate::cuda::memory::Alias;
use crate::cuda::short_conv::Element;
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

/// `o = softmax(q k^T / sqrt(head size)) v` per head, and `lse` `[heads, N]`, f32, for the backward. Rows are `batch` sequences of
/// equal length or, with `cu_seqlens` (u32 borders), packed ones.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn attention(
    device: &Device,
    batch: usize,
    heads: usize,
    cu_seqlens: Option<&Tensor>,
    [q, k, v]: [&Tensor; 3],
    o: &Tensor,
    lse: &Tensor,
) -> CudaResult<()> {
    let op = Call { device, batch, heads, cu_seqlens, qkv: [q, k, v] };
    match q.dtype {
        Dtype::F32 => op.forward::<f32>(o, lse),
        _ => op.forward::<half::bf16>(o, lse),
    }
}

/// The gradients of q, k and v; with the table of [`super::rope`], those of what rotary positions made q and k of.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn attention_backward(
    device: &Device,
    batch: usize,
    heads: usize,
    cu_seqlens: Option<&Tensor>,
    qkv: [&Tensor; 3],
    (o, lse, d_o): (&Tensor, &Tensor, &Tensor),
    grads: [&Tensor; 3],
    table: Option<&Tensor>,
) -> CudaResult<()> {
    let op = Call { device, batch, heads, cu_seqlens, qkv };
    match o.dtype {
        Dtype::F32 => op.backward::<f32>((o, lse, d_o), grads, table),
        _ => op.backward::<half::bf16>((o, lse, d_o), grads, table),
    }
}

struct Call<'a> {
    device: &'a Device,
    batch: usize,
    heads: usize,
    cu_seqlens: Option<&'a Tensor>,
    qkv: [&'a Tensor; 3],
}

impl Call<'_> {
    fn shape(&self, op: &'static str, others: &[(&str, &Tensor)]) -> CudaResult<Shape> {
        let [q, k, v] = self.qkv;
        let (n, cols, heads, batch) = (q.rows, q.cols, self.heads, self.batch);
        check(op, n, cols, q.dtype, &[("k", k), ("v", v)])?;
        check(op, n, cols, q.dtype, others)?;
        if heads == 0 || batch == 0 || !cols.is_multiple_of(heads) || !n.is_multiple_of(batch) {
            let what = format!("{n} rows in {batch} sequences, {cols} columns in {heads} heads");
            return Err(refused(op, what, "choose sizes that divide"));
        }
        Ok(Shape { batch, len: n / batch, heads, kv_heads: heads, head_size: cols / heads })
    }

    /// The operands on the device.
    ///
    /// # Safety
    /// T is their type.
    unsafe fn operands<T: Element>(&self) -> Operands<T> {
        // SAFETY: by the caller.
        let qkv = self.qkv.map(|t| (unsafe { t.slice(self.device) }, t.stride));
        // SAFETY: offsets are written as u32 below 2^31.
        let cu_seqlens = self.cu_seqlens.map(|t| unsafe { t.slice(self.device) });
        Operands { qkv, cu_seqlens }
    }

    fn forward<T: Element>(&self, o: &Tensor, lse: &Tensor) -> CudaResult<()> {
        let shape = self.shape("cuda attention", &[("o", o)])?;
        let device = self.device;
        // SAFETY: `shape` checked that all are of one type, which is T; o and lse are the caller's to overwrite.
        let (operands, mut out, mut lse) =
            unsafe { (self.operands::<T>(), o.slice::<T>(device), lse.slice::<f32>(device)) };
        let output = Output { o: RowsMut { data: out.0.as_view_mut(), stride: o.stride }, lse: lse.0.as_view_mut() };
        forward(device, shape, &operands.input(), output)
    }

    fn backward<T: Element>(
        &self,
        (o, lse, d_o): (&Tensor, &Tensor, &Tensor),
        [dq, dk, dv]: [&Tensor; 3],
        table: Option<&Tensor>,
    ) -> CudaResult<()> {
        let others = [("o", o), ("do", d_o), ("dq", dq), ("dk", dk), ("dv", dv)];
        const OP: &str = "cuda attention backward";
        let shape = self.shape(OP, &others)?;
        let device = self.device;
        if let Some(table) = table {
            check_flat(OP, "table", table, table.rows * table.cols, Dtype::F32)?;
        }
        // SAFETY: as in `forward`; the table's type was checked.
        let table = table.map(|t| unsafe { t.slice::<f32>(device) });
        // SAFETY: as in `forward`.
        let (operands, out, lse, dout, [mut gq, mut gk, mut gv]) = unsafe {
            let (out, lse, dout) = (o.slice::<T>(device), lse.slice::<f32>(device), d_o.slice::<T>(device));
            (self.operands::<T>(), out, lse, dout, [dq, dk, dv].map(|t| t.slice::<T>(device)))
        };
        let output = OutputGrad {
            o: Rows { data: out.0.as_view(), stride: o.stride },
            lse: lse.0.as_view(),
            d_o: Rows { data: dout.0.as_view(), stride: d_o.stride },
        };
        let grads = InputGrad::Apart {
            dq: RowsMut { data: gq.0.as_view_mut(), stride: dq.stride },
            dk: RowsMut { data: gk.0.as_view_mut(), stride: dk.stride },
            dv: RowsMut { data: gv.0.as_view_mut(), stride: dv.stride },
        };
        let angles = table.as_ref().map(|t| t.0.as_view());
        backward(device, shape, &operands.input(), output, grads, angles.as_ref())
    }
}

/// Slices of the operands, each with the stride of its rows.
struct Operands<T: Element> {
    qkv: [(Alias<T>, usize); 3],
    cu_seqlens: Option<Alias<i32>>,
}

impl<T: Element> Operands<T> {
    fn input(&self) -> Input<'_, T> {
        let [q, k, v] = self.qkv.each_ref().map(|(slice, stride)| Rows { data: slice.0.as_view(), stride: *stride });
        Input { q, k, v, cu_seqlens: self.cu_seqlens.as_ref().map(|c| c.0.as_view()) }
    }
}

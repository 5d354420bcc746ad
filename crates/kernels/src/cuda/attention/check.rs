//! Every argument is checked here, before anything is launched.

use cudarc::driver::CudaView;

use super::args::{Input, InputGrad, Output, OutputGrad, Shape};
use crate::check;
use crate::error::{Error, Result};

const MAX_HEAD: usize = 128;

/// The checker of one op's arguments.
pub(super) struct Check {
    op: &'static str,
    shape: Shape,
}

impl Check {
    /// Checks the shape and the input.
    pub(super) fn input<T>(op: &'static str, shape: Shape, input: &Input<'_, T>) -> Result<Self> {
        let Shape { batch, len, heads, kv_heads, head_size } = shape;
        let range = |name, found, max, remedy| check::range(op, name, found, max, remedy);
        let rows = batch.saturating_mul(len);
        range("batch", batch, i32::MAX as usize, "pass at least one sequence")?;
        range("len", len, i32::MAX as usize, "pass at least one token per sequence")?;
        range("batch * len", rows, i32::MAX as usize - 4096, "split the batch: rows are counted in 32 bits")?;
        range("heads", heads, 1 << 16, "pass at least one head")?;
        let remedy = "give each key head the same number of query heads";
        check::divides(op, ("heads", heads), ("kv_heads", kv_heads), remedy)?;
        range("head_size", head_size, MAX_HEAD, "use more and smaller heads")?;
        check::divides(op, ("head_size", head_size), ("lanes", 8), "use a head size that is a multiple of 8")?;
        let blocks = (batch as u128 + (rows / 32) as u128 + 1) * heads as u128;
        range(
            "blocks",
            usize::try_from(blocks).unwrap_or(usize::MAX),
            i32::MAX as usize,
            "split the batch: blocks are counted in 32 bits",
        )?;
        if let Some(cu) = &input.cu_seqlens
            && (batch != 1 || cu.len() < 2)
        {
            let what = format!("cu_seqlens of {} offsets with batch = {batch}", cu.len());
            return Err(Error::Argument {
                op,
                what,
                remedy: "pass at least two offsets, and packed tokens as batch = 1",
            });
        }
        let check = Self { op, shape };
        check.strided("q", input.q.data.len(), input.q.stride, heads)?;
        check.strided("k", input.k.data.len(), input.k.stride, kv_heads)?;
        check.strided("v", input.v.data.len(), input.v.stride, kv_heads)?;
        Ok(check)
    }

    /// Checks where forward writes.
    pub(super) fn output<T>(&self, output: &Output<'_, T>) -> Result<()> {
        self.strided("o", output.o.data.len(), output.o.stride, self.shape.heads)?;
        self.lse(output.lse.len())
    }

    /// Checks what backward reads and writes beside the input.
    pub(super) fn gradients<T>(
        &self,
        output: &OutputGrad<'_, T>,
        grad: &InputGrad<'_, T>,
        angles: Option<&CudaView<'_, f32>>,
    ) -> Result<()> {
        let Shape { heads, kv_heads, len, head_size, .. } = self.shape;
        if let Some(angles) = angles {
            check::size(self.op, "angles", angles.len(), &[("len", len), ("head_size", head_size)])?;
        }
        self.strided("o", output.o.data.len(), output.o.stride, heads)?;
        self.strided("d_o", output.d_o.data.len(), output.d_o.stride, heads)?;
        self.lse(output.lse.len())?;
        match grad {
            InputGrad::Fused { data, stride, dq, dk, dv } => self.fused(data.len(), *stride, [*dq, *dk, *dv]),
            InputGrad::Apart { dq, dk, dv } => {
                self.strided("dq", dq.data.len(), dq.stride, heads)?;
                self.strided("dk", dk.data.len(), dk.stride, kv_heads)?;
                self.strided("dv", dv.data.len(), dv.stride, kv_heads)
            }
        }
    }

    /// Columns `first` of dq, dk and dv in rows of one buffer.
    fn fused(&self, found: usize, stride: usize, first: [usize; 3]) -> Result<()> {
        let Shape { heads, kv_heads, head_size, .. } = self.shape;
        let widths = [heads, kv_heads, kv_heads].map(|h| h * head_size);
        let mut spans: Vec<_> = first.iter().zip(widths).map(|(&f, w)| (f, f.saturating_add(w))).collect();
        spans.sort_unstable();
        if spans[0].1 > spans[1].0 || spans[1].1 > spans[2].0 || spans[2].1 > stride {
            let what = format!("dq, dk, dv at columns {first:?} of widths {widths:?} in rows of {stride}");
            let remedy = "give each its own columns within the row";
            return Err(Error::Argument { op: self.op, what, remedy });
        }
        self.reach("gradient", found, stride, spans[2].1)
    }

    fn strided(&self, name: &'static str, found: usize, stride: usize, heads: usize) -> Result<()> {
        let width = heads * self.shape.head_size;
        if stride < width {
            let what = format!("{name}: row stride {stride} is less than the row, {width}");
            return Err(Error::Argument { op: self.op, what, remedy: "pass the elements from one row to the next" });
        }
        self.reach(name, found, stride, width)
    }

    fn reach(&self, name: &'static str, found: usize, stride: usize, width: usize) -> Result<()> {
        let rows = self.shape.rows();
        let last = (rows as u128 - 1) * stride as u128 + width as u128;
        if last <= found as u128 {
            return Ok(());
        }
        let shape = format!("[rows={rows} every {stride}, {width}]");
        Err(Error::Size { op: self.op, name, found, expected: usize::try_from(last).unwrap_or(usize::MAX), shape })
    }

    fn lse(&self, found: usize) -> Result<()> {
        check::size(self.op, "lse", found, &[("heads", self.shape.heads), ("rows", self.shape.rows())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_one_buffer_may_not_overlap() {
        let shape = Shape { batch: 2, len: 3, heads: 4, kv_heads: 2, head_size: 8 };
        let check = Check { op: "test", shape };
        // dq 32 columns, dk and dv 16 each, in any order and with room between.
        check.fused(6 * 64, 64, [0, 32, 48]).unwrap();
        check.fused(5 * 80 + 64, 80, [32, 0, 16]).unwrap();
        check.fused(6 * 80, 80, [48, 0, 20]).unwrap();
        for (found, stride, first) in [
            (6 * 64, 64, [0, 31, 48]),
            (6 * 64, 64, [0, 32, 47]),
            (6 * 63, 63, [0, 32, 48]),
            (6 * 64 - 1, 64, [0, 32, 48]),
            (6 * 64, 64, [usize::MAX, 0, 16]),
        ] {
            check.fused(found, stride, first).unwrap_err();
        }
        let text = check.fused(6 * 64, 64, [0, 31, 48]).unwrap_err().to_string();
        assert!(text.contains("[0, 31, 48]") && text.contains("[32, 16, 16]"), "{text}");
    }
}

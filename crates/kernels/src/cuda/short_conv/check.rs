//! Every argument is checked here, before anything is launched.

use super::args::{Element, Filter, FilterGrad, Input, InputGrad, Output, OutputGrad, Rows, RowsMut, Shape};
use crate::check;
use crate::error::{Error, Result};

const MAX_WIDTH: usize = 8;
const MAX_RANK: usize = 128;

/// The checker of one op's arguments.
pub(super) struct Check {
    op: &'static str,
    shape: Shape,
    sequences: usize,
}

impl Check {
    /// Checks the shape and the input.
    pub(super) fn input<T: Element>(op: &'static str, shape: Shape, input: &Input<'_, T>) -> Result<Self> {
        let Shape { streams, batch, len, d, width } = shape;
        let range = |name, found, max, remedy| check::range(op, name, found, max, remedy);
        range("streams", streams, 65535, "pass at least one stream")?;
        range("batch", batch, i32::MAX as usize, "pass at least one sequence")?;
        range("len", len, i32::MAX as usize, "pass at least one token per sequence")?;
        range("d", d, i32::MAX as usize / 256, "pass at least one channel")?;
        range("width", width, MAX_WIDTH, "use a narrower filter")?;
        range(
            "batch * len",
            batch.saturating_mul(len),
            i32::MAX as usize - 4096,
            "split the batch: rows are counted in 32 bits",
        )?;
        let sequences = match &input.cu_seqlens {
            None => batch,
            Some(cu) if batch == 1 && cu.len() >= 2 => cu.len() - 1,
            Some(cu) => {
                let what = format!("cu_seqlens of {} offsets with batch = {batch}", cu.len());
                return Err(Error::Argument {
                    op,
                    what,
                    remedy: "pass at least two offsets, and packed tokens as batch = 1",
                });
            }
        };
        let check = Self { op, shape, sequences };
        check.rows("x", &input.x, d)?;
        match &input.filter {
            Filter::Static { w } => check.size("w", w.len(), &[width, d])?,
            Filter::HeadWise { weight, head_size, static_w } => {
                range("head_size", *head_size, d, "use a head size that divides d")?;
                check::divides(op, ("d", d), ("head_size", *head_size), "use a head size that divides d")?;
                check.rows("weight", weight, d / head_size * width)?;
                check.optional("static_w", static_w.as_ref().map(|v| v.len()), &[width, d])?;
            }
            Filter::LowRank { z, u, rank, static_w } => {
                range("rank", *rank, MAX_RANK, "use a lower rank, or taps computed outside with Filter::HeadWise")?;
                check.rows("z", z, *rank)?;
                check.size("u", u.len(), &[*rank, width, d])?;
                check.optional("static_w", static_w.as_ref().map(|v| v.len()), &[width, d])?;
            }
        }
        check.state("initial_state", input.initial_state.as_ref().map(|v| v.len()))?;
        Ok(check)
    }

    /// Checks where forward writes.
    pub(super) fn output<T>(&self, output: &Output<'_, T>) -> Result<()> {
        self.rows_mut("y", &output.y, self.shape.d)?;
        self.state("final_state", output.final_state.as_ref().map(|v| v.len()))
    }

    /// Checks rows of D that belong to no stream.
    pub(super) fn hidden(&self, name: &'static str, found: usize, stride: usize) -> Result<()> {
        let one = Self { shape: Shape { streams: 1, ..self.shape }, ..*self };
        one.strided(name, found, stride, 0, self.shape.d)
    }

    /// Checks the state that a step reads and writes.
    pub(super) fn step(&self, state: usize) -> Result<()> {
        if self.shape.len != 1 {
            let what = format!("len = {}", self.shape.len);
            return Err(Error::Argument { op: self.op, what, remedy: "a step takes one token per sequence: len = 1" });
        }
        self.state("state", Some(state))
    }

    /// Checks what backward reads and writes beside the input.
    pub(super) fn gradients<T>(
        &self,
        filter: &Filter<'_, T>,
        output: &OutputGrad<'_, T>,
        input: &InputGrad<'_, T>,
    ) -> Result<()> {
        let Shape { d, width, .. } = self.shape;
        self.rows("dy", &output.dy, d)?;
        self.state("dfinal_state", output.dfinal_state.as_ref().map(|v| v.len()))?;
        self.rows_mut("dx", &input.dx, d)?;
        self.state("dinitial_state", input.dinitial_state.as_ref().map(|v| v.len()))?;
        let pair = |has: bool, grad: Option<usize>| {
            if has == grad.is_some() {
                return self.optional("dstatic_w", grad, &[width, d]);
            }
            let what = format!("static_w is {}, dstatic_w is not", if has { "given" } else { "absent" });
            Err(Error::Argument { op: self.op, what, remedy: "pass dstatic_w exactly where the filter has static_w" })
        };
        match (filter, &input.filter) {
            (Filter::Static { .. }, FilterGrad::Static { dw }) => self.size("dw", dw.len(), &[width, d]),
            (Filter::HeadWise { head_size, static_w, .. }, FilterGrad::HeadWise { dweight, dstatic_w }) => {
                self.rows_mut("dweight", dweight, d / head_size * width)?;
                pair(static_w.is_some(), dstatic_w.as_ref().map(|v| v.len()))
            }
            (Filter::LowRank { rank, static_w, .. }, FilterGrad::LowRank { dz, du, dstatic_w }) => {
                self.rows_mut("dz", dz, *rank)?;
                self.size("du", du.len(), &[*rank, width, d])?;
                pair(static_w.is_some(), dstatic_w.as_ref().map(|v| v.len()))
            }
            _ => {
                let what = "the gradient is of another kind than the filter".to_string();
                Err(Error::Argument { op: self.op, what, remedy: "pass the FilterGrad of the filter's kind" })
            }
        }
    }

    fn rows<T>(&self, name: &'static str, rows: &Rows<'_, T>, width: usize) -> Result<()> {
        self.strided(name, rows.data.len(), rows.stride, rows.stream, width)
    }

    pub(super) fn rows_mut<T>(&self, name: &'static str, rows: &RowsMut<'_, T>, width: usize) -> Result<()> {
        self.strided(name, rows.data.len(), rows.stride, rows.stream, width)
    }

    fn strided(&self, name: &'static str, found: usize, stride: usize, stream: usize, width: usize) -> Result<()> {
        let Shape { streams, batch, len, .. } = self.shape;
        if stride < width {
            let what = format!("{name}: row stride {stride} is less than the row, {width}");
            return Err(Error::Argument { op: self.op, what, remedy: "pass the elements from one row to the next" });
        }
        let last =
            ((batch * len - 1) as u128) * stride as u128 + (streams - 1) as u128 * stream as u128 + width as u128;
        if last <= found as u128 {
            return Ok(());
        }
        let shape = format!("[streams={streams} every {stream}, rows={} every {stride}, {width}]", batch * len);
        Err(Error::Size { op: self.op, name, found, expected: usize::try_from(last).unwrap_or(usize::MAX), shape })
    }

    fn size(&self, name: &'static str, found: usize, shape: &[usize]) -> Result<()> {
        let expected = shape.iter().fold(self.shape.streams, |n, s| n.saturating_mul(*s));
        if found == expected {
            return Ok(());
        }
        Err(Error::Size {
            op: self.op,
            name,
            found,
            expected,
            shape: format!("[streams={}, {shape:?}]", self.shape.streams),
        })
    }

    fn optional(&self, name: &'static str, found: Option<usize>, shape: &[usize]) -> Result<()> {
        found.map_or(Ok(()), |found| self.size(name, found, shape))
    }

    fn state(&self, name: &'static str, found: Option<usize>) -> Result<()> {
        // With W = 1 the state is empty, and a device slice is not: its contents are ignored.
        if self.shape.width == 1 {
            Ok(())
        } else {
            self.optional(name, found, &[self.sequences, self.shape.width - 1, self.shape.d])
        }
    }
}

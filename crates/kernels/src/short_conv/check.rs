//! Every argument is checked here, before anything is computed.

use super::args::{Filter, FilterGrad, Input, InputGrad, Output, OutputGrad, Shape};
use super::{MAX_RANK, MAX_WIDTH};
use crate::error::{Error, Result};
use crate::{Sequences, check};

/// The checker of one op's arguments.
pub(super) struct Check<'a> {
    op: &'static str,
    shape: Shape<'a>,
}

impl<'a> Check<'a> {
    /// Checks the shape and the input.
    pub(super) fn input(op: &'static str, shape: Shape<'a>, input: &Input) -> Result<Self> {
        let Shape { seqs, d, width } = shape;
        seqs.check_with_empty(op)?;
        let range = |name, found, max, remedy| check::range(op, name, found, max, remedy);
        range("d", d, usize::MAX, "pass at least one channel")?;
        range("width", width, MAX_WIDTH, "use a narrower filter")?;
        let check = Self { op, shape };
        check.rows("x", input.x.data.len(), input.x.stride, d)?;
        match input.filter {
            Filter::Static { w } => check.size("w", w.len(), &[width, d])?,
            Filter::HeadWise { weight, head_size, static_w } => {
                range("head_size", head_size, d, "use a head size that divides d")?;
                check::divides(op, ("d", d), ("head_size", head_size), "use a head size that divides d")?;
                let columns = check.product(&[d / head_size, width])?;
                check.rows("weight", weight.data.len(), weight.stride, columns)?;
                check.optional("static_w", static_w.map(<[f32]>::len), &[width, d])?;
            }
            Filter::LowRank { z, u, rank, static_w } => {
                range("rank", rank, MAX_RANK, "use a lower rank, or taps computed outside with Filter::HeadWise")?;
                check.rows("z", z.data.len(), z.stride, rank)?;
                check.size("u", u.len(), &[rank, width, d])?;
                check.optional("static_w", static_w.map(<[f32]>::len), &[width, d])?;
            }
        }
        check.state("initial_state", input.initial_state.map(<[f32]>::len))?;
        Ok(check)
    }

    /// Checks where `forward` writes.
    pub(super) fn output(&self, output: &Output) -> Result<()> {
        self.rows("y", output.y.data.len(), output.y.stride, self.shape.d)?;
        self.state("final_state", output.final_state.as_deref().map(<[f32]>::len))
    }

    /// Checks the state that `step` reads and writes.
    pub(super) fn step_state(&self, state: &[f32]) -> Result<()> {
        if matches!(self.shape.seqs, Sequences::Equal { len: 1, .. }) {
            return self.state("state", Some(state.len()));
        }
        let what = format!("shape {}", self.words());
        Err(Error::Argument { op: self.op, what, remedy: "a step takes one token per sequence: Equal with len = 1" })
    }

    /// Checks what `backward` reads and writes beside the input.
    pub(super) fn gradients(&self, filter: &Filter, output: &OutputGrad, input: &InputGrad) -> Result<()> {
        let Shape { d, width, .. } = self.shape;
        self.rows("dy", output.dy.data.len(), output.dy.stride, d)?;
        self.state("dfinal_state", output.dfinal_state.map(<[f32]>::len))?;
        self.rows("dx", input.dx.data.len(), input.dx.stride, d)?;
        self.state("dinitial_state", input.dinitial_state.as_deref().map(<[f32]>::len))?;
        match (filter, &input.filter) {
            (Filter::Static { .. }, FilterGrad::Static { dw }) => self.size("dw", dw.len(), &[width, d]),
            (Filter::HeadWise { head_size, static_w, .. }, FilterGrad::HeadWise { dweight, dstatic_w }) => {
                self.rows("dweight", dweight.data.len(), dweight.stride, d / head_size * width)?;
                self.static_pair(static_w.is_some(), dstatic_w.as_deref())
            }
            (Filter::LowRank { rank, static_w, .. }, FilterGrad::LowRank { dz, du, dstatic_w }) => {
                self.rows("dz", dz.data.len(), dz.stride, *rank)?;
                self.size("du", du.len(), &[*rank, width, d])?;
                self.static_pair(static_w.is_some(), dstatic_w.as_deref())
            }
            _ => Err(Error::Argument {
                op: self.op,
                what: "the filter and its gradient are of different kinds".to_string(),
                remedy: "pass the FilterGrad variant of the Filter's name",
            }),
        }
    }

    /// `dstatic_w` is given exactly where `static_w` is: no gradient is dropped silently.
    fn static_pair(&self, has_static: bool, dstatic_w: Option<&[f32]>) -> Result<()> {
        if has_static != dstatic_w.is_some() {
            return Err(Error::Argument {
                op: self.op,
                what: format!("static_w given: {has_static}, dstatic_w given: {}", dstatic_w.is_some()),
                remedy: "pass dstatic_w exactly where the filter has static_w",
            });
        }
        self.optional("dstatic_w", dstatic_w.map(<[f32]>::len), &[self.shape.width, self.shape.d])
    }

    fn product(&self, factors: &[usize]) -> Result<usize> {
        factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor)).ok_or_else(|| Error::Argument {
            op: self.op,
            what: format!("the size {factors:?} overflows for shape {}", self.words()),
            remedy: "pass smaller dimensions",
        })
    }

    fn size(&self, name: &'static str, found: usize, factors: &[usize]) -> Result<()> {
        let expected = self.product(factors)?;
        if found == expected {
            return Ok(());
        }
        Err(Error::Size { op: self.op, name, found, expected, shape: self.words() })
    }

    fn optional(&self, name: &'static str, found: Option<usize>, factors: &[usize]) -> Result<()> {
        found.map_or(Ok(()), |found| self.size(name, found, factors))
    }

    fn state(&self, name: &'static str, found: Option<usize>) -> Result<()> {
        self.optional(name, found, &[self.shape.seqs.count(), self.shape.width - 1, self.shape.d])
    }

    /// One row per token, each of `columns` elements, `stride` apart.
    fn rows(&self, name: &'static str, found: usize, stride: usize, columns: usize) -> Result<()> {
        if stride < columns {
            return Err(Error::Argument {
                op: self.op,
                what: format!("{name} has rows of {columns} elements with a stride of {stride}"),
                remedy: "pass a stride of at least the row width",
            });
        }
        let expected = self.product(&[self.shape.seqs.rows() - 1, stride])?.saturating_add(columns);
        if found >= expected {
            return Ok(());
        }
        Err(Error::Size { op: self.op, name, found, expected, shape: self.words() })
    }

    fn words(&self) -> String {
        let Shape { seqs, d, width } = self.shape;
        match seqs {
            Sequences::Equal { batch, len } => format!("[B={batch}, T={len}, D={d}, W={width}]"),
            Sequences::Packed { .. } => format!("[S={}, N={}, D={d}, W={width}]", seqs.count(), seqs.rows()),
        }
    }
}

//! The short convolution between the tape and its kernel.

use kernels::Sequences;
use kernels::short_conv::{self, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape};

use super::CpuBackend;
use super::forward::sequences;
use super::grads::{ParamGrads, ValueGrads};
use super::pool::Pool;
use crate::Result;
use crate::batch::Batch;
use crate::op::{Filter, Param, Var};
use crate::tape::Tape;

/// The fields of a tape's convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub(super) x: Var,
    pub(super) filter: Filter,
    pub(super) width: usize,
    pub(super) options: Options,
}

impl Conv {
    pub(super) fn shape<'a>(&self, tape: &Tape, seqs: Sequences<'a>) -> Shape<'a> {
        Shape { seqs, d: tape.cols(self.x), width: self.width }
    }
}

impl CpuBackend {
    pub(super) fn conv_forward(&self, tape: &Tape, batch: &Batch, conv: Conv, y: &mut [f32]) -> Result<()> {
        let shape = conv.shape(tape, sequences(tape, batch));
        let output = Output { y: RowsMut::packed(y, shape.d), final_state: None };
        Ok(short_conv::forward(shape, conv.options, &self.conv_input(tape, conv)?, output)?)
    }

    pub(super) fn conv_backward(
        &self,
        tape: &Tape,
        batch: &Batch,
        conv: Conv,
        dy: &[f32],
        values: &mut ValueGrads,
        params: &mut ParamGrads,
        pool: &mut Pool,
    ) -> Result<()> {
        let shape = conv.shape(tape, sequences(tape, batch));
        let input = self.conv_input(tape, conv)?;
        let dy = OutputGrad { dy: Rows::packed(dy, shape.d), dfinal_state: None };
        let mut dx = pool.take(tape.tokens() * shape.d);
        let taps = |p: Option<Param>, pool: &mut Pool| p.map(|_| pool.take(shape.width * shape.d));
        let run = |dx: &mut [f32], filter: FilterGrad| {
            let grad = InputGrad { dx: RowsMut::packed(dx, shape.d), filter, dinitial_state: None };
            short_conv::backward(shape, conv.options, &input, dy, grad)
        };
        match conv.filter {
            Filter::Static { w } => {
                let mut dw = pool.take(shape.width * shape.d);
                run(&mut dx, FilterGrad::Static { dw: &mut dw })?;
                params.add(w, dw, pool)?;
            }
            Filter::HeadWise { weight, static_w, .. } => {
                let cols = tape.cols(weight);
                let (mut dweight, mut dstatic_w) = (pool.take(tape.tokens() * cols), taps(static_w, pool));
                let dweight_rows = RowsMut::packed(&mut dweight, cols);
                run(&mut dx, FilterGrad::HeadWise { dweight: dweight_rows, dstatic_w: dstatic_w.as_deref_mut() })?;
                values.add(weight, dweight, pool)?;
                params.add_if(static_w, dstatic_w, pool)?;
            }
            Filter::LowRank { z, u, static_w } => {
                let rank = tape.cols(z);
                let (mut dz, mut du) = (pool.take(tape.tokens() * rank), pool.take(tape.spec(u).numel()));
                let mut dstatic_w = taps(static_w, pool);
                let dz_rows = RowsMut::packed(&mut dz, rank);
                run(&mut dx, FilterGrad::LowRank { dz: dz_rows, du: &mut du, dstatic_w: dstatic_w.as_deref_mut() })?;
                values.add(z, dz, pool)?;
                params.add(u, du, pool)?;
                params.add_if(static_w, dstatic_w, pool)?;
            }
        }
        values.add(conv.x, dx, pool)
    }

    pub(super) fn conv_input(&self, tape: &Tape, conv: Conv) -> Result<Input<'_>> {
        let static_taps = |p: Option<Param>| p.map(|p| self.param(p)).transpose();
        let filter = match conv.filter {
            Filter::Static { w } => short_conv::Filter::Static { w: self.param(w)? },
            Filter::HeadWise { weight, head_size, static_w } => short_conv::Filter::HeadWise {
                weight: Rows::packed(self.value(weight), tape.cols(weight)),
                head_size,
                static_w: static_taps(static_w)?,
            },
            Filter::LowRank { z, u, static_w } => short_conv::Filter::LowRank {
                z: Rows::packed(self.value(z), tape.cols(z)),
                u: self.param(u)?,
                rank: tape.cols(z),
                static_w: static_taps(static_w)?,
            },
        };
        let x = Rows::packed(self.value(conv.x), tape.cols(conv.x));
        Ok(Input { x, filter, initial_state: None })
    }
}

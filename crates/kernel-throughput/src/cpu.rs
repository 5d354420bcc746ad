//! A case by the CPU op, in f32.

use kernels::Sequences;
use kernels::short_conv::{
    Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape, backward, forward,
};

use crate::case::{Case, Op};
use crate::values::{Operands, Results};

/// Every result of a case, all streams one after the other.
///
/// # Errors
/// Those of the op: a shape it does not take.
pub fn run(case: &Case, operands: &Operands) -> kernels::Result<Results<f32>> {
    let one = Case { streams: 1, ..case.clone() };
    let streams = (0..case.streams).map(|s| {
        let input = operands.stream(case, s);
        let mut results = results(&one, &input);
        run_forward(&one, &input, &mut results)?;
        run_backward(&one, &input, &mut results)?;
        Ok(results)
    });
    Ok(Results::join(streams.collect::<kernels::Result<Vec<_>>>()?))
}

/// Room for the results of one stream, poisoned.
pub fn results(case: &Case, input: &Operands) -> Results<f32> {
    let like = |v: &[f32]| vec![f32::NAN; v.len()];
    let x = case.rows() * case.d;
    Results {
        y: vec![f32::NAN; x],
        final_state: like(&input.state),
        dx: vec![f32::NAN; x],
        dtaps: like(&input.taps),
        du: like(&input.u),
        dstatic_w: like(&input.static_w),
        dstate: like(&input.state),
    }
}

fn shape(case: &Case) -> (Shape<'_>, Options) {
    let seqs = match &case.cu_seqlens {
        Some(cu_seqlens) => Sequences::Packed { cu_seqlens },
        None => Sequences::Equal { batch: case.batch, len: case.len },
    };
    let shape = Shape { seqs, d: case.d, width: case.width };
    (shape, Options { residual: case.residual, silu: case.silu })
}

fn input<'a>(case: &'a Case, values: &'a Operands) -> Input<'a> {
    let static_w = case.static_w.then_some(values.static_w.as_slice());
    let rows = Rows::packed(&values.taps, case.columns());
    let filter = match case.op {
        Op::Static => Filter::Static { w: &values.static_w },
        Op::HeadWise { head_size } => Filter::HeadWise { weight: rows, head_size, static_w },
        Op::LowRank { rank } => Filter::LowRank { z: rows, u: &values.u, rank, static_w },
    };
    Input { x: Rows::packed(&values.x, case.d), filter, initial_state: case.state.then_some(values.state.as_slice()) }
}

/// y and the final state of a case of one stream.
///
/// # Errors
/// As [`run`].
pub fn run_forward(case: &Case, values: &Operands, results: &mut Results<f32>) -> kernels::Result<()> {
    let (shape, options) = shape(case);
    let y = RowsMut::packed(&mut results.y, case.d);
    let final_state = case.state.then_some(results.final_state.as_mut_slice());
    forward(shape, options, &input(case, values), Output { y, final_state })
}

/// All gradients of a case of one stream.
///
/// # Errors
/// As [`run`].
pub fn run_backward(case: &Case, values: &Operands, results: &mut Results<f32>) -> kernels::Result<()> {
    let (shape, options) = shape(case);
    let dstatic_w = case.static_w.then_some(results.dstatic_w.as_mut_slice());
    let rows = RowsMut::packed(&mut results.dtaps, case.columns());
    let filter = match case.op {
        Op::Static => FilterGrad::Static { dw: &mut results.dstatic_w },
        Op::HeadWise { .. } => FilterGrad::HeadWise { dweight: rows, dstatic_w },
        Op::LowRank { .. } => FilterGrad::LowRank { dz: rows, du: &mut results.du, dstatic_w },
    };
    let dfinal_state = case.state.then_some(values.dfinal.as_slice());
    let output = OutputGrad { dy: Rows::packed(&values.dy, case.d), dfinal_state };
    let dx = RowsMut::packed(&mut results.dx, case.d);
    let dinitial_state = case.state.then_some(results.dstate.as_mut_slice());
    backward(shape, options, &input(case, values), output, InputGrad { dx, filter, dinitial_state })
}

//! Launches of `kernels/ssd_*.cu`: the recurrence of Mamba-2 by chunks.

mod call;
mod shape;
mod variants;

pub use shape::SsdShape;
pub use variants::variants as ssd_variants;

use super::chunks::CHUNK;
use super::{Arg, check, check_flat, refused};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};
use call::Call;
use shape::{GATES, across, along};

const STATES: &str = "ssd_states.cu";
const OUTPUTS: &str = "ssd_outputs.cu";
const GRADIENTS: &str = "ssd_gradients.cu";
const BC: &str = "ssd_bc.cu";
const THREADS: usize = 256;

/// What the recurrence reads.
#[derive(Debug, Clone, Copy)]
pub struct Ssd<'a> {
    /// Sequences.
    pub sequences: usize,
    /// Groups of heads that share b and c.
    pub groups: usize,
    /// Of [`super::plan_chunks`].
    pub plan: &'a Tensor,
    /// `[N, heads head_size]`.
    pub x: &'a Tensor,
    /// `[N, groups state_size]`.
    pub b: &'a Tensor,
    /// As b.
    pub c: &'a Tensor,
    /// `[N, heads]`.
    pub dt: &'a Tensor,
    /// a_log, dt_bias and d, `[heads]`, f32.
    pub params: [&'a Tensor; 3],
}

/// Where the backward writes: gradients shaped like what [`Ssd`] reads. Those of parameters are added to what is there where the flag
/// says so, and may be one another.
#[derive(Debug, Clone, Copy)]
pub struct SsdGrad<'a> {
    /// By x.
    pub dx: &'a Tensor,
    /// By b.
    pub db: &'a Tensor,
    /// By c.
    pub dc: &'a Tensor,
    /// By dt.
    pub ddt: &'a Tensor,
    /// By a_log, dt_bias and d.
    pub params: [(&'a Tensor, bool); 3],
}

/// y, and in `saved` (f32, [`SsdShape::saved_len`]) what the backward needs.
///
/// # Errors
/// Shapes or types that do not fit; a head that [`SsdShape::check`] refuses.
pub fn ssd(device: &Device, op: Ssd<'_>, y: &Tensor, saved: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda ssd";
    let s = op.shape(OP)?;
    check(OP, op.x.rows, op.x.cols, op.x.dtype, &[("y", y)])?;
    let [gates, products, states] = op.saved(OP, &s, saved)?;
    let call = Call::new(device, op, s, [y, y], [op.b, op.c]);
    let Ssd { plan, x, b, c, dt, params: [a_log, dt_bias, d], .. } = op;
    let (heads, groups) = (s.heads, s.groups);
    let tile = s.tile_of(STATES);
    // SAFETY: the arguments of each kernel, in order, of the shapes that were checked.
    unsafe {
        call.launch(
            (STATES, "ssd_chunks"),
            (s.chunks * groups, 1),
            2 * CHUNK * across(tile),
            &mut [
                b.into(),
                b.stride.into(),
                c.into(),
                c.stride.into(),
                dt.into(),
                dt.stride.into(),
                a_log.into(),
                dt_bias.into(),
                plan.into(),
                (&gates).into(),
                (&products).into(),
                heads.into(),
                groups.into(),
            ],
        )?;
        call.states(["ssd_states", "ssd_scan"], [b, x], &gates, &states)?;
        call.launch(
            (OUTPUTS, "ssd_outputs"),
            (s.chunks * heads, 1),
            GATES * CHUNK + CHUNK * along(s.head_size) + call.tiles(OUTPUTS).max(CHUNK * across(CHUNK)),
            &mut [
                x.into(),
                x.stride.into(),
                c.into(),
                c.stride.into(),
                d.into(),
                plan.into(),
                (&gates).into(),
                (&products).into(),
                (&states).into(),
                y.into(),
                y.stride.into(),
                heads.into(),
                groups.into(),
            ],
        )
    }
}

/// Every gradient, from that of y. `work`: f32 and f64, [`SsdShape::work_len`] and [`SsdShape::shares_len`].
///
/// # Errors
/// As [`ssd`].
pub fn ssd_backward(
    device: &Device,
    op: Ssd<'_>,
    saved: &Tensor,
    dy: &Tensor,
    grad: SsdGrad<'_>,
    work: [&Tensor; 2],
) -> CudaResult<()> {
    const OP: &str = "cuda ssd backward";
    let s = op.shape(OP)?;
    let SsdGrad { dx, db, dc, ddt, params: [da_log, ddt_bias, dd] } = grad;
    check(OP, op.x.rows, op.x.cols, op.x.dtype, &[("dy", dy), ("dx", dx)])?;
    check(OP, op.b.rows, op.b.cols, op.x.dtype, &[("db", db), ("dc", dc)])?;
    check(OP, op.dt.rows, op.dt.cols, op.x.dtype, &[("ddt", ddt)])?;
    for (name, (t, _)) in [("da_log", da_log), ("ddt_bias", ddt_bias), ("dd", dd)] {
        check_flat(OP, name, t, s.heads, Dtype::F32)?;
    }
    let [gates, products, states] = op.saved(OP, &s, saved)?;
    let [work, shares] = work;
    check_flat(OP, "work", work, s.work_len(), Dtype::F32)?;
    check_flat(OP, "shares", shares, s.shares_len(), Dtype::F64)?;
    let (dstates, dproducts) = (work.columns(0, s.states())?, work.columns(s.states(), s.work_len() - s.states())?);
    let call = Call::new(device, op, s, [dy, dx], [db, dc]);
    let Ssd { plan, x, b, c, dt, params: [a_log, dt_bias, d], .. } = op;
    let (heads, groups, taken) = (s.heads, s.groups, s.taken());
    // SAFETY: as in `ssd`.
    unsafe {
        call.states(["ssd_dstates", "ssd_scan_back"], [c, dy], &gates, &dstates)?;
        call.launch(
            (GRADIENTS, "ssd_gradients"),
            (s.chunks * (heads / taken), 1),
            GATES * CHUNK + 2 * CHUNK * across(s.head_size) + (2 * call.tiles(GRADIENTS)).max(CHUNK * along(CHUNK)),
            &mut [
                x.into(),
                x.stride.into(),
                b.into(),
                b.stride.into(),
                c.into(),
                c.stride.into(),
                dt.into(),
                dt.stride.into(),
                dy.into(),
                dy.stride.into(),
                a_log.into(),
                dt_bias.into(),
                d.into(),
                plan.into(),
                (&gates).into(),
                (&products).into(),
                (&states).into(),
                (&dstates).into(),
                dx.into(),
                dx.stride.into(),
                ddt.into(),
                ddt.stride.into(),
                (&dproducts).into(),
                shares.into(),
                heads.into(),
                groups.into(),
                taken.into(),
            ],
        )?;
        let parts = heads / groups / taken;
        let tile = s.tile_of(BC);
        call.launch(
            (BC, "ssd_bc"),
            (s.chunks * groups, 2 * s.state_size.div_ceil(tile)),
            CHUNK * across(CHUNK) + (2 * tile * across(CHUNK)).max(CHUNK * along(tile)),
            &mut [
                x.into(),
                x.stride.into(),
                b.into(),
                b.stride.into(),
                c.into(),
                c.stride.into(),
                dy.into(),
                dy.stride.into(),
                plan.into(),
                (&gates).into(),
                (&states).into(),
                (&dstates).into(),
                (&dproducts).into(),
                db.into(),
                db.stride.into(),
                dc.into(),
                dc.stride.into(),
                heads.into(),
                groups.into(),
                parts.into(),
            ],
        )?;
        let [a, b, d] = [da_log, ddt_bias, dd].map(|(t, add)| (Arg::from(t), Arg::from(usize::from(add))));
        let args = &mut [shares.into(), s.chunks.into(), heads.into(), a.0, a.1, b.0, b.1, d.0, d.1];
        call.launch((BC, "ssd_parameters"), (heads, 1), 0, args)
    }
}

impl Ssd<'_> {
    fn shape(&self, op: &'static str) -> CudaResult<SsdShape> {
        let Ssd { sequences, groups, plan, x, b, c, dt, params } = *self;
        let heads = dt.cols;
        let fit = |n: usize, of: usize| of > 0 && n.is_multiple_of(of);
        if sequences == 0 || b.cols == 0 {
            let what = format!("{sequences} sequences, {} columns of b", b.cols);
            return Err(refused(op, what, "give positive sizes"));
        }
        if !fit(x.cols, heads) || !fit(b.cols, groups) || !fit(heads, groups) {
            let what = format!("{} columns in {heads} heads, {} in {groups} groups", x.cols, b.cols);
            return Err(refused(op, what, "choose sizes that divide"));
        }
        check(op, x.rows, b.cols, x.dtype, &[("b", b), ("c", c)])?;
        check(op, x.rows, heads, x.dtype, &[("dt", dt)])?;
        check_flat(op, "plan", plan, plan.cols, Dtype::U32)?;
        for (name, t) in ["a_log", "dt_bias", "d"].into_iter().zip(params) {
            check_flat(op, name, t, heads, Dtype::F32)?;
        }
        let (head_size, state_size) = (x.cols / heads, b.cols / groups);
        let shape = SsdShape { sequences, chunks: plan.cols / 4, heads, head_size, groups, state_size };
        shape.check()?;
        Ok(shape)
    }

    /// Gates, products and states.
    fn saved(&self, op: &'static str, s: &SsdShape, saved: &Tensor) -> CudaResult<[Tensor; 3]> {
        check_flat(op, "saved", saved, s.saved_len(), Dtype::F32)?;
        let (gates, states) = (s.gates(), s.states());
        let products = s.saved_len() - gates - states;
        Ok([saved.columns(0, gates)?, saved.columns(gates, products)?, saved.columns(gates + products, states)?])
    }
}

//! Linear recurrences between the tape and their kernels.

use kernels::{Sequences, gated_delta_rule, ssd};

use super::CpuBackend;
use super::grads::{ParamGrads, ValueGrads};
use super::pool::Pool;
use crate::Result;
use crate::op::{GatedDeltaRule, Ssd};
use crate::tape::Tape;

impl GatedDeltaRule {
    pub(super) fn shape<'a>(&self, tape: &Tape, seqs: Sequences<'a>) -> gated_delta_rule::Shape<'a> {
        let heads = tape.cols(self.a);
        let (key_size, value_size) = (tape.cols(self.q) / heads, tape.cols(self.v) / heads);
        gated_delta_rule::Shape { seqs, heads, key_size, value_size }
    }
}

impl Ssd {
    pub(super) fn shape<'a>(&self, tape: &Tape, seqs: Sequences<'a>) -> ssd::Shape<'a> {
        let (heads, groups) = (tape.cols(self.dt), self.groups);
        let (head_size, state_size) = (tape.cols(self.x) / heads, tape.cols(self.b) / groups);
        ssd::Shape { seqs, heads, head_size, groups, state_size }
    }
}

impl CpuBackend {
    pub(super) fn delta_input(&self, op: GatedDeltaRule) -> Result<gated_delta_rule::Input<'_>> {
        Ok(gated_delta_rule::Input {
            q: self.value(op.q),
            k: self.value(op.k),
            v: self.value(op.v),
            a: self.value(op.a),
            b: self.value(op.b),
            a_log: self.param(op.a_log)?,
            dt_bias: self.param(op.dt_bias)?,
            initial_state: None,
        })
    }

    pub(super) fn delta_forward(
        &self,
        tape: &Tape,
        seqs: Sequences,
        op: GatedDeltaRule,
        y: &mut [f32],
        saved: &mut [f32],
    ) -> Result<()> {
        Ok(gated_delta_rule::forward(&op.shape(tape, seqs), &self.delta_input(op)?, y, None, saved)?)
    }

    pub(super) fn delta_backward(
        &self,
        tape: &Tape,
        seqs: Sequences,
        i: usize,
        op: GatedDeltaRule,
        dy: &[f32],
        values: &mut ValueGrads,
        params: &mut ParamGrads,
        pool: &mut Pool,
    ) -> Result<()> {
        let inputs = [op.q, op.k, op.v, op.a, op.b];
        let mut by_value = inputs.map(|x| pool.take(tape.tokens() * tape.cols(x)));
        let mut by_param = [op.a_log, op.dt_bias].map(|p| pool.take(tape.spec(p).numel()));
        let ([dq, dk, dv, da, db], [da_log, ddt_bias]) = (&mut by_value, &mut by_param);
        let grads = gated_delta_rule::Grads { dq, dk, dv, da, db, da_log, ddt_bias, dinitial_state: None };
        let shape = op.shape(tape, seqs);
        gated_delta_rule::backward(&shape, &self.delta_input(op)?, &self.saved[i], dy, None, grads)?;
        for (x, dx) in inputs.into_iter().zip(by_value) {
            values.add(x, dx, pool)?;
        }
        for (p, dp) in [op.a_log, op.dt_bias].into_iter().zip(by_param) {
            params.add(p, dp, pool)?;
        }
        Ok(())
    }

    pub(super) fn ssd_input(&self, op: Ssd) -> Result<ssd::Input<'_>> {
        Ok(ssd::Input {
            x: self.value(op.x),
            b: self.value(op.b),
            c: self.value(op.c),
            dt: self.value(op.dt),
            a_log: self.param(op.a_log)?,
            dt_bias: self.param(op.dt_bias)?,
            d: self.param(op.d)?,
            initial_state: None,
        })
    }

    pub(super) fn ssd_forward(
        &self,
        tape: &Tape,
        seqs: Sequences,
        op: Ssd,
        y: &mut [f32],
        saved: &mut [f32],
    ) -> Result<()> {
        Ok(ssd::forward(&op.shape(tape, seqs), &self.ssd_input(op)?, y, None, saved)?)
    }

    pub(super) fn ssd_backward(
        &self,
        tape: &Tape,
        seqs: Sequences,
        i: usize,
        op: Ssd,
        dy: &[f32],
        values: &mut ValueGrads,
        params: &mut ParamGrads,
        pool: &mut Pool,
    ) -> Result<()> {
        let inputs = [op.x, op.b, op.c, op.dt];
        let mut by_value = inputs.map(|x| pool.take(tape.tokens() * tape.cols(x)));
        let mut by_param = [op.a_log, op.dt_bias, op.d].map(|p| pool.take(tape.spec(p).numel()));
        let ([dx, db, dc, ddt], [da_log, ddt_bias, dd]) = (&mut by_value, &mut by_param);
        let grads = ssd::Grads { dx, db, dc, ddt, da_log, ddt_bias, dd, dinitial_state: None };
        ssd::backward(&op.shape(tape, seqs), &self.ssd_input(op)?, &self.saved[i], dy, None, grads)?;
        for (x, dx) in inputs.into_iter().zip(by_value) {
            values.add(x, dx, pool)?;
        }
        for (p, dp) in [op.a_log, op.dt_bias, op.d].into_iter().zip(by_param) {
            params.add(p, dp, pool)?;
        }
        Ok(())
    }
}

//! Linear recurrences on the tape.

use super::Tape;
use crate::Result;
use crate::op::{GatedDeltaRule, Op, Ssd, Var};

impl Tape {
    /// Records [`Op::GatedDeltaRule`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the heads, the columns of a, do not fit the other inputs.
    pub fn gated_delta_rule(&mut self, op: GatedDeltaRule) -> Result<Var> {
        const OP: &str = "gated_delta_rule";
        let heads = self.cols(op.a);
        self.same(OP, "columns of a and b", heads, self.cols(op.b))?;
        self.same(OP, "columns of q and k", self.cols(op.q), self.cols(op.k))?;
        self.divides(OP, self.cols(op.q), heads)?;
        self.divides(OP, self.cols(op.v), heads)?;
        self.same(OP, "elements of a_log and heads", self.spec(op.a_log).numel(), heads)?;
        self.same(OP, "elements of dt_bias and heads", self.spec(op.dt_bias).numel(), heads)?;
        Ok(self.push(Op::GatedDeltaRule(op), self.cols(op.v)))
    }

    /// Records [`Op::Ssd`].
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the heads, the columns of dt, or the groups do not fit the other inputs.
    pub fn ssd(&mut self, op: Ssd) -> Result<Var> {
        const OP: &str = "ssd";
        let heads = self.cols(op.dt);
        self.divides(OP, self.cols(op.x), heads)?;
        self.same(OP, "columns of b and c", self.cols(op.b), self.cols(op.c))?;
        self.divides(OP, self.cols(op.b), op.groups)?;
        self.divides(OP, heads, op.groups)?;
        for (what, p) in [
            ("elements of a_log and heads", op.a_log),
            ("elements of dt_bias and heads", op.dt_bias),
            ("elements of d and heads", op.d),
        ] {
            self.same(OP, what, self.spec(p).numel(), heads)?;
        }
        Ok(self.push(Op::Ssd(op), self.cols(op.x)))
    }
}

//! Gradients under way in a backward pass: which exist yet, and what the next contribution does to them.

use kernels::{Result, Store, elementwise};

use super::pool::Pool;
use crate::op::{Param, Var};
use crate::params::Params;

/// Gradients of values, present from their first contribution until their op has run backward.
#[derive(Debug, Default)]
pub(super) struct ValueGrads(Vec<Option<Vec<f32>>>);

impl ValueGrads {
    /// Forgets all gradients and makes room for `ops` values.
    pub(super) fn reset(&mut self, ops: usize, pool: &mut Pool) {
        self.0.drain(..).flatten().for_each(|g| pool.give(g));
        self.0.resize(ops, None);
    }

    /// Takes out a gradient whose contributions are complete.
    pub(super) fn take(&mut self, x: Var) -> Option<Vec<f32>> {
        self.0[x.0].take()
    }

    /// Lets `write` contribute to the gradient of x, `len` long.
    pub(super) fn write(
        &mut self,
        x: Var,
        len: usize,
        pool: &mut Pool,
        write: impl FnOnce(&mut [f32], Store) -> Result<()>,
    ) -> Result<()> {
        match &mut self.0[x.0] {
            Some(g) => write(g, Store::Accumulate),
            empty => write(empty.insert(pool.take(len)), Store::Overwrite),
        }
    }

    /// Contributes a whole buffer, which becomes the gradient itself if it is the first.
    pub(super) fn add(&mut self, x: Var, g: Vec<f32>, pool: &mut Pool) -> crate::Result<()> {
        match &mut self.0[x.0] {
            Some(sum) => {
                elementwise::axpy(1.0, &g, sum)?;
                pool.give(g);
            }
            empty => *empty = Some(g),
        }
        Ok(())
    }
}

/// Gradients of parameters. A tied parameter has several contributions.
#[derive(Debug)]
pub(super) struct ParamGrads {
    pub(super) grads: Params,
    touched: Vec<bool>,
}

impl ParamGrads {
    pub(super) fn new(grads: Params) -> Self {
        let touched = vec![false; grads.values.len()];
        Self { grads, touched }
    }

    /// Starts a pass: the next contribution to each parameter is its first, unless it is added to what there is.
    pub(super) fn reset(&mut self, add: bool) {
        self.touched.fill(add);
    }

    /// Ends a pass: a parameter the loss does not depend on has gradient zero.
    pub(super) fn finish(&mut self) {
        for (g, _) in self.grads.values.iter_mut().zip(&self.touched).filter(|(_, touched)| !**touched) {
            g.fill(0.0);
        }
    }

    /// The gradient of p and what to do with what it holds.
    pub(super) fn of(&mut self, p: Param) -> (&mut [f32], Store) {
        let first = !std::mem::replace(&mut self.touched[p.0], true);
        (&mut self.grads.values[p.0], if first { Store::Overwrite } else { Store::Accumulate })
    }

    /// Contributes a whole buffer.
    pub(super) fn add(&mut self, p: Param, g: Vec<f32>, pool: &mut Pool) -> crate::Result<()> {
        match self.of(p) {
            (sum, Store::Overwrite) => sum.copy_from_slice(&g),
            (sum, Store::Accumulate) => elementwise::axpy(1.0, &g, sum)?,
        }
        pool.give(g);
        Ok(())
    }

    /// The same for a parameter that an op may lack.
    pub(super) fn add_if(&mut self, p: Option<Param>, g: Option<Vec<f32>>, pool: &mut Pool) -> crate::Result<()> {
        match p.zip(g) {
            Some((p, g)) => self.add(p, g, pool),
            None => Ok(()),
        }
    }
}

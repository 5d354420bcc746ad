//! What rounding the parameters alone does to a gradient.

use backend::{Backend, Batch, CpuBackend, Error, Params, State, Tape};
use half::bf16;

use crate::common::{distance, norm, wide};

/// A gradient smaller than this share of all is nothing but rounding: it is held against so much of the whole.
pub(crate) const LEAST: f64 = 5e-3;

/// A gradient of bf16 that is further from the CPU's than allowed.
pub(crate) struct Off {
    /// Its place among the parameters.
    pub(crate) at: usize,
    pub(crate) apart: f64,
    /// The norm of the CPU's.
    pub(crate) size: f64,
}

impl Off {
    pub(crate) fn said(&self, name: &str, gradients: &Params) -> String {
        let tensor = &gradients.specs[self.at].name;
        format!("{name}: {tensor}: {:.3e} apart, of norm {:.3e}", self.apart, self.size)
    }
}

/// Of tensors that are off, relative to their norms, those that are no further off than twice the furthest that a gradient of the
/// CPU's moves, in f32, when nothing but the parameters is rounded to bf16: there the model is ill conditioned, and no arithmetic on bf16
/// parameters comes nearer.
pub(crate) fn ill_conditioned(tape: &Tape, data: &Batch, state: &State, off: &[Off]) -> Result<Vec<bool>, Error> {
    let mut cpu = CpuBackend::new();
    let gradients = |cpu: &mut CpuBackend, state: State| {
        cpu.load(state)?;
        cpu.gradients(tape, data)?;
        cpu.read_gradients()
    };
    let want = gradients(&mut cpu, state.clone())?;
    let mut rounded = state.clone();
    for value in rounded.params.values.iter_mut().flat_map(|values| values.iter_mut()) {
        *value = bf16::from_f32(*value).to_f32();
    }
    let have = gradients(&mut cpu, rounded)?;
    let whole = norm(&want.values.iter().flat_map(|v| wide(v)).collect::<Vec<_>>());
    let moved = want.values.iter().zip(&have.values).map(|(want, have)| {
        let (want, have) = (wide(want), wide(have));
        distance(&want, &have) / norm(&want).max(LEAST * whole)
    });
    let furthest = moved.fold(0.0, f64::max);
    Ok(off.iter().map(|off| off.apart <= 2.0 * furthest * off.size).collect())
}

//! Which program a pass runs: made at first use, in the memory that all share, on a state laid out for its tape.

use kernels::cuda::Memory;

use super::CudaBackend;
use super::compiled::{Compiled, Key};
use super::gated_delta_rule::delta_shape;
use super::groups::Groups;
use super::layout::Layout;
use super::lower::{Pass, lower};
use super::ssd;
use super::state::DeviceState;
use crate::backend::Backend;
use crate::op::Op;
use crate::tape::Tape;
use crate::{Error, Result};

impl CudaBackend {
    /// Lays the state out as this tape needs it.
    fn settle(&mut self, tape: &Tape, groups: &Groups) -> Result<()> {
        let layout = Layout::new(tape, groups);
        if let Some(state) = &self.state {
            if state.specs[..] == tape.specs()[..] && state.layout == layout {
                return Ok(());
            }
            self.pending = Some(self.state()?);
        }
        let state = self.pending.as_ref().ok_or_else(|| self.missing("no parameters", "load a state first"))?;
        state.params.check(&tape.specs())?;
        self.forget();
        if let Some(state) = self.pending.take() {
            // A failure leaves the state where it can be tried again.
            match DeviceState::new(&self.device, layout, &state, self.precision.dtype()) {
                Ok(on_device) => self.state = Some(on_device),
                Err(e) => {
                    self.pending = Some(state);
                    return Err(e.into());
                }
            }
        }
        Ok(())
    }

    /// Drops the state on the device and every program that names it.
    pub(super) fn forget(&mut self) {
        self.programs.clear();
        self.last = None;
        self.has_gradients = false;
        self.begun = None;
        self.state = None;
    }

    /// The program of this tape and pass, made if it is new.
    pub(super) fn program(&mut self, tape: &Tape, pass: Pass, packed: Option<usize>) -> Result<usize> {
        let key = Key::new(tape, pass, packed);
        let same = self.state.as_ref().is_some_and(|s| s.specs[..] == tape.specs()[..]);
        if let Some(found) = self.programs.iter().position(|p| same && p.key == key) {
            return Ok(found);
        }
        supported(tape)?;
        let groups = Groups::new(tape);
        self.settle(tape, &groups)?;
        let Some(layout) = self.state.as_ref().map(|s| s.layout.clone()) else {
            return Err(self.missing("no parameters", "load a state first"));
        };
        let lowered = lower(tape, &groups, &layout, pass, self.precision.dtype(), self.device.arch(), packed);
        let need = lowered.program.place().1;
        if self.work.as_ref().is_none_or(|work| work.len() < need) {
            // The old memory goes first: both may not fit.
            self.programs.clear();
            self.last = None;
            self.begun = None;
            self.work = None;
            self.device.synchronize()?;
            let (free, _) = self.device.memory()?;
            if free < need {
                return Err(self.too_large(tape, need, free));
            }
            self.work = Some(Memory::new(&self.device, need.max(256))?);
        }
        let (Some(state), Some(work)) = (&self.state, &self.work) else {
            return Err(self.missing("no parameters", "load a state first"));
        };
        self.programs.push(Compiled::new(&self.device, key, lowered, state, work)?);
        Ok(self.programs.len() - 1)
    }

    fn too_large(&self, tape: &Tape, need: usize, free: usize) -> Error {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        let (rows, len) = (tape.batch(), tape.seq_len());
        Error::Backend {
            backend: self.name(),
            what: format!("a pass of {rows} x {len} tokens needs {:.2} GiB, {:.2} GiB are free", gib(need), gib(free)),
            hint: match (rows as f64 * free as f64 / need as f64) as usize {
                0 => "make activations again (recompute), shorten the rows or choose a smaller model".into(),
                fits => format!(
                    "about {fits} rows fit: take the batch in parts (accumulate), or make activations again (recompute)"
                ),
            } + "; where several seeds share this GPU, run one at a time: --threads 1",
        }
    }
}

/// Refuses a tape with an op of a size that its kernels cannot take; asks no device.
///
/// # Errors
/// Those of the kernels, naming the size and the remedy.
pub fn supported(tape: &Tape) -> Result<()> {
    for op in tape.ops() {
        match op {
            Op::GatedDeltaRule(op) => delta_shape(tape, *op, tape.batch()).check()?,
            Op::Ssd(op) => ssd::shape(tape, op, 1, 1).check()?,
            Op::Moe(op) => op.check_cuda(tape)?,
            _ => {}
        }
    }
    Ok(())
}

//! How much device memory a training step takes, known before anything is allocated.

use kernels::cuda::Dtype;

use super::Precision;
use super::groups::Groups;
use super::layout::Layout;
use super::lower::{Pass, lower};
use super::programs::supported;
use crate::Result;
use crate::tape::Tape;

/// The architecture of no device: what only some devices do without is counted.
const ANY: &str = "any";

/// Bytes of a training step by kind. The workspaces of the libraries and the scratch of single launches come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Parameters in f32 and, in bf16, their copy.
    pub parameters: usize,
    /// Both moments.
    pub moments: usize,
    /// Gradients of parameters.
    pub gradients: usize,
    /// Activations, their gradients and the logits of a chunk, as they share one memory.
    pub work: usize,
    /// What the work would take without sharing.
    pub work_unshared: usize,
    /// Batches and scores.
    pub batches: usize,
}

impl MemoryPlan {
    /// The plan of a training step of this tape; with `parts`, of a step that takes its batch in several passes of it. For any
    /// device: one of sm_90a needs less where convolutions run within SwiGLU.
    ///
    /// # Errors
    /// If the tape has an op that CUDA has not.
    pub fn new(tape: &Tape, precision: Precision, parts: bool) -> Result<Self> {
        supported(tape)?;
        let groups = Groups::new(tape);
        let layout = Layout::new(tape, &groups);
        let dtype = precision.dtype();
        let lowered = lower(tape, &groups, &layout, Pass::Train { add: parts }, dtype, ANY, None);
        let copy = if dtype == Dtype::F32 { 0 } else { dtype.bytes() };
        Ok(Self {
            parameters: layout.len * (4 + copy),
            moments: layout.len * 8,
            gradients: (layout.taps + layout.len - layout.trained) * 4 + (layout.trained - layout.taps) * dtype.bytes(),
            work: lowered.program.place().1,
            work_unshared: lowered.program.bytes(),
            batches: (lowered.inputs.len() + lowered.inputs.outputs()) * 4,
        })
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.parameters + self.moments + self.gradients + self.work + self.batches
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        for (name, bytes) in [
            ("parameters", self.parameters),
            ("moments", self.moments),
            ("gradients", self.gradients),
            ("work", self.work),
            ("batches", self.batches),
            ("total", self.total()),
        ] {
            writeln!(f, "{name:12} {:8.3} GiB", gib(bytes))?;
        }
        write!(f, "work is {:.3} GiB of activations, their gradients and logits in turn", gib(self.work_unshared))
    }
}

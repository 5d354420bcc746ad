//! The fast one: tapes on an NVIDIA GPU.
//!
//! A tape is lowered once per shape to a [`program`]: ops that share an input run as one product ([`groups`]), activations and
//! their gradients are placed in one memory ([`program::Program::place`]), the classifier runs by chunks of rows with the loss, and
//! from its second run on the whole pass is one CUDA graph. The next batch is taken in while a pass runs, and activations can be made
//! again instead of kept ([`segments`]). Activations are f32 or bf16; parameters, moments, statistics and sums
//! are f32 in both. Two runs give the same bits.

mod backward;
mod compiled;
mod conv;
mod forward;
mod gated_delta_rule;
mod gradients;
mod groups;
mod inputs;
mod layout;
mod loss;
mod lower;
mod memory;
mod moe;
mod program;
mod programs;
mod segments;
mod ssd;
mod state;
mod swiglu;

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::cuda::matmul::Matmul;
use kernels::cuda::{Device, Dtype, Memory, Staging, setup};

use crate::backend::{Backend, Part, Scores};
use crate::batch::Batch;
use crate::op::Var;
use crate::optim::{AdamW, State};
use crate::params::Params;
use crate::tape::Tape;
use crate::{Error, Result};
use compiled::Compiled;
use inputs::Inputs;
use lower::Pass;
use program::On;
use state::DeviceState;

pub use memory::MemoryPlan;
pub use programs::supported;

/// Values of an evaluation up to this size are kept to be read.
const KEPT: usize = 256 << 20;

/// Type of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision throughout: for parity with the CPU.
    F32,
    /// Activations and products' operands in bf16, sums and parameters in f32.
    Bf16,
}

impl Precision {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

/// A GPU that runs tapes.
pub struct CudaBackend {
    ordinal: usize,
    precision: Precision,
    /// What was loaded and waits for the first tape, which says how to lay it out.
    pending: Option<State>,
    state: Option<DeviceState>,
    programs: Vec<Compiled>,
    /// The memory that all programs work in, one at a time.
    work: Option<Arc<Memory>>,
    /// The program that ran last.
    last: Option<usize>,
    has_gradients: bool,
    /// Whether a rule was applied whose norm was not asked for.
    applied: bool,
    /// Labels of the pass begun last; none where its tape has no loss.
    begun: Option<Option<usize>>,
    staging: Option<Staging>,
    /// What the staging holds.
    prepared: Option<Prepared>,
    // Last, so that everything on the device goes before it.
    matmul: Matmul,
    device: Device,
}

/// A batch on its way to the device.
#[derive(PartialEq)]
struct Prepared {
    inputs: Inputs,
    batch: Batch,
    part: Part,
}

impl std::fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaBackend")
            .field("device", &self.device)
            .field("precision", &self.precision)
            .finish_non_exhaustive()
    }
}

/// Name of a GPU and the newest CUDA version its driver knows.
///
/// # Errors
/// [`Error::Backend`] where there is no driver or no such device.
pub fn cuda_device(ordinal: usize) -> Result<(String, String)> {
    let device = Device::new(ordinal)?;
    Ok((device.name().into(), device.cuda_version()?))
}

/// SHA-256 of each of the GPU kernels' sources, by file.
pub fn cuda_kernels() -> BTreeMap<String, String> {
    kernels::cuda::source::hashes()
}

impl CudaBackend {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::Backend`] where there is no driver, no such device or no cuBLASLt.
    pub fn new(ordinal: usize, precision: Precision) -> Result<Self> {
        let device = Device::new(ordinal)?;
        let matmul = Matmul::new(&device)?;
        Ok(Self {
            ordinal,
            precision,
            pending: None,
            state: None,
            programs: Vec::new(),
            work: None,
            last: None,
            has_gradients: false,
            applied: false,
            begun: None,
            staging: None,
            prepared: None,
            matmul,
            device,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The time of each step of a training pass, `(name, milliseconds)` in order, each queued alone.
    ///
    /// # Errors
    /// As [`Backend::gradients`].
    pub fn profile(&mut self, tape: &Tape, batch: &Batch, runs: usize) -> Result<Vec<(&'static str, f64)>> {
        self.gradients(tape, batch)?;
        let program =
            self.last.map(|i| &self.programs[i]).ok_or_else(|| self.missing("no program", "run a pass first"))?;
        Ok(program.profile(On { device: &self.device, matmul: &self.matmul }, runs)?)
    }

    /// Lines for the table of matrix products: see [`Matmul::tune`].
    ///
    /// # Errors
    /// As [`Backend::gradients`].
    pub fn tune(&mut self, tape: &Tape, batch: &Batch) -> Result<Vec<String>> {
        self.gradients(tape, batch)?;
        Ok(self.matmul.tune(&self.device)?)
    }

    fn missing(&self, what: &str, hint: &str) -> Error {
        Error::Backend { backend: self.name(), what: what.into(), hint: hint.into() }
    }

    fn queue(&mut self, tape: &Tape, batch: &Batch, pass: Pass, part: Part) -> Result<()> {
        self.begun = None;
        inputs::check(tape, batch)?;
        let index = self.program(tape, pass, packed(batch))?;
        if part.add && !self.has_gradients {
            return Err(self.missing("no gradients to add to", "begin a step with a part that does not add"));
        }
        let program = &mut self.programs[index];
        let inputs = program.lowered.inputs;
        let same = |p: &Prepared| p.inputs == inputs && p.part == part && p.batch == *batch;
        match &mut self.staging {
            Some(staging) if self.prepared.as_ref().is_some_and(same) => {
                staging.deliver(&self.device, program.inputs())?;
                self.prepared = None;
            }
            _ => program.inputs().write(&self.device, &inputs.pack(tape, batch, part.share))?,
        }
        program.run(On { device: &self.device, matmul: &self.matmul })?;
        self.last = Some(index);
        self.begun = Some(tape.logits().map(|_| inputs::counted(&batch.targets)));
        Ok(())
    }

    /// Waits for what was queued last.
    fn outcome(&mut self) -> Result<Scores> {
        let (Some(labels), Some(program)) = (self.begun.take(), self.last.map(|i| &mut self.programs[i])) else {
            return Err(self.missing("no pass was begun", "call begin() first"));
        };
        let mut scores = program.outputs(&self.device)?;
        match labels {
            Some(labels) => {
                let total: f64 = scores.nll.iter().map(|&v| f64::from(v)).sum();
                scores.loss = (total / labels.max(1) as f64) as f32;
            }
            None => (scores.nll, scores.predictions) = (Vec::new(), Vec::new()),
        }
        Ok(scores)
    }
}

/// Room for a batch's packed sequences.
fn packed(batch: &Batch) -> Option<usize> {
    batch.cu_seqlens.as_ref().map(|borders| (borders.len() - 1).next_power_of_two())
}

/// What is freed goes back to the device once a stream waits: before another backend of this process asks what is free.
impl Drop for CudaBackend {
    fn drop(&mut self) {
        let _setup = setup();
        self.forget();
        self.work = None;
        self.staging = None;
        // A device that fails now has said so before, or says so to whoever uses it next.
        let _ = self.device.synchronize();
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> String {
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        format!("cuda:{}-{precision}", self.ordinal)
    }

    fn load(&mut self, state: State) -> Result<()> {
        for part in [&state.m, &state.v] {
            part.check(&state.params.specs)?;
        }
        self.forget();
        self.pending = Some(state);
        Ok(())
    }

    fn state(&self) -> Result<State> {
        match (&self.pending, &self.state) {
            (Some(pending), _) => Ok(pending.clone()),
            (None, Some(state)) => Ok(state.state(&self.device)?),
            (None, None) => Err(self.missing("no parameters", "load a state first")),
        }
    }

    fn evaluate(&mut self, tape: &Tape, batch: &Batch) -> Result<Scores> {
        let keep = forward::value_bytes(tape, self.precision.dtype()) <= KEPT;
        self.queue(tape, batch, Pass::Evaluate { keep }, Part::WHOLE)?;
        self.outcome()
    }

    fn begin(&mut self, tape: &Tape, batch: &Batch, part: Part) -> Result<()> {
        if tape.logits().is_none() {
            let what = "the tape has no loss".into();
            return Err(Error::Shape { op: "gradients", what, remedy: "record cross_entropy last" });
        }
        self.queue(tape, batch, Pass::Train { add: part.add }, part)?;
        self.has_gradients = true;
        Ok(())
    }

    fn prepare(&mut self, tape: &Tape, batch: &Batch, part: Part) -> Result<()> {
        inputs::check(tape, batch)?;
        let inputs = Inputs::new(tape, packed(batch));
        // What it held is void whatever happens.
        self.prepared = None;
        let words = inputs.pack(tape, batch, part.share);
        if self.staging.as_ref().is_none_or(|staging| staging.words() != words.len()) {
            let _setup = setup();
            self.staging = Some(Staging::new(&self.device, words.len())?);
        }
        if let Some(staging) = &mut self.staging {
            staging.fill(&self.device, &words)?;
        }
        self.prepared = Some(Prepared { inputs, batch: batch.clone(), part });
        Ok(())
    }

    fn scores(&mut self) -> Result<Scores> {
        self.outcome()
    }

    fn read_gradients(&self) -> Result<Params> {
        match &self.state {
            Some(state) if self.has_gradients => Ok(state.gradients(&self.device)?),
            _ => Err(self.missing("no gradients", "begin a pass first")),
        }
    }

    fn read(&self, x: Var) -> Result<Vec<f32>> {
        let value = self.last.and_then(|i| self.programs[i].value(x));
        let hint = "read values after evaluate(), which keeps up to 256 MiB of them: shorten the row";
        let value = value.ok_or_else(|| self.missing("the last pass kept no such value", hint))?;
        Ok(value.read_f32(&self.device)?)
    }

    fn apply(&mut self, rule: &AdamW) -> Result<()> {
        if !self.has_gradients {
            return Err(self.missing("no gradients", "begin a pass first"));
        }
        match &mut self.state {
            Some(state) => state.apply(&self.device, rule)?,
            None => return Err(self.missing("no parameters", "load a state first")),
        }
        self.applied = true;
        Ok(())
    }

    fn grad_norm(&mut self) -> Result<f32> {
        match &mut self.state {
            Some(state) if std::mem::take(&mut self.applied) => Ok(state.grad_norm(&self.device)?),
            _ => Err(self.missing("no rule was applied", "call apply() first")),
        }
    }
}

#[cfg(test)]
mod symbol_tests;
#[cfg(test)]
mod tests;

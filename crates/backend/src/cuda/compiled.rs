//! A program with its memory: ready to run, and from its second run on one graph.

use std::sync::Arc;

use kernels::cuda::graph::{Graph, Moment};
use kernels::cuda::{CudaResult, Device, Dtype, Memory, Readback, Tensor};
use kernels::rope::Table;

use super::lower::{Lowered, Pass};
use super::program::{Home, On, View};
use super::state::DeviceState;
use crate::backend::Scores;
use crate::op::{Op, Var};
use crate::tape::Tape;

/// What a program was lowered from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    batch: usize,
    len: usize,
    ops: Vec<Op>,
    cols: Vec<usize>,
    pass: Pass,
    packed: Option<usize>,
    recompute: bool,
}

impl Key {
    pub(super) fn new(tape: &Tape, pass: Pass, packed: Option<usize>) -> Self {
        let cols = (0..tape.ops().len()).map(|i| tape.cols(Var::at(i))).collect();
        Self {
            batch: tape.batch(),
            len: tape.seq_len(),
            ops: tape.ops().to_vec(),
            cols,
            pass,
            packed,
            recompute: tape.recompute(),
        }
    }

    /// Experts of each mixture.
    fn experts(&self) -> impl Iterator<Item = usize> + '_ {
        let logits = self.ops.iter().filter_map(|op| if let Op::Moe(moe) = op { Some(moe.logits) } else { None });
        logits.map(|logits| self.cols[logits.index()])
    }
}

/// A program whose matrices have addresses.
pub(super) struct Compiled {
    pub(super) key: Key,
    pub(super) lowered: Lowered,
    /// The matrices of each step.
    tensors: Vec<Vec<Tensor>>,
    values: Vec<Option<Tensor>>,
    inputs: Tensor,
    outputs: Tensor,
    readback: Readback<u32>,
    graph: Option<Graph>,
    runs: usize,
}

impl Compiled {
    /// Gives the matrices of a program their places: `work` is as large as [`super::program::Program::place`] says.
    pub(super) fn new(
        device: &Device,
        key: Key,
        lowered: Lowered,
        state: &DeviceState,
        work: &Arc<Memory>,
    ) -> CudaResult<Self> {
        let words = |len: usize| -> CudaResult<Arc<Memory>> { Memory::new(device, len.max(1) * 4) };
        let tables = tables(device, &lowered.tables, key.len)?;
        let inputs = words(lowered.inputs.len())?;
        let outputs = words(lowered.inputs.outputs())?;
        let (places, _) = lowered.program.place();
        let tensor = |view: &View| {
            let (memory, at) = match view.home {
                Home::Work(buffer) => (work, places[buffer]),
                Home::Values => (state.values.memory(), 0),
                Home::Copy => (state.copy.as_ref().unwrap_or(&state.values).memory(), 0),
                Home::Gradients => (state.gradients.memory(), 0),
                Home::TapGradients => (state.tap_gradients.memory(), 0),
                Home::Inputs => (&inputs, 0),
                Home::Outputs => (&outputs, 0),
                Home::Tables => (&tables, 0),
            };
            let at = at + view.at * view.dtype.bytes();
            Tensor::new(memory, at, view.rows, view.cols, view.stride, view.dtype)
        };
        let all = |views: &[View]| views.iter().map(tensor).collect::<CudaResult<Vec<_>>>();
        let tensors = lowered.program.steps.iter().map(|step| all(&step.views)).collect::<CudaResult<_>>()?;
        let kept = matches!(key.pass, Pass::Evaluate { keep: true });
        let values = lowered.values.iter().map(|v| v.as_ref().filter(|_| kept).map(tensor).transpose());
        Ok(Self {
            tensors,
            values: values.collect::<CudaResult<_>>()?,
            inputs: row(&inputs, lowered.inputs.len())?,
            outputs: row(&outputs, lowered.inputs.outputs())?,
            readback: Readback::new(device, lowered.inputs.outputs())?,
            key,
            lowered,
            graph: None,
            runs: 0,
        })
    }

    /// The matrix of what the host sends.
    pub(super) fn inputs(&self) -> &Tensor {
        &self.inputs
    }

    /// Queues every step, on the inputs that are there.
    pub(super) fn run(&mut self, on: On<'_>) -> CudaResult<()> {
        if self.runs == 1 {
            // The first run has compiled and loaded every kernel.
            self.graph = Some(Graph::record(on.device, || self.queue(on))?);
        }
        self.runs += 1;
        match &self.graph {
            Some(graph) => graph.launch(),
            None => self.queue(on),
        }
    }

    fn queue(&self, on: On<'_>) -> CudaResult<()> {
        let mut steps = self.lowered.program.steps.iter().zip(&self.tensors);
        steps.try_for_each(|(step, tensors)| (step.run)(on, tensors))
    }

    /// The mean time of each step in milliseconds, over `runs` runs one step after the other.
    pub(super) fn profile(&self, on: On<'_>, runs: usize) -> CudaResult<Vec<(&'static str, f64)>> {
        let mut times: Vec<(&'static str, f64)> =
            self.lowered.program.steps.iter().map(|step| (step.name, 0.0)).collect();
        self.queue(on)?;
        for _ in 0..runs.max(1) {
            let mut moments = vec![Moment::now(on.device)?];
            for (step, tensors) in self.lowered.program.steps.iter().zip(&self.tensors) {
                (step.run)(on, tensors)?;
                moments.push(Moment::now(on.device)?);
            }
            on.device.synchronize()?;
            for (time, pair) in times.iter_mut().zip(moments.windows(2)) {
                time.1 += pair[1].since(&pair[0])? / runs.max(1) as f64;
            }
        }
        Ok(times)
    }

    /// What the last run says, but for the mean loss.
    pub(super) fn outputs(&mut self, device: &Device) -> CudaResult<Scores> {
        Ok(self.lowered.inputs.scores(self.readback.read(device, &self.outputs)?, self.key.experts()))
    }

    /// A value of the last run, where it was kept.
    pub(super) fn value(&self, x: Var) -> Option<&Tensor> {
        self.values.get(x.index())?.as_ref()
    }
}

fn row(memory: &Arc<Memory>, words: usize) -> CudaResult<Tensor> {
    Tensor::new(memory, 0, 1, words, words, Dtype::U32)
}

/// Rotary tables one after the other: per position, cosine and sine of each pair.
fn tables(device: &Device, tables: &[(usize, f32)], len: usize) -> CudaResult<Arc<Memory>> {
    let mut all = Vec::new();
    for &(head_size, theta) in tables {
        let table = Table::new(len, head_size, theta)?;
        all.extend(table.cos().iter().zip(table.sin()).flat_map(|(&c, &s)| [c, s]));
    }
    let memory = Memory::new(device, all.len().max(1) * 4)?;
    if !all.is_empty() {
        Tensor::new(&memory, 0, 1, all.len(), all.len(), Dtype::F32)?.write(device, &all)?;
    }
    Ok(memory)
}

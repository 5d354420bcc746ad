//! The backend: parameters as dfdx tensors, passes through [`crate::interpret`], updates on the host in f32.

use backend::{AdamW, Backend, Batch, Error, Op, Params, Part, Result, Scores, State, Tape as Model, Var, excess_load};
use dfdx::prelude::*;

use crate::compose::{Matrix, Vector};
use crate::interpret::{self, Pass};
use crate::{Real, adamw};

/// Runs tapes through dfdx on the CPU in `E`, `f64` or `f32`.
///
/// Parameters and moments of [`Backend::state`] are f32 as on every backend; the passes use copies of the parameters
/// in `E`, which [`DfdxBackend::set_parameter`] can move by less than f32 resolves.
///
/// ```
/// use backend::{Backend, Batch, Init, Params, State, Tape};
/// use reference::DfdxBackend;
///
/// // The loss of a bigram table.
/// let mut tape = Tape::new(1, 3)?;
/// let table = tape.param("table", &[4, 4], Init::Zeros, true)?;
/// let logits = tape.embedding(table)?;
/// tape.cross_entropy(logits);
///
/// let mut dfdx = DfdxBackend::<f64>::new();
/// dfdx.load(State::new(Params::init(tape.specs(), 0)))?;
/// let batch = Batch::new(vec![0, 1, 2], vec![1, 2, 3]);
/// let (loss, gradients) = dfdx.loss_and_gradients(&tape, &batch)?;
/// assert!((loss - 4f64.ln()).abs() < 1e-15);
/// assert_eq!(gradients[0][1], (0.25 - 1.0) / 3.0);
/// # Ok::<(), backend::Error>(())
/// ```
#[derive(Debug)]
pub struct DfdxBackend<E: Real> {
    device: Cpu,
    state: Option<State>,
    params: Vec<Vector<E, Cpu>>,
    gradients: Option<Vec<Vec<E>>>,
    values: Vec<Matrix<E, Cpu>>,
    /// What the pass begun last found.
    scores: Option<Scores>,
    grad_norm: Option<f32>,
}

impl<E: Real> Default for DfdxBackend<E>
where
    Cpu: Device<E>,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Real> DfdxBackend<E>
where
    Cpu: Device<E>,
{
    /// A backend that holds no parameters yet.
    pub fn new() -> Self {
        Self {
            device: Cpu::default(),
            state: None,
            params: Vec::new(),
            gradients: None,
            values: Vec::new(),
            scores: None,
            grad_norm: None,
        }
    }

    /// The mean loss and the auxiliary losses of its experts, in full precision.
    ///
    /// # Errors
    /// As [`Backend::evaluate`]; also if the tape has no loss.
    pub fn loss(&self, tape: &Model, batch: &Batch) -> Result<E> {
        let pass: Pass<'_, E, Cpu, NoneTape> = self.run(tape, batch)?;
        Ok(objective(pass)?.as_vec()[0])
    }

    /// What [`DfdxBackend::loss`] gives and its gradient by each parameter, in full precision.
    ///
    /// # Errors
    /// As [`Backend::gradients`].
    pub fn loss_and_gradients(&self, tape: &Model, batch: &Batch) -> Result<(E, Vec<Vec<E>>)> {
        let mut pass = self.run(tape, batch)?;
        let load = std::mem::take(&mut pass.load);
        let loss = objective(pass)?;
        Ok((loss.as_vec()[0], self.backward(tape, loss, &load)?))
    }

    /// A parameter's values in full precision.
    ///
    /// # Errors
    /// [`Error::Param`] if no parameter has this name, [`Error::Backend`] before the first [`Backend::load`].
    pub fn parameter(&self, name: &str) -> Result<Vec<E>> {
        Ok(self.params[self.index(name)?].as_vec())
    }

    /// Replaces a parameter's values; the state holds them rounded to f32.
    ///
    /// # Errors
    /// As [`DfdxBackend::parameter`]; also if the number of values differs.
    pub fn set_parameter(&mut self, name: &str, values: Vec<E>) -> Result<()> {
        let i = self.index(name)?;
        let state = self.state.as_mut().ok_or_else(not_loaded::<E>)?;
        let rounded = &mut state.params.values[i];
        if values.len() != rounded.len() {
            let what = format!("{} values for {} elements", values.len(), rounded.len());
            return Err(Error::Param { name: name.into(), what, remedy: "give one value per element" });
        }
        *rounded = values.iter().map(|v| v.lower() as f32).collect();
        self.params[i] = tensor(&self.device, values)?;
        Ok(())
    }

    fn index(&self, name: &str) -> Result<usize> {
        let specs = &self.state.as_ref().ok_or_else(not_loaded::<E>)?.params.specs;
        specs.iter().position(|spec| spec.name == name).ok_or_else(|| Error::Param {
            name: name.into(),
            what: format!("not among the {} parameters loaded", specs.len()),
            remedy: "use a name the tape declares",
        })
    }

    fn run<'a, T: Tape<E, Cpu>>(&'a self, tape: &'a Model, batch: &'a Batch) -> Result<Pass<'a, E, Cpu, T>> {
        self.state.as_ref().ok_or_else(not_loaded::<E>)?.params.check(&tape.specs())?;
        interpret::run(tape, batch, &self.params, &self.name())
    }

    /// The gradients, and in the place of a balancing bias's the load of its experts.
    fn backward(
        &self,
        tape: &Model,
        loss: Tensor<(), E, Cpu, OwnedTape<E, Cpu>>,
        load: &[Vec<usize>],
    ) -> Result<Vec<Vec<E>>> {
        let mut gradients = loss.try_backward().map_err(|e| failed::<E>("backward", e))?;
        let read = |p| {
            // A parameter that no op uses has no gradient yet; this makes it one of zeros.
            gradients.try_alloc_for(p).map_err(|e| failed::<E>("backward", e))?;
            Ok(gradients.get(p).as_vec())
        };
        let mut gradients = self.params.iter().map(read).collect::<Result<Vec<_>>>()?;
        let biases = tape.ops().iter().filter_map(|op| if let Op::Moe(moe) = op { Some(moe.bias) } else { None });
        for (bias, load) in biases.zip(load) {
            let Some(bias) = bias else { continue };
            for (sum, excess) in gradients[bias.index()].iter_mut().zip(excess_load(load)) {
                *sum += E::lift(excess.into());
            }
        }
        Ok(gradients)
    }
}

impl<E: Real> Backend for DfdxBackend<E>
where
    Cpu: Device<E>,
{
    fn name(&self) -> String {
        name::<E>()
    }

    fn load(&mut self, state: State) -> Result<()> {
        for params in [&state.params, &state.m, &state.v] {
            params.check(&state.params.specs)?;
        }
        self.params = copies(&self.device, &state.params)?;
        self.state = Some(state);
        self.gradients = None;
        self.scores = None;
        self.values.clear();
        Ok(())
    }

    fn state(&self) -> Result<State> {
        self.state.clone().ok_or_else(not_loaded::<E>)
    }

    fn evaluate(&mut self, tape: &Model, batch: &Batch) -> Result<Scores> {
        let pass: Pass<'_, E, Cpu, NoneTape> = self.run(tape, batch)?;
        let scores = scores(tape, &pass);
        self.values = pass.values;
        Ok(scores)
    }

    fn begin(&mut self, tape: &Model, batch: &Batch, part: Part) -> Result<()> {
        self.scores = None;
        let held = self.gradients.take();
        if part.add && held.is_none() {
            return Err(no_gradients::<E>());
        }
        let pass = self.run(tape, batch)?;
        let scores = scores(tape, &pass);
        let share = E::lift(part.share.into());
        let loss = objective(pass)?.try_mul(share).map_err(|e| failed::<E>("loss", e))?;
        let mut gradients = self.backward(tape, loss, &scores.load)?;
        for (sum, held) in gradients.iter_mut().zip(held.filter(|_| part.add).into_iter().flatten()) {
            sum.iter_mut().zip(held).for_each(|(sum, held)| *sum += held);
        }
        self.gradients = Some(gradients);
        self.scores = Some(scores);
        Ok(())
    }

    fn prepare(&mut self, tape: &Model, batch: &Batch, _: Part) -> Result<()> {
        batch.check(tape)
    }

    fn scores(&mut self) -> Result<Scores> {
        let what = "no pass was begun".to_string();
        let hint = "call begin() first".into();
        self.scores.take().ok_or_else(|| Error::Backend { backend: name::<E>(), what, hint })
    }

    fn read_gradients(&self) -> Result<Params> {
        let specs = self.state()?.params.specs;
        let gradients = self.gradients.as_ref().ok_or_else(no_gradients::<E>)?;
        let values = gradients.iter().map(|g| to_f32(g)).collect();
        Ok(Params { specs, values })
    }

    fn read(&self, x: Var) -> Result<Vec<f32>> {
        let value = self.values.get(x.index()).ok_or_else(|| Error::Backend {
            backend: name::<E>(),
            what: format!("no value {} among the {} of the last evaluation", x.index(), self.values.len()),
            hint: "evaluate a tape that has it first".into(),
        })?;
        Ok(to_f32(&value.as_vec()))
    }

    fn apply(&mut self, rule: &AdamW) -> Result<()> {
        let gradients = self.read_gradients()?;
        let state = self.state.as_mut().ok_or_else(not_loaded::<E>)?;
        self.grad_norm = Some(adamw::update(state, &gradients, rule));
        self.params = copies(&self.device, &state.params)?;
        Ok(())
    }

    fn grad_norm(&mut self) -> Result<f32> {
        let (what, hint) = ("no rule was applied".to_string(), "call apply() first".into());
        self.grad_norm.take().ok_or_else(|| Error::Backend { backend: name::<E>(), what, hint })
    }
}

/// What the mixtures of experts say and the loss op, where the tape ends in one.
fn scores<E: Real, T>(tape: &Model, pass: &Pass<'_, E, Cpu, T>) -> Scores
where
    Cpu: Device<E>,
{
    let aux = pass.aux.iter().map(|aux| aux.as_vec()[0].lower()).sum::<f64>() as f32;
    let experts = Scores { aux, load: pass.load.clone(), ..Scores::default() };
    let (Some(loss), Some(logits), Some(nll)) = (&pass.loss, tape.logits(), pass.values.last()) else {
        return experts;
    };
    let likeliest = |row: &[E]| {
        let best = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
        (0..row.len()).fold(0, best) as u32
    };
    Scores {
        loss: loss.as_vec()[0].lower() as f32,
        nll: to_f32(&nll.as_vec()),
        predictions: pass.values[logits.index()].as_vec().chunks(tape.cols(logits)).map(likeliest).collect(),
        ..experts
    }
}

/// What gradients are taken of: the mean loss and the auxiliary losses.
fn objective<E: Real, T: Tape<E, Cpu>>(pass: Pass<'_, E, Cpu, T>) -> Result<Tensor<(), E, Cpu, T>>
where
    Cpu: Device<E>,
{
    let loss = pass.loss.ok_or_else(no_loss::<E>)?.put_tape(pass.tape);
    pass.aux.into_iter().try_fold(loss, |sum, aux| sum.try_add(aux)).map_err(|e| failed::<E>("loss", e))
}

fn copies<E: Real>(device: &Cpu, params: &Params) -> Result<Vec<Vector<E, Cpu>>> {
    params.values.iter().map(|v| tensor(device, v.iter().map(|&x| E::lift(x.into())).collect())).collect()
}

fn tensor<E: Real>(device: &Cpu, values: Vec<E>) -> Result<Vector<E, Cpu>> {
    let shape = (values.len(),);
    device.try_tensor_from_vec(values, shape).map_err(|e| failed::<E>("load", e))
}

fn to_f32<E: Real>(values: &[E]) -> Vec<f32> {
    values.iter().map(|v| v.lower() as f32).collect()
}

fn name<E: Real>() -> String {
    format!("dfdx-{}", E::NAME)
}

fn failed<E: Real>(op: &str, e: CpuError) -> Error {
    Error::Backend { backend: name::<E>(), what: format!("{op}: {e}"), hint: "use a smaller batch or model".into() }
}

fn not_loaded<E: Real>() -> Error {
    let what = "no parameters loaded".into();
    Error::Backend { backend: name::<E>(), what, hint: "load a state first".into() }
}

fn no_gradients<E: Real>() -> Error {
    let what = "no gradients computed since the last load".into();
    Error::Backend { backend: name::<E>(), what, hint: "run gradients first".into() }
}

fn no_loss<E: Real>() -> Error {
    let what = "the tape has no loss to differentiate".into();
    Error::Backend { backend: name::<E>(), what, hint: "record cross_entropy as the last op".into() }
}

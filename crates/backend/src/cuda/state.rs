//! Parameters, moments and gradients on the device: each a flat array in the order of a [`Layout`].

use std::sync::Arc;

use kernels::cuda::dense::{self, Parameters, Rule};
use kernels::cuda::{CudaResult, Device, Dtype, Memory, Readback, Tensor};

use super::layout::Layout;
use crate::optim::{AdamW, State};
use crate::params::{ParamSpec, Params};

/// Partial sums of the gradients' norm.
const PARTS: usize = 1056;

/// What training changes, and what an update needs.
#[derive(Debug)]
pub(super) struct DeviceState {
    pub(super) layout: Layout,
    pub(super) specs: Arc<[ParamSpec]>,
    pub(super) values: Tensor,
    pub(super) copy: Option<Tensor>,
    pub(super) gradients: Tensor,
    pub(super) tap_gradients: Tensor,
    m: Tensor,
    v: Tensor,
    rule: Tensor,
    norm: Tensor,
    norm_read: Readback<f32>,
    parts: Tensor,
    step: u64,
}

impl DeviceState {
    /// Copies a state to the device.
    pub(super) fn new(device: &Device, layout: Layout, state: &State, dtype: Dtype) -> CudaResult<Self> {
        let flat = |len: usize, dtype: Dtype| {
            let memory = Memory::new(device, len.max(1) * dtype.bytes())?;
            Tensor::new(&memory, 0, 1, len, len, dtype)
        };
        let n = layout.len;
        let upload = |params: &Params| {
            let tensor = flat(n, Dtype::F32)?;
            tensor.write(device, &layout.pack(params))?;
            Ok::<_, kernels::cuda::CudaError>(tensor)
        };
        let values = upload(&state.params)?;
        let copy = if dtype == Dtype::F32 { None } else { Some(flat(n, dtype)?) };
        if let Some(copy) = &copy {
            dense::cast(device, &values, copy)?;
        }
        Ok(Self {
            m: upload(&state.m)?,
            v: upload(&state.v)?,
            gradients: flat(layout.taps + n - layout.trained, Dtype::F32)?,
            tap_gradients: flat(layout.trained - layout.taps, dtype)?,
            rule: flat(8, Dtype::F32)?,
            norm: flat(2, Dtype::F32)?,
            norm_read: Readback::new(device, 2)?,
            parts: flat(PARTS, Dtype::F64)?,
            specs: state.params.specs.clone(),
            step: state.step,
            values,
            copy,
            layout,
        })
    }

    /// A copy on the host.
    pub(super) fn state(&self, device: &Device) -> CudaResult<State> {
        let read =
            |t: &Tensor| Ok::<_, kernels::cuda::CudaError>(self.layout.unpack(self.specs.clone(), &t.read(device)?));
        Ok(State { params: read(&self.values)?, m: read(&self.m)?, v: read(&self.v)?, step: self.step })
    }

    /// The gradients on the host.
    pub(super) fn gradients(&self, device: &Device) -> CudaResult<Params> {
        let mut flat = self.gradients.read_f32(device)?;
        let balances = flat.split_off(self.layout.taps);
        flat.extend(self.tap_gradients.read_f32(device)?);
        flat.extend(balances);
        Ok(self.layout.unpack(self.specs.clone(), &flat))
    }

    /// Clips and updates.
    pub(super) fn apply(&mut self, device: &Device, rule: &AdamW) -> CudaResult<()> {
        self.step += 1;
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        let step_size = (f64::from(rule.lr) / correction(rule.beta1)) as f32;
        let root = (1.0 / correction(rule.beta2).sqrt()) as f32;
        let words = [rule.lr, rule.beta1, rule.beta2, rule.eps, rule.weight_decay, rule.clip, step_size, root];
        self.rule.write(device, &words)?;
        let trained = |t: &Tensor| t.columns(0, self.layout.trained);
        let copy = self.copy.as_ref().map(trained).transpose()?;
        let parameters = Parameters {
            values: &trained(&self.values)?,
            m: &trained(&self.m)?,
            v: &trained(&self.v)?,
            copy: copy.as_ref(),
            gradients: &self.gradients,
            tap_gradients: &self.tap_gradients,
            taps: self.layout.taps,
            decayed: self.layout.decayed,
            taps_decayed: self.layout.taps_decayed,
        };
        dense::update(device, parameters, Rule { rule: &self.rule, norm: &self.norm, parts: &self.parts })?;
        self.rebalance(device)
    }

    /// Moves the biases of loss-free balancing.
    fn rebalance(&self, device: &Device) -> CudaResult<()> {
        for (spec, &at) in self.specs.iter().zip(&self.layout.at) {
            let Some(gamma) = spec.balance else { continue };
            let excess = self.gradients.columns(self.layout.taps + at - self.layout.trained, spec.numel())?;
            dense::rebalance(device, gamma, &excess, &self.values.columns(at, spec.numel())?, &self.norm)?;
        }
        Ok(())
    }

    /// Waits for the global norm before clipping.
    pub(super) fn grad_norm(&mut self, device: &Device) -> CudaResult<f32> {
        Ok(self.norm_read.read(device, &self.norm)?[0])
    }
}

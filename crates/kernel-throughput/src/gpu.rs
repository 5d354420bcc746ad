//! A case on the GPU: operands as a model lays them out (streams side by side in the rows of one buffer, foreign columns
//! before and after), results into memory poisoned with NaN.

use kernels::cuda::short_conv::{
    Element, Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape, backward,
    forward, step,
};
use kernels::cuda::{CudaResult, CudaSlice, Device};

use crate::case::{Case, Dtype, Op};
use crate::values::{Operands, Results};

/// Every result of a case.
///
/// # Errors
/// Those of the GPU runtime; a write outside of the results' own columns.
pub fn run(device: &Device, case: &Case, operands: &Operands) -> CudaResult<Results<f32>> {
    match case.dtype {
        Dtype::F32 => results_of::<f32>(device, case, operands),
        Dtype::Bf16 => results_of::<half::bf16>(device, case, operands),
        Dtype::F16 => results_of::<half::f16>(device, case, operands),
    }
}

fn results_of<T: Element>(device: &Device, case: &Case, operands: &Operands) -> CudaResult<Results<f32>> {
    let (given, mut made) = (Given::<T>::new(device, case, operands)?, Made::new(device, case)?);
    given.forward(device, &mut made)?;
    given.backward(device, &mut made)?;
    made.results(device, case)
}

/// y of each of `case.len` tokens decoded one at a time from the initial state, and the state after them. One stream, equal
/// lengths, no gap.
///
/// # Errors
/// Those of the GPU runtime.
pub fn decode(device: &Device, case: &Case, operands: &Operands) -> CudaResult<(Vec<f32>, Vec<f32>)> {
    match case.dtype {
        Dtype::F32 => decode_of::<f32>(device, case, operands),
        Dtype::Bf16 => decode_of::<half::bf16>(device, case, operands),
        Dtype::F16 => decode_of::<half::f16>(device, case, operands),
    }
}

fn decode_of<T: Element>(device: &Device, case: &Case, operands: &Operands) -> CudaResult<(Vec<f32>, Vec<f32>)> {
    let (given, mut made) = (Given::<T>::new(device, case, operands)?, Made::new(device, case)?);
    let mut state = device.upload(&narrow::<T>(&operands.state))?;
    for t in 0..case.len {
        given.step(device, t, &mut state, &mut made)?;
    }
    Ok((floats(&device.download(&made.y)?), floats(&device.download(&state)?)))
}

/// A case's operands on the device.
pub(crate) struct Given<'c, T> {
    case: &'c Case,
    shape: Shape,
    options: Options,
    x: CudaSlice<T>,
    taps: CudaSlice<T>,
    u: CudaSlice<T>,
    static_w: CudaSlice<T>,
    state: CudaSlice<T>,
    cu_seqlens: Option<CudaSlice<i32>>,
    dy: CudaSlice<T>,
    dfinal: CudaSlice<T>,
}

/// Room for a case's results on the device, poisoned.
pub(crate) struct Made<T> {
    y: CudaSlice<T>,
    final_state: CudaSlice<T>,
    dx: CudaSlice<T>,
    dtaps: CudaSlice<T>,
    du: CudaSlice<T>,
    dstatic_w: CudaSlice<T>,
    dstate: CudaSlice<T>,
}

impl<'c, T: Element> Given<'c, T> {
    /// Copies the operands to the device.
    pub(crate) fn new(device: &Device, case: &'c Case, from: &Operands) -> CudaResult<Self> {
        let flat = |v: &[f32]| device.upload(&narrow::<T>(v));
        let rows = |v: &[f32], cols: usize| device.upload(&spread::<T>(v, case, cols));
        let cu = case.cu_seqlens.as_ref().map(|cu| cu.iter().map(|&at| at as i32).collect::<Vec<_>>());
        Ok(Self {
            case,
            shape: Shape { streams: case.streams, batch: case.batch, len: case.len, d: case.d, width: case.width },
            options: Options { residual: case.residual, silu: case.silu },
            x: rows(&from.x, case.d)?,
            taps: rows(&from.taps, case.columns())?,
            u: flat(&from.u)?,
            static_w: flat(&from.static_w)?,
            state: flat(&from.state)?,
            cu_seqlens: cu.map(|cu| device.upload(&cu)).transpose()?,
            dy: rows(&from.dy, case.d)?,
            dfinal: flat(&from.dfinal)?,
        })
    }

    fn rows<'a>(&self, data: &'a CudaSlice<T>, cols: usize) -> Rows<'a, T> {
        Rows { data: data.slice(self.case.gap..), stride: stride(self.case, cols), stream: cols }
    }

    fn rows_mut<'a>(&self, data: &'a mut CudaSlice<T>, cols: usize) -> RowsMut<'a, T> {
        RowsMut { data: data.slice_mut(self.case.gap..), stride: stride(self.case, cols), stream: cols }
    }

    /// The filter, its own rows starting at token `t`.
    fn filter(&self, t: usize) -> Filter<'_, T> {
        let case = self.case;
        let static_w = || self.static_w.as_view();
        let added = case.static_w.then(static_w);
        let mut taps = self.rows(&self.taps, case.columns());
        if t > 0 && case.columns() > 0 {
            taps.data = self.taps.slice(case.gap + t * taps.stride..);
        }
        match case.op {
            Op::Static => Filter::Static { w: static_w() },
            Op::HeadWise { head_size } => Filter::HeadWise { weight: taps, head_size, static_w: added },
            Op::LowRank { rank } => Filter::LowRank { z: taps, u: self.u.as_view(), rank, static_w: added },
        }
    }

    fn input(&self) -> Input<'_, T> {
        Input {
            x: self.rows(&self.x, self.case.d),
            filter: self.filter(0),
            cu_seqlens: self.cu_seqlens.as_ref().map(|v| v.as_view()),
            initial_state: self.case.state.then(|| self.state.as_view()),
        }
    }

    /// Queues the forward.
    pub(crate) fn forward(&self, device: &Device, to: &mut Made<T>) -> CudaResult<()> {
        let final_state = self.case.state.then(|| to.final_state.as_view_mut());
        let y = self.rows_mut(&mut to.y, self.case.d);
        forward(device, self.shape, self.options, &self.input(), Output { y, final_state })
    }

    /// Queues the backward.
    pub(crate) fn backward(&self, device: &Device, to: &mut Made<T>) -> CudaResult<()> {
        let case = self.case;
        let dstatic_w = case.static_w || case.op == Op::Static;
        let mut dstatic_w = dstatic_w.then(|| to.dstatic_w.as_view_mut());
        let taps = self.rows_mut(&mut to.dtaps, case.columns());
        let filter = match case.op {
            Op::Static => match dstatic_w.take() {
                Some(dw) => FilterGrad::Static { dw },
                None => FilterGrad::Static { dw: to.du.as_view_mut() },
            },
            Op::HeadWise { .. } => FilterGrad::HeadWise { dweight: taps, dstatic_w },
            Op::LowRank { .. } => FilterGrad::LowRank { dz: taps, du: to.du.as_view_mut(), dstatic_w },
        };
        let dfinal_state = case.state.then(|| self.dfinal.as_view());
        let dinitial_state = case.state.then(|| to.dstate.as_view_mut());
        let grad = InputGrad { dx: self.rows_mut(&mut to.dx, case.d), filter, dinitial_state };
        let output = OutputGrad { dy: self.rows(&self.dy, case.d), dfinal_state };
        backward(device, self.shape, self.options, &self.input(), output, grad)
    }

    /// Queues token `t` of every sequence as a decode step, which moves `state` on. One stream, no gap.
    pub(crate) fn step(&self, device: &Device, t: usize, state: &mut CudaSlice<T>, to: &mut Made<T>) -> CudaResult<()> {
        let (d, len) = (self.case.d, self.case.len);
        let shape = Shape { len: 1, ..self.shape };
        let mut filter = self.filter(t);
        if let Filter::HeadWise { weight: rows, .. } | Filter::LowRank { z: rows, .. } = &mut filter {
            rows.stride *= len;
        }
        let x = Rows { data: self.x.slice(t * d..), stride: len * d, stream: d };
        let y = RowsMut { data: to.y.slice_mut(t * d..), stride: len * d, stream: d };
        step(device, shape, self.options, x, filter, &mut state.as_view_mut(), y)
    }
}

impl<T: Element> Made<T> {
    /// Room for the results.
    pub(crate) fn new(device: &Device, case: &Case) -> CudaResult<Self> {
        let poison = |len: usize| device.upload(&vec![T::from_f32(f32::NAN); len.max(1)]);
        let rows = |cols: usize| poison(case.rows() * stride(case, cols) + 2 * case.gap);
        let (d, w, s) = (case.d, case.width, case.streams);
        Ok(Self {
            y: rows(d)?,
            final_state: poison(s * case.state_len())?,
            dx: rows(d)?,
            dtaps: rows(case.columns())?,
            du: poison(s * case.rank() * w * d)?,
            dstatic_w: poison(s * w * d)?,
            dstate: poison(s * case.state_len())?,
        })
    }

    /// Waits and copies the results to the host.
    fn results(&self, device: &Device, case: &Case) -> CudaResult<Results<f32>> {
        let (d, w, s) = (case.d, case.width, case.streams);
        let flat = |v: &CudaSlice<T>, len: usize| -> CudaResult<Vec<f32>> {
            let values = floats(&device.download(v)?);
            Ok(values[..len].to_vec())
        };
        Ok(Results {
            y: gather(&device.download(&self.y)?, case, d),
            final_state: flat(&self.final_state, s * case.state_len())?,
            dx: gather(&device.download(&self.dx)?, case, d),
            dtaps: gather(&device.download(&self.dtaps)?, case, case.columns()),
            du: flat(&self.du, s * case.rank() * w * d)?,
            dstatic_w: flat(&self.dstatic_w, if case.has_static() { s * w * d } else { 0 })?,
            dstate: flat(&self.dstate, s * case.state_len())?,
        })
    }
}

/// Elements from one row to the next of a buffer with `cols` columns per stream.
fn stride(case: &Case, cols: usize) -> usize {
    case.streams * cols + 2 * case.gap
}

fn narrow<T: Element>(values: &[f32]) -> Vec<T> {
    if values.is_empty() { vec![T::default()] } else { values.iter().map(|&v| T::from_f32(v)).collect() }
}

fn floats<T: Element>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// `[streams, N, cols]` as the rows of one buffer, NaN in the gaps.
fn spread<T: Element>(values: &[f32], case: &Case, cols: usize) -> Vec<T> {
    let (n, stride) = (case.rows(), stride(case, cols));
    let mut buffer = vec![T::from_f32(f32::NAN); (n * stride + 2 * case.gap).max(1)];
    for (s, stream) in values.chunks_exact((n * cols).max(1)).enumerate() {
        for (row, from) in stream.chunks_exact(cols).enumerate() {
            let at = case.gap + row * stride + s * cols;
            buffer[at..at + cols].iter_mut().zip(from).for_each(|(to, &v)| *to = T::from_f32(v));
        }
    }
    buffer
}

/// The inverse of [`spread`]. A number in a gap, where no result belongs, poisons the first value.
fn gather<T: Element>(buffer: &[T], case: &Case, cols: usize) -> Vec<f32> {
    let (n, stride) = (case.rows(), stride(case, cols));
    let mut values = vec![0.0; case.streams * n * cols];
    if cols == 0 {
        return values;
    }
    for (s, stream) in values.chunks_exact_mut(n * cols).enumerate() {
        for (row, to) in stream.chunks_exact_mut(cols).enumerate() {
            let at = case.gap + row * stride + s * cols;
            to.iter_mut().zip(&buffer[at..at + cols]).for_each(|(to, v)| *to = v.to_f32());
        }
    }
    let own = case.gap..case.gap + case.streams * cols;
    let foreign = buffer.iter().enumerate().filter(|(i, _)| !own.contains(&(i % stride)));
    if foreign.into_iter().any(|(_, v)| !v.to_f32().is_nan()) {
        values[0] = f32::NAN;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spread_and_gathered_and_a_foreign_write_shows() {
        let case = Case {
            op: Op::Static,
            static_w: false,
            residual: false,
            silu: false,
            batch: 1,
            len: 2,
            d: 3,
            width: 2,
            cu_seqlens: None,
            state: false,
            streams: 2,
            gap: 1,
            dtype: Dtype::F32,
        };
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let mut buffer = spread::<f32>(&values, &case, 3);
        assert_eq!(buffer[1..7], [0.0, 1.0, 2.0, 6.0, 7.0, 8.0]);
        assert_eq!(gather(&buffer, &case, 3), values);
        buffer[8] = 1.0;
        assert!(gather(&buffer, &case, 3)[0].is_nan());
    }
}

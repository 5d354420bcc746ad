//! Linear recurrences, token by token: `S <- decay S + k v'^T; y = q^T S`, of H heads side by side.

use dfdx::prelude::*;

use super::pointwise::{add_rows, scale_columns};
use super::{Matrix, Vector};
use crate::{Layout, Real};

/// `[N, H, columns of a head]`, or a state of each head.
type Heads<E, D, T = NoneTape> = Tensor<(usize, usize, usize), E, D, T>;

/// Gated DeltaNet's recurrence: q and k `[N, H K]`, v `[N, H V]`, a and b `[N, H]`, a_log and dt_bias `[H]`.
///
/// # Errors
/// If the device fails.
pub fn gated_delta_rule<E: Real, D: Device<E>, T: Tape<E, D>>(
    [q, k]: [Matrix<E, D, T>; 2],
    v: Matrix<E, D, T>,
    [a, b]: [Matrix<E, D, T>; 2],
    [a_log, dt_bias]: [Vector<E, D, T>; 2],
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    let (n, heads) = *a.shape();
    let (key_size, value_size) = (k.shape().1 / heads, v.shape().1 / heads);
    let unit = |x: Matrix<E, D, T>| -> Result<Heads<E, D, T>, D::Err> {
        let rows = (n * heads, key_size);
        let x = x.try_reshape_like(&rows)?;
        let square: Vector<E, D, T> = x.retaped::<T>().try_square()?.try_sum::<_, Axis<1>>()?;
        let norm = square.try_add(E::lift(1e-6))?.try_sqrt()?.try_broadcast_like::<_, Axis<1>>(&rows)?;
        x.try_div(norm)?.try_reshape_like(&(n, heads, key_size))
    };
    let [dt, decay] = gates(a, a_log, dt_bias)?;
    let (decay, tape) = decay.split_tape();
    let decay = decay.put_tape(tape.merge(dt.split_tape().1));
    let q = unit(q)?.try_mul(E::lift(1.0 / (key_size as f64).sqrt()))?;
    let v = v.try_reshape_like(&(n, heads, value_size))?;
    recurrence(q, unit(k)?, v, decay, Some(b.try_sigmoid()?), layout)
}

/// Mamba-2's recurrence: x `[N, H P]`, b and c `[N, groups S]`, dt `[N, H]`; a_log, dt_bias and d `[H]`.
///
/// # Errors
/// If the device fails.
pub fn ssd<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    [b, c]: [Matrix<E, D, T>; 2],
    dt: Matrix<E, D, T>,
    [a_log, dt_bias, d]: [Vector<E, D, T>; 3],
    groups: usize,
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    let (shape, (n, heads)) = (*x.shape(), *dt.shape());
    let by_head = (n, heads, shape.1 / heads);
    // Each group's rows are repeated for its heads.
    let spread = |x: Matrix<E, D, T>| -> Result<Heads<E, D, T>, D::Err> {
        let states = x.shape().1 / groups;
        let x = x.try_reshape_like(&(n, groups, states))?;
        let x = x.try_broadcast_like::<_, Axis<2>>(&(n, groups, heads / groups, states))?;
        x.try_reshape_like(&(n, heads, states))
    };
    let [dt, decay] = gates(dt, a_log, dt_bias)?;
    let x = x.try_reshape_like(&by_head)?;
    let scaled = x.retaped::<T>().try_mul(dt.try_broadcast_like::<_, Axis<2>>(&by_head)?)?;
    let past = x.try_mul(d.try_broadcast_like::<_, Axes2<0, 2>>(&by_head)?)?.try_reshape_like(&shape)?;
    recurrence(spread(c)?, spread(b)?, scaled, decay, None, layout)?.try_add(past)
}

/// `dt = softplus(x + dt_bias)`, which keeps its tape, and `exp(-exp(a_log) dt)` with the tape of what comes after.
fn gates<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    a_log: Vector<E, D, T>,
    dt_bias: Vector<E, D, T>,
) -> Result<[Matrix<E, D, T>; 2], D::Err> {
    let dt = add_rows(x, dt_bias)?.try_exp()?.try_add(E::ONE)?.try_ln()?;
    let decay = scale_columns(dt.retaped::<T>(), a_log.try_exp()?)?.try_negate()?.try_exp()?;
    Ok([dt, decay])
}

/// With beta, v' is `beta (v - k^T decay S)`, else v.
fn recurrence<E: Real, D: Device<E>, T: Tape<E, D>>(
    q: Heads<E, D, T>,
    k: Heads<E, D, T>,
    v: Heads<E, D, T>,
    decay: Matrix<E, D, T>,
    beta: Option<Matrix<E, D, T>>,
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    let (_, heads, key_size) = *k.shape();
    let (n, _, value_size) = *v.shape();
    let device = v.device().clone();
    let zeros: Heads<E, D> = device.try_zeros_like(&(heads, key_size, value_size))?;
    // Inputs are picked from without their tapes, which join the result's.
    let ((q, q_tape), (k, k_tape), (v, v_tape), (decay, mut tape)) =
        (q.split_tape(), k.split_tape(), v.split_tape(), decay.split_tape());
    for other in [q_tape, k_tape, v_tape] {
        tape = tape.merge(other);
    }
    let beta = beta.map(|beta| {
        let (beta, beta_tape) = beta.split_tape();
        tape = std::mem::take(&mut tape).merge(beta_tape);
        beta
    });
    let mut state = zeros.retaped::<T>();
    let mut rows: Vec<Vector<E, D, T>> = Vec::with_capacity(n);
    for (token, position) in layout.positions().into_iter().enumerate() {
        let index: Tensor<(), usize, D> = device.try_tensor_from_vec(vec![token], ())?;
        let pick = |x: &Heads<E, D>| -> Result<Matrix<E, D, T>, D::Err> { x.retaped::<T>().try_select(index.clone()) };
        let pick_gate =
            |x: &Matrix<E, D>| -> Result<Vector<E, D, T>, D::Err> { x.retaped::<T>().try_select(index.clone()) };
        if position == 0 {
            tape = tape.merge(std::mem::replace(&mut state, zeros.retaped::<T>()).split_tape().1);
        }
        let decay = pick_gate(&decay)?.try_broadcast_like::<_, Axes2<1, 2>>(&(heads, key_size, value_size))?;
        state = state.try_mul(decay)?;
        let mut written = pick(&v)?.try_reshape_like(&(heads, 1, value_size))?;
        if let Some(beta) = &beta {
            let known = pick(&k)?.try_reshape_like(&(heads, 1, key_size))?.try_matmul(state.retaped::<T>())?;
            let beta = pick_gate(beta)?.try_broadcast_like::<_, Axes2<1, 2>>(&(heads, 1, value_size))?;
            written = written.try_sub(known)?.try_mul(beta)?;
        }
        state = state.try_add(pick(&k)?.try_reshape_like(&(heads, key_size, 1))?.try_matmul(written)?)?;
        let row = pick(&q)?.try_reshape_like(&(heads, 1, key_size))?.try_matmul(state.retaped::<T>())?;
        rows.push(row.try_reshape_like(&(heads * value_size,))?);
    }
    let (y, y_tape) = rows.try_stack()?.split_tape();
    Ok(y.put_tape(tape.merge(state.split_tape().1).merge(y_tape)))
}

use super::*;
use crate::testing::recurrence::{Case, Recurrence};
use crate::testing::*;

fn case(seqs: Sequences, heads: usize, groups: usize, head_size: usize, state_size: usize) -> Case<Shape> {
    let s = Shape { seqs, heads, head_size, groups, state_size };
    let (x, bc) = (seqs.rows() * heads * head_size, seqs.rows() * groups * state_size);
    Case::new(s, [x, bc, bc, seqs.rows() * heads, heads, heads, heads, s.state_len()], x)
}

fn input(inputs: &[Vec<f32>; 8]) -> Input<'_> {
    let [x, b, c, dt, a_log, dt_bias, d, initial_state] = inputs;
    Input { x, b, c, dt, a_log, dt_bias, d, initial_state: Some(initial_state) }
}

impl Recurrence for Shape<'_> {
    const NAMES: [&'static str; 8] = ["x", "b", "c", "dt", "a_log", "dt_bias", "d", "initial_state"];
    const BY_ROW: usize = 4;

    fn seqs(&self) -> Sequences<'_> {
        self.seqs
    }

    fn saved_len(&self) -> usize {
        self.saved_len()
    }

    fn of_equal(&self, batch: usize, len: usize) -> Self {
        Self { seqs: Sequences::Equal { batch, len }, ..*self }
    }

    fn forward(&self, inputs: &[Vec<f32>; 8], [y, last, saved]: &mut [Vec<f32>; 3]) {
        forward(self, &input(inputs), y, Some(last), saved).unwrap();
    }

    fn backward(&self, c: &Case<Self>, saved: &[f32], grads: &mut [Vec<f32>; 8]) {
        let [dx, db, dc, ddt, da_log, ddt_bias, dd, initial] = grads;
        let grad = Grads { dx, db, dc, ddt, da_log, ddt_bias, dd, dinitial_state: Some(initial) };
        backward(self, &input(&c.inputs), saved, &c.dy, Some(&c.dfinal), grad).unwrap();
    }

    fn step(&self, inputs: &[Vec<f32>; 8], state: &mut [f32], y: &mut [f32]) {
        step(self, &Input { initial_state: None, ..input(inputs) }, state, y).unwrap();
    }

    fn reference(&self, x: &[Vec<f64>; 8]) -> [Vec<f64>; 2] {
        let (y, _, last) = reference(self, x);
        [y, last]
    }

    fn reference_backward(&self, c: &Case<Self>) -> [Vec<f64>; 8] {
        reference_backward(c)
    }
}

/// The step size and the decay of a token's head.
fn gates(s: &Shape, x: &[Vec<f64>; 8], row: usize, head: usize) -> (f64, f64) {
    let dt = wide_softplus(x[3][row * s.heads + head] + x[5][head]);
    (dt, (-x[4][head].exp() * dt).exp())
}

/// Where b and c of a token's head begin.
fn shared(s: &Shape, row: usize, head: usize) -> usize {
    (row * s.groups + head / (s.heads / s.groups)) * s.state_size
}

/// y, the states before each token of each head, and the final states.
fn reference(s: &Shape, x: &[Vec<f64>; 8]) -> (Vec<f64>, Vec<Vec<Vec<f64>>>, Vec<f64>) {
    let (size, states) = (s.head_size, s.state_size);
    let (mut y, mut seen, mut last) = (vec![0.0; x[0].len()], Vec::new(), Vec::new());
    for task in 0..s.seqs.count() * s.heads {
        let head = task % s.heads;
        let mut state = x[7][task * size * states..][..size * states].to_vec();
        let mut of_head = Vec::new();
        for row in s.seqs.span(task / s.heads) {
            of_head.push(state.clone());
            let (dt, decay) = gates(s, x, row, head);
            let (at, bc) = ((row * s.heads + head) * size, shared(s, row, head));
            for j in 0..size {
                y[at + j] = x[6][head] * x[0][at + j];
                for n in 0..states {
                    let state = &mut state[n * size + j];
                    *state = decay * *state + dt * x[1][bc + n] * x[0][at + j];
                    y[at + j] += x[2][bc + n] * *state;
                }
            }
        }
        seen.push(of_head);
        last.extend(state);
    }
    (y, seen, last)
}

/// The recurrence in reverse, in the order of the names.
fn reference_backward(c: &Case<Shape>) -> [Vec<f64>; 8] {
    let (s, x) = (&c.s, c.wide());
    let (size, states) = (s.head_size, s.state_size);
    let (_, seen, _) = reference(s, &x);
    let mut grads = x.each_ref().map(|v| vec![0.0; v.len()]);
    for task in 0..s.seqs.count() * s.heads {
        let head = task % s.heads;
        let mut ds = wide(&c.dfinal[task * size * states..][..size * states]);
        for (row, before) in s.seqs.span(task / s.heads).zip(&seen[task]).rev() {
            let (dt, decay) = gates(s, &x, row, head);
            let (at, bc) = ((row * s.heads + head) * size, shared(s, row, head));
            let (mut ddt, mut dlog) = (0.0, 0.0);
            for j in 0..size {
                let (dy, value) = (f64::from(c.dy[at + j]), x[0][at + j]);
                grads[0][at + j] += x[6][head] * dy;
                grads[6][head] += value * dy;
                for n in 0..states {
                    let (b, before) = (x[1][bc + n], before[n * size + j]);
                    grads[2][bc + n] += dy * (decay * before + dt * b * value);
                    let ds = &mut ds[n * size + j];
                    *ds += dy * x[2][bc + n];
                    grads[0][at + j] += *ds * dt * b;
                    grads[1][bc + n] += *ds * dt * value;
                    ddt += *ds * b * value;
                    dlog += *ds * decay * before;
                    *ds *= decay;
                }
            }
            let a = -x[4][head].exp();
            grads[4][head] += dlog * a * dt;
            let at = row * s.heads + head;
            let draw = (ddt + dlog * a) / (1.0 + (-x[3][at] - x[5][head]).exp());
            grads[3][at] = draw;
            grads[5][head] += draw;
        }
        grads[7][task * size * states..][..size * states].copy_from_slice(&ds);
    }
    grads
}

#[test]
fn the_oracle_is_the_gradient() {
    case(Sequences::Packed { cu_seqlens: &[0, 2, 7] }, 4, 2, 2, 3).the_reversed_recurrence_is_the_gradient();
}

#[test]
fn chunks_are_the_recurrence() {
    for len in [1, 2, 16, 17, 63, 64, 65, 130] {
        case(Sequences::Equal { batch: 2, len }, 4, 2, 3, 5).check();
    }
    case(Sequences::Equal { batch: 1, len: 1000 }, 2, 1, 2, 3).check();
    case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 66, 130, 193] }, 2, 1, 5, 3).check();
    // Three tiles in a group, the last one smaller.
    let wide = case(Sequences::Equal { batch: 1, len: 70 }, 10, 2, 200, 20);
    assert_eq!((wide.s.tile_heads(), wide.s.tiles()), (2, 3));
    wide.check();
}

#[test]
fn however_the_tokens_are_cut() {
    case(Sequences::Packed { cu_seqlens: &[0, 70, 75] }, 4, 2, 3, 5).packed_sequences_are_separate_ones();
    case(Sequences::Equal { batch: 2, len: 70 }, 4, 2, 3, 5).steps_are_the_chunks(70);
    case(Sequences::Equal { batch: 1, len: 70 }, 4, 2, 3, 5).a_sequence_goes_on_from_its_state(30);
}

#[test]
fn extreme_gates_stay_finite() {
    for (dt, a_log) in [(1e4, 3.0), (1e30, 50.0), (-1e4, 0.0), (1e30, 3e38)] {
        let mut c = case(Sequences::Equal { batch: 1, len: 70 }, 2, 1, 4, 6);
        c.inputs[3].iter_mut().step_by(3).for_each(|x| *x = dt);
        c.inputs[4].fill(a_log);
        c.stays_finite(&format!("{dt:e}"));
    }
}

#[test]
fn strong_decay_in_one_token_keeps_the_others_exact() {
    let mut c = case(Sequences::Equal { batch: 1, len: 64 }, 1, 1, 4, 6);
    c.inputs[3][2] = 3000.0;
    // Its own step would drown the others' in every norm.
    c.inputs[0][2 * 4..3 * 4].fill(1e-4);
    c.check();
}

#[test]
fn same_bits_at_any_thread_count() {
    case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 200] }, 6, 2, 200, 24).same_bits_at_any_thread_count();
}

#[test]
fn wrong_arguments_are_named() {
    let c = case(Sequences::Equal { batch: 1, len: 3 }, 4, 2, 3, 5);
    let mut out = [c.dy.len(), c.s.saved_len()].map(poisoned);
    let [y, saved] = &mut out;
    let short = Input { b: &c.inputs[1][1..], ..input(&c.inputs) };
    let message = forward(&c.s, &short, y, None, saved).unwrap_err().to_string();
    assert_eq!(message, "ssd: b has 29 elements, expected 30 for shape [rows=3, groups=2, state_size=5]");
    let message = forward(&Shape { groups: 3, ..c.s }, &input(&c.inputs), y, None, saved).unwrap_err().to_string();
    assert!(message.contains("groups = 3 does not divide heads = 4"), "{message}");
    let message = forward(&c.s, &input(&c.inputs), y, None, &mut saved[1..]).unwrap_err().to_string();
    assert!(message.contains("saved has 59 elements"), "{message}");
    let mut state = poisoned(59);
    let message = step(&c.s, &input(&c.inputs), &mut state, y).unwrap_err().to_string();
    assert!(message.starts_with("ssd step: "), "{message}");
}

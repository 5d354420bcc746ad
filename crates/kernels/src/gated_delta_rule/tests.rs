use super::*;
use crate::testing::recurrence::{Case, Recurrence};
use crate::testing::*;

fn case(seqs: Sequences, heads: usize, key_size: usize, value_size: usize) -> Case<Shape> {
    let s = Shape { seqs, heads, key_size, value_size };
    let (n, k, v) = (seqs.rows() * heads, seqs.rows() * heads * key_size, seqs.rows() * heads * value_size);
    Case::new(s, [k, k, v, n, n, heads, heads, s.state_len()], v)
}

fn input(inputs: &[Vec<f32>; 8]) -> Input<'_> {
    let [q, k, v, a, b, a_log, dt_bias, initial_state] = inputs;
    Input { q, k, v, a, b, a_log, dt_bias, initial_state: Some(initial_state) }
}

impl Recurrence for Shape<'_> {
    const NAMES: [&'static str; 8] = ["q", "k", "v", "a", "b", "a_log", "dt_bias", "initial_state"];
    const BY_ROW: usize = 5;

    fn seqs(&self) -> Sequences<'_> {
        self.seqs
    }

    fn saved_len(&self) -> usize {
        self.saved_len()
    }

    fn of_equal(&self, batch: usize, len: usize) -> Self {
        Self { seqs: Sequences::Equal { batch, len }, ..*self }
    }

    fn forward(&self, inputs: &[Vec<f32>; 8], [o, last, saved]: &mut [Vec<f32>; 3]) {
        forward(self, &input(inputs), o, Some(last), saved).unwrap();
    }

    fn backward(&self, c: &Case<Self>, saved: &[f32], grads: &mut [Vec<f32>; 8]) {
        let [dq, dk, dv, da, db, da_log, ddt_bias, initial] = grads;
        let grad = Grads { dq, dk, dv, da, db, da_log, ddt_bias, dinitial_state: Some(initial) };
        backward(self, &input(&c.inputs), saved, &c.dy, Some(&c.dfinal), grad).unwrap();
    }

    fn step(&self, inputs: &[Vec<f32>; 8], state: &mut [f32], o: &mut [f32]) {
        step(self, &Input { initial_state: None, ..input(inputs) }, state, o).unwrap();
    }

    fn reference(&self, x: &[Vec<f64>; 8]) -> [Vec<f64>; 2] {
        let (o, _, last) = reference(self, x);
        [o, last]
    }

    fn reference_backward(&self, c: &Case<Self>) -> [Vec<f64>; 8] {
        reference_backward(c)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A token of a head in f64: what the recurrence is made of.
struct Token {
    k: Vec<f64>,
    q: Vec<f64>,
    norms: [f64; 2],
    g: f64,
    beta: f64,
}

fn token(s: &Shape, x: &[Vec<f64>; 8], row: usize, head: usize) -> Token {
    let at = row * s.heads + head;
    let unit = |x: &[f64]| {
        let row = &x[at * s.key_size..][..s.key_size];
        let norm = (dot(row, row) + f64::from(NORM_EPS)).sqrt();
        (row.iter().map(|v| v / norm).collect::<Vec<_>>(), norm)
    };
    let ((q, q_norm), (k, k_norm)) = (unit(&x[0]), unit(&x[1]));
    let g = -x[5][head].exp() * wide_softplus(x[3][at] + x[6][head]);
    Token { k, q, norms: [q_norm, k_norm], g, beta: 1.0 / (1.0 + (-x[4][at]).exp()) }
}

/// A head's state before and after each of its tokens.
type States = Vec<[Vec<f64>; 2]>;

/// o, the states of each head, and the final states.
fn reference(s: &Shape, x: &[Vec<f64>; 8]) -> (Vec<f64>, Vec<States>, Vec<f64>) {
    let (key, value, size) = (s.key_size, s.value_size, s.key_size * s.value_size);
    let scale = 1.0 / (key as f64).sqrt();
    let (mut o, mut states, mut last) = (vec![0.0; x[2].len()], Vec::new(), Vec::new());
    for task in 0..s.seqs.count() * s.heads {
        let head = task % s.heads;
        let mut state = x[7][task * size..][..size].to_vec();
        let mut of_head = Vec::new();
        for row in s.seqs.span(task / s.heads) {
            let t = token(s, x, row, head);
            let at = (row * s.heads + head) * value;
            let before: Vec<f64> = state.iter().map(|v| v * t.g.exp()).collect();
            for j in 0..value {
                let known: f64 = (0..key).map(|i| t.k[i] * before[i * value + j]).sum();
                let written = t.beta * (x[2][at + j] - known);
                for i in 0..key {
                    state[i * value + j] = before[i * value + j] + t.k[i] * written;
                }
                o[at + j] = scale * (0..key).map(|i| t.q[i] * state[i * value + j]).sum::<f64>();
            }
            of_head.push([before, state.clone()]);
        }
        states.push(of_head);
        last.extend(state);
    }
    (o, states, last)
}

/// The recurrence in reverse, in the order of the names.
fn reference_backward(c: &Case<Shape>) -> [Vec<f64>; 8] {
    let (s, x) = (&c.s, c.wide());
    let (key, value, size) = (s.key_size, s.value_size, s.key_size * s.value_size);
    let scale = 1.0 / (key as f64).sqrt();
    let (_, states, _) = reference(s, &x);
    let mut grads = x.each_ref().map(|v| vec![0.0; v.len()]);
    for task in 0..s.seqs.count() * s.heads {
        let head = task % s.heads;
        let mut ds = wide(&c.dfinal[task * size..][..size]);
        for (row, [before, after]) in s.seqs.span(task / s.heads).zip(&states[task]).rev() {
            let t = token(s, &x, row, head);
            let at = row * s.heads + head;
            let (mut dq, mut dk, mut dbeta) = (vec![0.0; key], vec![0.0; key], 0.0);
            for j in 0..value {
                let d_o = f64::from(c.dy[at * value + j]) * scale;
                for i in 0..key {
                    dq[i] += d_o * after[i * value + j];
                    ds[i * value + j] += d_o * t.q[i];
                }
                let missing = x[2][at * value + j] - (0..key).map(|i| t.k[i] * before[i * value + j]).sum::<f64>();
                let dwritten: f64 = (0..key).map(|i| ds[i * value + j] * t.k[i]).sum();
                dbeta += dwritten * missing;
                grads[2][at * value + j] = t.beta * dwritten;
                for i in 0..key {
                    dk[i] += ds[i * value + j] * t.beta * missing - t.beta * dwritten * before[i * value + j];
                    ds[i * value + j] -= t.beta * dwritten * t.k[i];
                }
            }
            let dg = dot(&ds, before);
            ds.iter_mut().for_each(|d| *d *= t.g.exp());
            let da = -dg * x[5][head].exp() / (1.0 + (-x[3][at] - x[6][head]).exp());
            grads[3][at] = da;
            grads[4][at] = dbeta * t.beta * (1.0 - t.beta);
            grads[5][head] += dg * t.g;
            grads[6][head] += da;
            for (which, (unit, d)) in [(&t.q, &dq), (&t.k, &dk)].into_iter().enumerate() {
                let along = dot(unit, d);
                for i in 0..key {
                    grads[which][at * key + i] = (d[i] - unit[i] * along) / t.norms[which];
                }
            }
        }
        grads[7][task * size..][..size].copy_from_slice(&ds);
    }
    grads
}

#[test]
fn the_oracle_is_the_gradient() {
    case(Sequences::Packed { cu_seqlens: &[0, 2, 7] }, 2, 3, 2).the_reversed_recurrence_is_the_gradient();
}

#[test]
fn chunks_are_the_recurrence() {
    for len in [1, 2, 16, 17, 63, 64, 65, 130] {
        case(Sequences::Equal { batch: 2, len }, 2, 4, 6).check();
    }
    case(Sequences::Equal { batch: 1, len: 1000 }, 1, 3, 2).check();
    case(Sequences::Equal { batch: 1, len: 100 }, 2, 33, 48).check();
    case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 66, 130, 193] }, 2, 5, 3).check();
}

#[test]
fn however_the_tokens_are_cut() {
    case(Sequences::Packed { cu_seqlens: &[0, 70, 75] }, 2, 4, 6).packed_sequences_are_separate_ones();
    case(Sequences::Equal { batch: 2, len: 70 }, 2, 4, 6).steps_are_the_chunks(70);
    case(Sequences::Equal { batch: 1, len: 70 }, 1, 4, 6).a_sequence_goes_on_from_its_state(30);
}

#[test]
fn extreme_gates_stay_finite() {
    for (a, a_log) in [(1e4, 3.0), (1e30, 50.0), (-1e4, 0.0), (3e38, 3e38)] {
        let mut c = case(Sequences::Equal { batch: 1, len: 70 }, 1, 4, 6);
        c.inputs[3].iter_mut().step_by(3).for_each(|x| *x = a);
        c.inputs[4].iter_mut().step_by(5).for_each(|x| *x = -a);
        c.inputs[5].fill(a_log);
        c.stays_finite(&format!("{a:e}"));
    }
    // Rows of zeros have no direction.
    let mut c = case(Sequences::Equal { batch: 1, len: 5 }, 1, 4, 6);
    c.inputs[0].fill(0.0);
    c.inputs[1].fill(0.0);
    c.check();
}

#[test]
fn strong_decay_in_one_token_keeps_the_others_exact() {
    let mut c = case(Sequences::Equal { batch: 1, len: 64 }, 1, 4, 6);
    c.inputs[3][2] = 3000.0;
    c.check();
}

#[test]
fn same_bits_at_any_thread_count() {
    case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 200] }, 3, 16, 24).same_bits_at_any_thread_count();
}

#[test]
fn wrong_arguments_are_named() {
    let c = case(Sequences::Equal { batch: 1, len: 3 }, 2, 4, 6);
    let mut out = [c.dy.len(), c.s.saved_len()].map(poisoned);
    let [o, saved] = &mut out;
    let short = Input { k: &c.inputs[1][1..], ..input(&c.inputs) };
    let message = forward(&c.s, &short, o, None, saved).unwrap_err().to_string();
    let want = "gated_delta_rule: k has 23 elements, expected 24 for shape [rows=3, heads=2, key_size=4]";
    assert_eq!(message, want);
    let message = forward(&c.s, &input(&c.inputs), o, None, &mut saved[1..]).unwrap_err().to_string();
    assert!(message.contains("saved has 83 elements"), "{message}");
    let empty = Shape { heads: 0, ..c.s };
    assert!(forward(&empty, &input(&c.inputs), o, None, saved).unwrap_err().to_string().contains("heads = 0"));
    let mut state = poisoned(47);
    let message = step(&c.s, &input(&c.inputs), &mut state, o).unwrap_err().to_string();
    assert!(message.starts_with("gated_delta_rule step: "), "{message}");
}

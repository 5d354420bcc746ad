use super::*;
use crate::testing::*;

/// q, k, v, a, b, a_log, dt_bias, initial_state.
const NAMES: [&str; 8] = ["q", "k", "v", "a", "b", "a_log", "dt_bias", "initial_state"];

struct Case<'a> {
    s: Shape<'a>,
    inputs: [Vec<f32>; 8],
    d_o: Vec<f32>,
    dfinal: Vec<f32>,
}

fn case(seqs: Sequences, heads: usize, key_size: usize, value_size: usize) -> Case {
    let s = Shape { seqs, heads, key_size, value_size };
    let (n, k, v) = (seqs.rows() * heads, seqs.rows() * heads * key_size, seqs.rows() * heads * value_size);
    let mut seed = 0;
    let inputs = [k, k, v, n, n, heads, heads, s.state_len()].map(|len| {
        seed += 1;
        random(len, seed)
    });
    Case { s, inputs, d_o: random(v, 9), dfinal: random(s.state_len(), 10) }
}

impl Case<'_> {
    fn input(&self) -> Input<'_> {
        let [q, k, v, a, b, a_log, dt_bias, initial_state] = &self.inputs;
        Input { q, k, v, a, b, a_log, dt_bias, initial_state: Some(initial_state) }
    }

    /// o, the final states, what is kept.
    fn forward(&self) -> [Vec<f32>; 3] {
        let mut out = [self.d_o.len(), self.dfinal.len(), self.s.saved_len()].map(poisoned);
        let [o, last, saved] = &mut out;
        forward(&self.s, &self.input(), o, Some(last), saved).unwrap();
        out
    }

    /// In the order of [`NAMES`].
    fn backward(&self) -> Vec<Vec<f32>> {
        let [_, _, saved] = self.forward();
        let mut grads = self.inputs.each_ref().map(|x| poisoned(x.len()));
        let [dq, dk, dv, da, db, da_log, ddt_bias, initial] = &mut grads;
        let grad = Grads { dq, dk, dv, da, db, da_log, ddt_bias, dinitial_state: Some(initial) };
        backward(&self.s, &self.input(), &saved, &self.d_o, Some(&self.dfinal), grad).unwrap();
        grads.into()
    }

    fn wide(&self) -> [Vec<f64>; 8] {
        self.inputs.each_ref().map(|x| wide(x))
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

/// The recurrence in reverse, in the order of [`NAMES`].
fn reference_backward(c: &Case) -> [Vec<f64>; 8] {
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
                let d_o = f64::from(c.d_o[at * value + j]) * scale;
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

/// The oracle's own oracle.
#[test]
fn the_reversed_recurrence_is_the_gradient() {
    let c = case(Sequences::Packed { cu_seqlens: &[0, 2, 7] }, 2, 3, 2);
    for (i, want) in reference_backward(&c).iter().enumerate() {
        let have = gradient(&c.inputs[i], |moved| {
            let mut x = c.wide();
            x[i] = moved.to_vec();
            let (o, _, last) = reference(&c.s, &x);
            inner(&o, &c.d_o) + inner(&last, &c.dfinal)
        });
        let have: Vec<f32> = have.iter().map(|&v| v as f32).collect();
        assert_close(NAMES[i], &have, want);
    }
}

#[track_caller]
fn check(c: &Case) {
    let (o, _, last) = reference(&c.s, &c.wide());
    let [have_o, have_last, _] = c.forward();
    assert_close("o", &have_o, &o);
    assert_close("final_state", &have_last, &last);
    for ((name, have), want) in NAMES.iter().zip(c.backward()).zip(reference_backward(c)) {
        assert_close(&format!("{:?}: d{name}", c.s), &have, &want);
    }
}

#[test]
fn chunks_are_the_recurrence() {
    for len in [1, 2, 16, 17, 63, 64, 65, 130] {
        check(&case(Sequences::Equal { batch: 2, len }, 2, 4, 6));
    }
    check(&case(Sequences::Equal { batch: 1, len: 1000 }, 1, 3, 2));
    check(&case(Sequences::Equal { batch: 1, len: 100 }, 2, 33, 48));
    check(&case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 66, 130, 193] }, 2, 5, 3));
}

#[test]
fn packed_sequences_are_separate_ones() {
    let c = case(Sequences::Packed { cu_seqlens: &[0, 70, 75] }, 2, 4, 6);
    let [o, ..] = c.forward();
    let grads = c.backward();
    for (seq, rows) in c.s.seqs.spans().enumerate() {
        let part = |x: &[f32], total: usize, rows: std::ops::Range<usize>| {
            let width = x.len() / total;
            x[rows.start * width..rows.end * width].to_vec()
        };
        let by_row = |x: &[f32]| part(x, 75, rows.clone());
        let by_seq = |x: &[f32]| part(x, 2, seq..seq + 1);
        let select = |x: &[Vec<f32>]| -> [Vec<f32>; 8] {
            std::array::from_fn(|i| match i {
                0..5 => by_row(&x[i]),
                7 => by_seq(&x[i]),
                _ => x[i].clone(),
            })
        };
        let s = Shape { seqs: Sequences::Equal { batch: 1, len: rows.len() }, ..c.s };
        let alone = Case { s, inputs: select(&c.inputs), d_o: by_row(&c.d_o), dfinal: by_seq(&c.dfinal) };
        assert_eq!(alone.forward()[0], by_row(&o));
        let (want, have) = (select(&grads), alone.backward());
        // Parameters have gradients by both sequences.
        for i in [0, 1, 2, 3, 4, 7] {
            assert_eq!(have[i], want[i], "{}", NAMES[i]);
        }
    }
}

#[test]
fn a_sequence_in_two_halves_or_token_by_token() {
    let c = case(Sequences::Equal { batch: 2, len: 70 }, 2, 4, 6);
    let [o, last, _] = c.forward();
    let mut state = c.inputs[7].clone();
    let mut steps = poisoned(o.len());
    let s = Shape { seqs: Sequences::Equal { batch: 2, len: 1 }, ..c.s };
    for t in 0..70 {
        let row = |x: &[f32]| {
            let width = x.len() / 140;
            [t, 70 + t].map(|row| x[row * width..(row + 1) * width].to_vec()).concat()
        };
        let [q, k, v, a, b] = std::array::from_fn(|i| row(&c.inputs[i]));
        let input = Input { q: &q, k: &k, v: &v, a: &a, b: &b, initial_state: None, ..c.input() };
        let mut y = poisoned(2 * 12);
        step(&s, &input, &mut state, &mut y).unwrap();
        for (row, y) in [t, 70 + t].into_iter().zip(y.chunks(12)) {
            steps[row * 12..(row + 1) * 12].copy_from_slice(y);
        }
    }
    assert_close("o", &steps, &wide(&o));
    assert_close("state", &state, &wide(&last));

    let one = case(Sequences::Equal { batch: 1, len: 70 }, 1, 4, 6);
    let [o, last, _] = one.forward();
    let half = |range: std::ops::Range<usize>, initial: &[f32]| {
        let s = Shape { seqs: Sequences::Equal { batch: 1, len: range.len() }, ..one.s };
        let part = |x: &[f32]| x[range.start * (x.len() / 70)..range.end * (x.len() / 70)].to_vec();
        let mut inputs = one.inputs.clone();
        inputs[..5].iter_mut().for_each(|x| *x = part(x));
        inputs[7] = initial.to_vec();
        Case { s, inputs, d_o: part(&one.d_o), dfinal: one.dfinal.clone() }.forward()
    };
    let [start, middle, _] = half(0..30, &one.inputs[7]);
    let [end, halves, _] = half(30..70, &middle);
    assert_close("o", &[start, end].concat(), &wide(&o));
    assert_close("final_state", &halves, &wide(&last));
}

#[test]
fn extreme_gates_stay_finite() {
    for (a, a_log) in [(1e4, 3.0), (1e30, 50.0), (-1e4, 0.0), (3e38, 3e38)] {
        let mut c = case(Sequences::Equal { batch: 1, len: 70 }, 1, 4, 6);
        c.inputs[3].iter_mut().step_by(3).for_each(|x| *x = a);
        c.inputs[4].iter_mut().step_by(5).for_each(|x| *x = -a);
        c.inputs[5].fill(a_log);
        let finite = |x: &[f32]| x.iter().all(|v| v.is_finite());
        assert!(c.forward().iter().all(|x| finite(x)), "forward, {a:e}");
        for (name, grad) in NAMES.iter().zip(c.backward()) {
            assert!(finite(&grad), "d{name}, {a:e}");
        }
    }
    // Rows of zeros have no direction.
    let mut c = case(Sequences::Equal { batch: 1, len: 5 }, 1, 4, 6);
    c.inputs[0].fill(0.0);
    c.inputs[1].fill(0.0);
    check(&c);
}

#[test]
fn strong_decay_in_one_token_keeps_the_others_exact() {
    let mut c = case(Sequences::Equal { batch: 1, len: 64 }, 1, 4, 6);
    c.inputs[3][2] = 3000.0;
    check(&c);
}

#[test]
fn same_bits_at_any_thread_count() {
    let c = case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 200] }, 3, 16, 24);
    assert_same_bits_at_any_thread_count(|| [c.forward().to_vec(), c.backward()].concat());
}

#[test]
fn wrong_arguments_are_named() {
    let c = case(Sequences::Equal { batch: 1, len: 3 }, 2, 4, 6);
    let mut out = [c.d_o.len(), c.s.saved_len()].map(poisoned);
    let [o, saved] = &mut out;
    let short = Input { k: &c.inputs[1][1..], ..c.input() };
    let message = forward(&c.s, &short, o, None, saved).unwrap_err().to_string();
    let want = "gated_delta_rule: k has 23 elements, expected 24 for shape [rows=3, heads=2, key_size=4]";
    assert_eq!(message, want);
    let message = forward(&c.s, &c.input(), o, None, &mut saved[1..]).unwrap_err().to_string();
    assert!(message.contains("saved has 83 elements"), "{message}");
    let empty = Shape { heads: 0, ..c.s };
    assert!(forward(&empty, &c.input(), o, None, saved).unwrap_err().to_string().contains("heads = 0"));
    let mut state = poisoned(47);
    let message = step(&c.s, &c.input(), &mut state, o).unwrap_err().to_string();
    assert!(message.starts_with("gated_delta_rule step: "), "{message}");
}

use super::*;
use crate::testing::*;

/// x, b, c, dt, a_log, dt_bias, d, initial_state.
const NAMES: [&str; 8] = ["x", "b", "c", "dt", "a_log", "dt_bias", "d", "initial_state"];

struct Case<'a> {
    s: Shape<'a>,
    inputs: [Vec<f32>; 8],
    dy: Vec<f32>,
    dfinal: Vec<f32>,
}

fn case(seqs: Sequences, heads: usize, groups: usize, head_size: usize, state_size: usize) -> Case {
    let s = Shape { seqs, heads, head_size, groups, state_size };
    let (x, bc) = (seqs.rows() * heads * head_size, seqs.rows() * groups * state_size);
    let mut seed = 0;
    let inputs = [x, bc, bc, seqs.rows() * heads, heads, heads, heads, s.state_len()].map(|len| {
        seed += 1;
        random(len, seed)
    });
    Case { s, inputs, dy: random(x, 9), dfinal: random(s.state_len(), 10) }
}

impl Case<'_> {
    fn input(&self) -> Input<'_> {
        let [x, b, c, dt, a_log, dt_bias, d, initial_state] = &self.inputs;
        Input { x, b, c, dt, a_log, dt_bias, d, initial_state: Some(initial_state) }
    }

    /// y, the final states, what is kept.
    fn forward(&self) -> [Vec<f32>; 3] {
        let mut out = [self.dy.len(), self.dfinal.len(), self.s.saved_len()].map(poisoned);
        let [y, last, saved] = &mut out;
        forward(&self.s, &self.input(), y, Some(last), saved).unwrap();
        out
    }

    /// In the order of [`NAMES`].
    fn backward(&self) -> Vec<Vec<f32>> {
        let [_, _, saved] = self.forward();
        let mut grads = self.inputs.each_ref().map(|x| poisoned(x.len()));
        let [dx, db, dc, ddt, da_log, ddt_bias, dd, initial] = &mut grads;
        let grad = Grads { dx, db, dc, ddt, da_log, ddt_bias, dd, dinitial_state: Some(initial) };
        backward(&self.s, &self.input(), &saved, &self.dy, Some(&self.dfinal), grad).unwrap();
        grads.into()
    }

    fn wide(&self) -> [Vec<f64>; 8] {
        self.inputs.each_ref().map(|x| wide(x))
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

/// The recurrence in reverse, in the order of [`NAMES`].
fn reference_backward(c: &Case) -> [Vec<f64>; 8] {
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

/// The oracle's own oracle.
#[test]
fn the_reversed_recurrence_is_the_gradient() {
    let c = case(Sequences::Packed { cu_seqlens: &[0, 2, 7] }, 4, 2, 2, 3);
    for (i, want) in reference_backward(&c).iter().enumerate() {
        let have = gradient(&c.inputs[i], |moved| {
            let mut x = c.wide();
            x[i] = moved.to_vec();
            let (y, _, last) = reference(&c.s, &x);
            inner(&y, &c.dy) + inner(&last, &c.dfinal)
        });
        let have: Vec<f32> = have.iter().map(|&v| v as f32).collect();
        assert_close(NAMES[i], &have, want);
    }
}

#[track_caller]
fn check(c: &Case) {
    let (y, _, last) = reference(&c.s, &c.wide());
    let [have_y, have_last, _] = c.forward();
    assert_close("y", &have_y, &y);
    assert_close("final_state", &have_last, &last);
    for ((name, have), want) in NAMES.iter().zip(c.backward()).zip(reference_backward(c)) {
        assert_close(&format!("{:?}: d{name}", c.s), &have, &want);
    }
}

#[test]
fn chunks_are_the_recurrence() {
    for len in [1, 2, 16, 17, 63, 64, 65, 130] {
        check(&case(Sequences::Equal { batch: 2, len }, 4, 2, 3, 5));
    }
    check(&case(Sequences::Equal { batch: 1, len: 1000 }, 2, 1, 2, 3));
    check(&case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 66, 130, 193] }, 2, 1, 5, 3));
    // Three tiles in a group, the last one smaller.
    let wide = case(Sequences::Equal { batch: 1, len: 70 }, 10, 2, 200, 20);
    assert_eq!((wide.s.tile_heads(), wide.s.tiles()), (2, 3));
    check(&wide);
}

#[test]
fn packed_sequences_are_separate_ones() {
    let c = case(Sequences::Packed { cu_seqlens: &[0, 70, 75] }, 4, 2, 3, 5);
    let [y, ..] = c.forward();
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
                0..4 => by_row(&x[i]),
                7 => by_seq(&x[i]),
                _ => x[i].clone(),
            })
        };
        let s = Shape { seqs: Sequences::Equal { batch: 1, len: rows.len() }, ..c.s };
        let alone = Case { s, inputs: select(&c.inputs), dy: by_row(&c.dy), dfinal: by_seq(&c.dfinal) };
        assert_eq!(alone.forward()[0], by_row(&y));
        let (want, have) = (select(&grads), alone.backward());
        // Parameters have gradients by both sequences.
        for i in [0, 1, 2, 3, 7] {
            assert_eq!(have[i], want[i], "{}", NAMES[i]);
        }
    }
}

#[test]
fn a_sequence_token_by_token() {
    let c = case(Sequences::Equal { batch: 2, len: 70 }, 4, 2, 3, 5);
    let [y, last, _] = c.forward();
    let mut state = c.inputs[7].clone();
    let mut steps = poisoned(y.len());
    let s = Shape { seqs: Sequences::Equal { batch: 2, len: 1 }, ..c.s };
    for t in 0..70 {
        let row = |x: &[f32]| {
            let width = x.len() / 140;
            [t, 70 + t].map(|row| x[row * width..(row + 1) * width].to_vec()).concat()
        };
        let [x, b, cc, dt] = std::array::from_fn(|i| row(&c.inputs[i]));
        let input = Input { x: &x, b: &b, c: &cc, dt: &dt, initial_state: None, ..c.input() };
        let mut out = poisoned(2 * 12);
        step(&s, &input, &mut state, &mut out).unwrap();
        for (row, out) in [t, 70 + t].into_iter().zip(out.chunks(12)) {
            steps[row * 12..(row + 1) * 12].copy_from_slice(out);
        }
    }
    assert_close("y", &steps, &wide(&y));
    assert_close("state", &state, &wide(&last));
}

#[test]
fn extreme_gates_stay_finite() {
    for (dt, a_log) in [(1e4, 3.0), (1e30, 50.0), (-1e4, 0.0), (1e30, 3e38)] {
        let mut c = case(Sequences::Equal { batch: 1, len: 70 }, 2, 1, 4, 6);
        c.inputs[3].iter_mut().step_by(3).for_each(|x| *x = dt);
        c.inputs[4].fill(a_log);
        let finite = |x: &[f32]| x.iter().all(|v| v.is_finite());
        assert!(c.forward().iter().all(|x| finite(x)), "forward, {dt:e}");
        for (name, grad) in NAMES.iter().zip(c.backward()) {
            assert!(finite(&grad), "d{name}, {dt:e}");
        }
    }
}

#[test]
fn strong_decay_in_one_token_keeps_the_others_exact() {
    let mut c = case(Sequences::Equal { batch: 1, len: 64 }, 1, 1, 4, 6);
    c.inputs[3][2] = 3000.0;
    // Its own step would drown the others' in every norm.
    c.inputs[0][2 * 4..3 * 4].fill(1e-4);
    check(&c);
}

#[test]
fn same_bits_at_any_thread_count() {
    let c = case(Sequences::Packed { cu_seqlens: &[0, 1, 65, 200] }, 6, 2, 200, 24);
    assert_same_bits_at_any_thread_count(|| [c.forward().to_vec(), c.backward()].concat());
}

#[test]
fn wrong_arguments_are_named() {
    let c = case(Sequences::Equal { batch: 1, len: 3 }, 4, 2, 3, 5);
    let mut out = [c.dy.len(), c.s.saved_len()].map(poisoned);
    let [y, saved] = &mut out;
    let short = Input { b: &c.inputs[1][1..], ..c.input() };
    let message = forward(&c.s, &short, y, None, saved).unwrap_err().to_string();
    assert_eq!(message, "ssd: b has 29 elements, expected 30 for shape [rows=3, groups=2, state_size=5]");
    let message = forward(&Shape { groups: 3, ..c.s }, &c.input(), y, None, saved).unwrap_err().to_string();
    assert!(message.contains("groups = 3 does not divide heads = 4"), "{message}");
    let message = forward(&c.s, &c.input(), y, None, &mut saved[1..]).unwrap_err().to_string();
    assert!(message.contains("saved has 59 elements"), "{message}");
    let mut state = poisoned(59);
    let message = step(&c.s, &c.input(), &mut state, y).unwrap_err().to_string();
    assert!(message.starts_with("ssd step: "), "{message}");
}

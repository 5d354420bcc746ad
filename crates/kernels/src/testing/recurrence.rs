//! What is asked of every chunked recurrence: it equals the recurrence token by token, however the tokens are cut.

use std::fmt::Debug;
use std::ops::Range;

use super::*;
use crate::Sequences;

/// The shape of a recurrence with eight inputs: rows of tokens first, then parameters, then the initial states.
pub(crate) trait Recurrence: Copy + Debug {
    const NAMES: [&'static str; 8];
    /// How many of the inputs have a row per token.
    const BY_ROW: usize;
    fn seqs(&self) -> Sequences<'_>;
    fn saved_len(&self) -> usize;
    /// The same for other sequences.
    fn of_equal(&self, batch: usize, len: usize) -> Self;
    /// The op, into y, the final states and what is kept.
    fn forward(&self, inputs: &[Vec<f32>; 8], out: &mut [Vec<f32>; 3]);
    fn backward(&self, c: &Case<Self>, saved: &[f32], grads: &mut [Vec<f32>; 8]);
    fn step(&self, inputs: &[Vec<f32>; 8], state: &mut [f32], y: &mut [f32]);
    /// y and the final states, token by token.
    fn reference(&self, x: &[Vec<f64>; 8]) -> [Vec<f64>; 2];
    /// The gradients, by the recurrence in reverse.
    fn reference_backward(&self, c: &Case<Self>) -> [Vec<f64>; 8];
}

/// Inputs, and the gradients of y and of the final states.
pub(crate) struct Case<S> {
    pub(crate) s: S,
    pub(crate) inputs: [Vec<f32>; 8],
    pub(crate) dy: Vec<f32>,
    pub(crate) dfinal: Vec<f32>,
}

impl<S: Recurrence> Case<S> {
    pub(crate) fn new(s: S, lens: [usize; 8], y: usize) -> Self {
        let mut seed = 0;
        let inputs = lens.map(|len| {
            seed += 1;
            random(len, seed)
        });
        Self { s, inputs, dy: random(y, 9), dfinal: random(lens[7], 10) }
    }

    /// y, the final states, what is kept.
    pub(crate) fn forward(&self) -> [Vec<f32>; 3] {
        let mut out = [self.dy.len(), self.dfinal.len(), self.s.saved_len()].map(poisoned);
        self.s.forward(&self.inputs, &mut out);
        out
    }

    /// In the order of the names.
    pub(crate) fn backward(&self) -> [Vec<f32>; 8] {
        let [_, _, saved] = self.forward();
        let mut grads = self.inputs.each_ref().map(|x| poisoned(x.len()));
        self.s.backward(self, &saved, &mut grads);
        grads
    }

    pub(crate) fn wide(&self) -> [Vec<f64>; 8] {
        self.inputs.each_ref().map(|x| wide(x))
    }

    /// The rows of a tensor that has one per token.
    fn rows(&self, x: &[f32], rows: &Range<usize>) -> Vec<f32> {
        let width = x.len() / self.s.seqs().rows();
        x[rows.start * width..rows.end * width].to_vec()
    }

    /// The tokens of some rows as a sequence of their own.
    fn part(&self, rows: Range<usize>, initial_state: &[f32], dfinal: &[f32]) -> Self {
        let mut inputs = self.inputs.clone();
        inputs[..S::BY_ROW].iter_mut().for_each(|x| *x = self.rows(x, &rows));
        inputs[7] = initial_state.to_vec();
        let (dy, dfinal) = (self.rows(&self.dy, &rows), dfinal.to_vec());
        Self { s: self.s.of_equal(1, rows.len()), inputs, dy, dfinal }
    }

    /// All outputs and gradients against the recurrence.
    #[track_caller]
    pub(crate) fn check(&self) {
        let [y, last] = self.s.reference(&self.wide());
        let [have_y, have_last, _] = self.forward();
        assert_close("y", &have_y, &y);
        assert_close("final_state", &have_last, &last);
        for ((name, have), want) in S::NAMES.iter().zip(self.backward()).zip(self.s.reference_backward(self)) {
            assert_close(&format!("{:?}: d{name}", self.s), &have, &want);
        }
    }

    /// The oracle's own oracle: finite differences.
    pub(crate) fn the_reversed_recurrence_is_the_gradient(&self) {
        for (i, want) in self.s.reference_backward(self).iter().enumerate() {
            let have = gradient(&self.inputs[i], |moved| {
                let mut x = self.wide();
                x[i] = moved.to_vec();
                let [y, last] = self.s.reference(&x);
                inner(&y, &self.dy) + inner(&last, &self.dfinal)
            });
            let have: Vec<f32> = have.iter().map(|&v| v as f32).collect();
            assert_close(S::NAMES[i], &have, want);
        }
    }

    /// Packed sequences have the bits of each alone.
    pub(crate) fn packed_sequences_are_separate_ones(&self) {
        let ([y, last, _], grads) = (self.forward(), self.backward());
        let state = self.dfinal.len() / self.s.seqs().count();
        for (seq, rows) in self.s.seqs().spans().enumerate() {
            let of_seq = |x: &[f32]| x[seq * state..(seq + 1) * state].to_vec();
            let alone = self.part(rows.clone(), &of_seq(&self.inputs[7]), &of_seq(&self.dfinal));
            let [have_y, have_last, _] = alone.forward();
            assert_eq!((have_y, have_last), (self.rows(&y, &rows), of_seq(&last)));
            // Parameters have gradients by all sequences.
            let have = alone.backward();
            for i in 0..S::BY_ROW {
                assert_eq!(have[i], self.rows(&grads[i], &rows), "d{}", S::NAMES[i]);
            }
            assert_eq!(have[7], of_seq(&grads[7]), "d{}", S::NAMES[7]);
        }
    }

    /// Two sequences of `len` tokens, stepped side by side.
    pub(crate) fn steps_are_the_chunks(&self, len: usize) {
        let [y, last, _] = self.forward();
        let width = y.len() / (2 * len);
        let (mut state, mut steps) = (self.inputs[7].clone(), poisoned(y.len()));
        for t in 0..len {
            let rows = [t, len + t];
            let mut inputs = self.inputs.clone();
            inputs[..S::BY_ROW].iter_mut().for_each(|x| *x = rows.map(|t| self.rows(x, &(t..t + 1))).concat());
            let mut out = poisoned(2 * width);
            self.s.of_equal(2, 1).step(&inputs, &mut state, &mut out);
            for (row, out) in rows.into_iter().zip(out.chunks(width)) {
                steps[row * width..(row + 1) * width].copy_from_slice(out);
            }
        }
        assert_close("y", &steps, &wide(&y));
        assert_close("state", &state, &wide(&last));
    }

    /// One sequence in two parts, the second going on from the state of the first.
    pub(crate) fn a_sequence_goes_on_from_its_state(&self, cut: usize) {
        let [y, last, _] = self.forward();
        let [start, middle, _] = self.part(0..cut, &self.inputs[7], &self.dfinal).forward();
        let [end, halves, _] = self.part(cut..self.s.seqs().rows(), &middle, &self.dfinal).forward();
        assert_close("y", &[start, end].concat(), &wide(&y));
        assert_close("final_state", &halves, &wide(&last));
    }

    #[track_caller]
    pub(crate) fn stays_finite(&self, what: &str) {
        let finite = |x: &[f32]| x.iter().all(|v| v.is_finite());
        assert!(self.forward().iter().all(|x| finite(x)), "forward, {what}");
        for (name, grad) in S::NAMES.iter().zip(self.backward()) {
            assert!(finite(&grad), "d{name}, {what}");
        }
    }
}

impl<S: Recurrence + Sync> Case<S> {
    #[track_caller]
    pub(crate) fn same_bits_at_any_thread_count(&self) {
        assert_same_bits_at_any_thread_count(|| [&self.forward()[..], &self.backward()].concat());
    }
}

//! Where gradients of values lie while a backward pass is lowered.
//!
//! The gradient of a value lies where the value does, in a buffer that mirrors the value's: gradients of neighbouring columns are
//! neighbours. A gradient that only passes through (a residual) is shared, and copied only if it changes under another's hands.

use super::lower::Lower;
use super::program::{Home, View};
use crate::op::Var;

/// A place written instead of a gradient that holds something already, to be added to it.
pub(super) struct Detour {
    pub(super) written: View,
    pub(super) gradient: View,
    pub(super) accumulate: bool,
}

impl Lower<'_> {
    /// The gradient of x, which has one.
    pub(super) fn gradient(&self, x: Var) -> View {
        self.grads[x.index()].unwrap_or_else(|| unreachable!("value {} has no gradient", x.index()))
    }

    /// Where to contribute to the gradient of x, and whether it holds something to add to.
    pub(super) fn contribute(&mut self, x: Var) -> (View, bool) {
        let Some(held) = self.grads[x.index()] else {
            let slot = self.slot(x);
            self.grads[x.index()] = Some(slot);
            return (slot, false);
        };
        let others = (0..self.grads.len()).filter(|&y| y != x.index()).map(|y| self.grads[y]);
        let shared = others.chain([self.current]).any(|other| other == Some(held));
        if !shared {
            return (held, true);
        }
        // Another value's gradient is the same memory and must not change with this one.
        let own = self.temporary(held.rows, held.cols, held.dtype);
        self.copy(held, own);
        self.grads[x.index()] = Some(own);
        (own, true)
    }

    /// Contributes a whole matrix: it becomes the gradient itself where it is the first.
    pub(super) fn pass_on(&mut self, x: Var, gradient: View) {
        if self.grads[x.index()].is_none() {
            self.grads[x.index()] = Some(gradient);
            return;
        }
        let (held, _) = self.contribute(x);
        self.add(held, gradient, held);
    }

    /// The place of x's gradient in the buffer that mirrors x's.
    pub(super) fn slot(&mut self, x: Var) -> View {
        let value = self.value(x);
        let Home::Work(buffer) = value.home else { return self.temporary(value.rows, value.cols, value.dtype) };
        let mirror = match self.mirrors.get(&buffer) {
            Some(&mirror) => mirror,
            None => {
                let mirror = self.p.twin(buffer);
                self.mirrors.insert(buffer, mirror);
                mirror
            }
        };
        View { home: Home::Work(mirror), ..value }
    }

    /// One matrix to write the gradients of these values to, side by side: their own places where they are neighbours and
    /// hold nothing yet.
    pub(super) fn targets(&mut self, vars: &[Var]) -> (View, Vec<Detour>) {
        if vars.iter().all(|x| self.grads[x.index()].is_none()) {
            let slots: Vec<View> = vars.iter().map(|&x| self.slot(x)).collect();
            if let Some(hull) = View::hull(&slots) {
                vars.iter().zip(slots).for_each(|(x, slot)| self.grads[x.index()] = Some(slot));
                return (hull, Vec::new());
            }
        }
        let cols = vars.iter().map(|&x| self.tape.cols(x)).sum();
        let whole = self.temporary(self.tokens(), cols, self.dtype);
        let mut at = 0;
        let detours = vars.iter().map(|&x| {
            let written = whole.columns(at, self.tape.cols(x));
            at += written.cols;
            let (gradient, accumulate) = self.contribute(x);
            Detour { written, gradient, accumulate }
        });
        let detours = detours.collect();
        (whole, detours)
    }

    pub(super) fn finish(&mut self, detours: Vec<Detour>) {
        for Detour { written, gradient, accumulate } in detours {
            if accumulate {
                self.add(gradient, written, gradient);
            } else {
                self.copy(written, gradient);
            }
        }
    }

    /// Takes the gradients of neighbouring values as one matrix, gathered where they lie apart; none where none has any.
    pub(super) fn gather(&mut self, vars: &[Var]) -> Option<View> {
        let taken: Vec<Option<View>> = vars.iter().map(|x| self.grads[x.index()].take()).collect();
        let there: Vec<View> = taken.iter().copied().flatten().collect();
        if there.is_empty() {
            return None;
        }
        let hull = View::hull(&there).filter(|_| there.len() == vars.len());
        if hull.is_some() {
            self.current = hull;
            return hull;
        }
        let cols = vars.iter().map(|&x| self.tape.cols(x)).sum();
        let whole = self.temporary(self.tokens(), cols, self.dtype);
        if there.len() < vars.len() {
            self.p.step("zero", [whole], |on, [g]| g.zero(on.device));
        }
        let mut at = 0;
        for (&x, gradient) in vars.iter().zip(taken) {
            let part = whole.columns(at, self.tape.cols(x));
            at += part.cols;
            if let Some(gradient) = gradient {
                self.copy(gradient, part);
            }
        }
        Some(whole)
    }
}

//! Activation recomputation: stretches of a tape whose values are dropped in the forward pass and made again in the backward.
//!
//! A tape is cut where a single value is still to be read: in a Transformer the residual stream, before and after each mixer and
//! each MLP. That value is kept; whatever else a stretch has made is made again, by the same launches on the same operands and so
//! to the same bits, right before the stretch runs backward. A step then costs one more forward pass, and its memory is one
//! value a cut and the activations of the largest stretch.

use super::groups::{Group, Groups};
use super::lower::Lower;
use crate::op::Op;
use crate::tape::Tape;

/// The ops of a stretch that run again before its last op, `end - 1`, runs backward.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Segment {
    pub(super) end: usize,
    pub(super) again: Vec<usize>,
}

/// The stretches of a tape that have something to make again, in order. The one that ends in the loss has not: it runs backward at
/// once.
pub(super) fn segments(tape: &Tape, groups: &Groups) -> Vec<Segment> {
    let n = tape.ops().len();
    let last_use = |i: usize| groups.uses[i].iter().copied().max();
    let whole = |cut: usize| {
        groups.iter().all(|Group(members)| members.iter().all(|&i| i < cut) || members.iter().all(|&i| i >= cut))
    };
    let read_after = |cut: usize| (0..cut).filter(|&i| last_use(i).is_some_and(|last| last >= cut)).count();
    let mut cuts: Vec<usize> = (1..n).filter(|&cut| read_after(cut) == 1 && whole(cut)).collect();
    cuts.insert(0, 0);
    let stretches = cuts.windows(2).map(|pair| {
        let (from, end) = (pair[0], pair[1]);
        let inside = |&i: &usize| last_use(i).is_some_and(|last| last < end);
        Segment { end, again: (from..end).filter(inside).collect() }
    });
    stretches.filter(|segment| !segment.again.is_empty()).collect()
}

impl Lower<'_> {
    /// Makes the values of a stretch that ends here again, in buffers of their own: those of the forward pass are free by now.
    pub(super) fn make_again(&mut self, end: usize) {
        let Some(place) = self.segments.iter().position(|segment| segment.end == end) else { return };
        let Segment { again, .. } = self.segments.remove(place);
        for &i in &again {
            self.values[i] = None;
            self.saved[i] = None;
        }
        for &i in &again {
            if self.values[i].is_none() && !matches!(self.tape.ops()[i], Op::CrossEntropy { .. }) {
                self.run(i);
            }
        }
    }
}

//! Where each parameter lies in one flat array.
//!
//! Five parts: parameters whose gradients are f32, first those that decay; then the taps of convolutions, whose gradients the
//! convolution writes in its own element type, again first those that decay; last the biases of loss-free balancing, which no rule
//! trains. The weights of a group of linears, and the generators
//! of a group of convolutions, are neighbours: one matrix to the product or launch that uses them.

use super::groups::{Group, Groups};
use crate::op::{Filter, Op, Param};
use crate::params::{ParamSpec, Params};
use crate::tape::Tape;

/// Elements that every group of parameters starts at a multiple of.
const ALIGN: usize = 64;

struct Run {
    params: Vec<Param>,
    taps: bool,
    padding: usize,
}

/// What tells the parameters of one part from another's: whether they are trained, are taps, and decay.
type Class = (bool, bool, bool);

/// The place of each parameter, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// By parameter.
    pub(super) at: Vec<usize>,
    /// End of the first part: f32 gradients, decaying.
    pub(super) decayed: usize,
    /// Start of the taps.
    pub(super) taps: usize,
    /// End of the third part: taps that decay.
    pub(super) taps_decayed: usize,
    /// End of what is trained: the biases of loss-free balancing come after, what they are moved by after the f32 gradients.
    pub(super) trained: usize,
    /// End of all.
    pub(super) len: usize,
}

impl Layout {
    pub(super) fn new(tape: &Tape, groups: &Groups) -> Self {
        let specs = tape.specs();
        // Runs of parameters that are neighbours, whether they are taps, and elements of padding behind them.
        let mut runs: Vec<Run> = Vec::new();
        for group in groups.iter() {
            let Group(members) = group;
            let ops = members.iter().map(|&i| &tape.ops()[i]);
            let weights = ops.clone().filter_map(|op| if let Op::Linear { w, .. } = op { Some(*w) } else { None });
            let weights: Vec<Param> = weights.collect();
            let inputs = weights.first().map_or(0, |w| specs[w.index()].shape[1]);
            runs.push(Run { params: weights, taps: false, padding: groups.pad_rows(tape, group) * inputs });
            let filters = ops.filter_map(|op| if let Op::ShortConv { filter, .. } = op { Some(*filter) } else { None });
            let generators = |f: Filter| if let Filter::LowRank { u, .. } = f { Some(u) } else { None };
            let static_taps = |f: Filter| match f {
                Filter::Static { w } => Some(w),
                Filter::HeadWise { static_w, .. } | Filter::LowRank { static_w, .. } => static_w,
            };
            runs.push(Run { params: filters.clone().filter_map(generators).collect(), taps: true, padding: 0 });
            runs.push(Run { params: filters.filter_map(static_taps).collect(), taps: true, padding: 0 });
        }
        runs.extend((0..specs.len()).map(|i| Run { params: vec![Param(i)], taps: false, padding: 0 }));

        let mut at: Vec<Option<usize>> = vec![None; specs.len()];
        let parts: [Class; 5] =
            [(true, false, true), (true, false, false), (true, true, true), (true, true, false), (false, false, false)];
        let mut ends = [0; 5];
        let mut end = 0;
        for (part, of) in parts.into_iter().enumerate() {
            for run in runs.iter().filter(|run| class_of(&specs, run) == of) {
                end = usize::next_multiple_of(end, ALIGN);
                for param in &run.params {
                    // A parameter that something before has placed (a tied one) stays there.
                    let place = &mut at[param.index()];
                    if place.is_none() && !(part < 2 && is_tap(&runs, *param)) {
                        *place = Some(end);
                        end += specs[param.index()].numel();
                    }
                }
                end += run.padding;
            }
            end = usize::next_multiple_of(end, ALIGN);
            ends[part] = end;
        }
        let at = at.into_iter().map(|place| place.unwrap_or(end)).collect();
        Self { at, decayed: ends[0], taps: ends[1], taps_decayed: ends[2], trained: ends[3], len: ends[4] }
    }

    /// Every tensor at its place, zeros between.
    pub(super) fn pack(&self, params: &Params) -> Vec<f32> {
        let mut flat = vec![0.0; self.len];
        for (&at, values) in self.at.iter().zip(&params.values) {
            flat[at..at + values.len()].copy_from_slice(values);
        }
        flat
    }

    /// The tensors of a flat array.
    pub(super) fn unpack(&self, specs: std::sync::Arc<[ParamSpec]>, flat: &[f32]) -> Params {
        let values = self.at.iter().zip(specs.iter()).map(|(&at, spec)| flat[at..at + spec.numel()].to_vec()).collect();
        Params { specs, values }
    }
}

fn class_of(specs: &[ParamSpec], run: &Run) -> Class {
    let first = run.params.first().map(|p| &specs[p.index()]);
    let trained = first.is_none_or(|spec| spec.balance.is_none());
    (trained, run.taps, trained && first.is_some_and(|spec| spec.decay))
}

fn is_tap(runs: &[Run], param: Param) -> bool {
    runs.iter().any(|run| run.taps && run.params.contains(&param))
}

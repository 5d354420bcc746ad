//! y, task by task.

use std::ops::Range;

use super::args::{Filter, Output, RowsMut};
use super::lanes::LANES;
use super::low_rank::{GroupedZ, PackedU};
use super::plan::{BLOCK, LOW_RANK_TILE, Plan, TILE, Window, dispatch, run};
use super::scratch::{Scratch, Source};
use super::silu::Silu;
use super::sums::{BEFORE, TapSums};
use super::taps::{Block, HeadTaps, StaticTaps, Taps};

/// At most about this many tasks with a low-rank filter, each of which packs U.
const LOW_RANK_TASKS: usize = 16;

/// Computes `output` from checked arguments.
pub(super) fn forward(plan: &Plan, output: Output) {
    let most = if plan.filter.rank() > 0 { LOW_RANK_TASKS } else { plan.tokens };
    let step = plan.task_tokens(most);
    let tasks = plan.split(output.y, plan.d, step).into_iter().enumerate();
    let tasks = tasks.map(|(i, y)| {
        let tokens = i * step..((i + 1) * step).min(plan.tokens);
        ForwardTask { plan, tokens, y }
    });
    run(tasks.collect(), ForwardTask::run);
    if let Some(state) = output.final_state {
        plan.final_state(state);
    }
}

struct ForwardTask<'a> {
    plan: &'a Plan<'a>,
    tokens: Range<usize>,
    y: RowsMut<'a>,
}

impl ForwardTask<'_> {
    fn run(mut self) {
        let plan = self.plan;
        let (d, width) = (plan.d, plan.width);
        match plan.filter {
            Filter::Static { w } => {
                for tile in plan.tiles(TILE, 1) {
                    self.tile(StaticTaps { w, d, tile: tile.clone() }, tile);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } if head_size.is_multiple_of(LANES) => {
                for tile in plan.tiles(TILE, head_size) {
                    let fixed = StaticTaps::part(static_w, d, &tile);
                    self.tile(HeadTaps { weight, head_size, fixed, width, start: tile.start }, tile);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } => {
                for tile in plan.tiles(TILE, head_size) {
                    let source = Source::Heads { weight, head_size, fixed: StaticTaps::part(static_w, d, &tile) };
                    self.tile(Scratch::new(width, tile.clone(), source), tile);
                }
            }
            Filter::LowRank { z, u, rank, static_w } => {
                let z = &GroupedZ::new(z, rank, self.tokens.clone());
                for tile in plan.tiles(LOW_RANK_TILE, 1) {
                    let u = PackedU::new(u, rank, width, &tile);
                    let source = Source::LowRank { z, u, fixed: StaticTaps::part(static_w, d, &tile) };
                    self.tile(Scratch::new(width, tile.clone(), source), tile);
                }
            }
        }
    }

    /// Writes y of the task's tokens in a tile.
    fn tile(&mut self, mut taps: impl Taps, tile: Range<usize>) {
        let plan = self.plan;
        let mut rows = self.y.data.chunks_mut(self.y.stride);
        for start in self.tokens.clone().step_by(BLOCK) {
            let mut left = start..(start + BLOCK).min(self.tokens.end);
            taps.prepare(plan.arch, &Block { tokens: left.clone(), after: 0, newest: true });
            while !left.is_empty() {
                let count = plan.together(&left);
                let mut y: [&mut [f32]; BLOCK] = Default::default();
                for (y, row) in y[..count].iter_mut().zip(&mut rows) {
                    *y = &mut row[tile.clone()];
                }
                group(plan, &taps, left.start, &tile, &mut y[..count]);
                left.start += count;
            }
        }
    }
}

/// Writes y of a few tokens of one sequence in a tile.
fn group(plan: &Plan, taps: &impl Taps, token: usize, tile: &Range<usize>, y: &mut [&mut [f32]]) {
    let mut window = Window::default();
    let window = plan.x_window(token, y.len(), tile, &mut window);
    let x = plan.options.residual.then_some(&window[plan.width - 1..]);
    let (ks, silu) = (0..plan.width, plan.options.silu);
    let extra = if silu { None } else { x };
    dispatch(plan.arch, TapSums::<_, BEFORE> { taps, token, ks, window, extra, out: y });
    if silu {
        dispatch(plan.arch, Silu { rows: y, x });
    }
}

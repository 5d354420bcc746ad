//! y, task by task.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::args::{Filter, Output, RowsMut};
use super::lanes::{add_mul, load, store};
use super::low_rank::{pack_u, pack_z};
use super::plan::{BLOCK, GROUP, PACKED_TILE, Plan, TILE, run};
use super::scratch::SpreadTaps;
use super::silu::{silu, silu_residual};
use super::taps::{Block, HeadTaps, LowRankTaps, StaticTaps, Taps, UnpackedTaps};

/// Computes `output` from checked arguments.
pub(super) fn forward(plan: &Plan, output: Output) {
    let packed_u = match plan.filter {
        Filter::LowRank { u, rank, .. } if plan.tokens >= GROUP => pack_u(plan, u, rank),
        _ => Vec::new(),
    };
    let step = plan.task_tokens(usize::MAX);
    let tasks = plan.split(output.y, plan.d, step).into_iter().enumerate();
    let tasks = tasks.map(|(i, y)| {
        let tokens = i * step..((i + 1) * step).min(plan.tokens);
        ForwardTask { plan, packed_u: &packed_u, tokens, y }
    });
    run(tasks.collect());
    if let Some(state) = output.final_state {
        plan.final_state(state);
    }
}

struct ForwardTask<'a> {
    plan: &'a Plan<'a>,
    packed_u: &'a [f32],
    tokens: Range<usize>,
    y: RowsMut<'a>,
}

impl WithSimd for ForwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let (plan, first) = (self.plan, self.tokens.start);
        let (d, width) = (plan.d, plan.width);
        match plan.filter {
            Filter::Static { w } => {
                for tile in plan.tiles(TILE, 1) {
                    self.tile(s, StaticTaps { w, d, tile: tile.clone() }, tile);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } if head_size % S::F32_LANES == 0 => {
                for tile in plan.tiles(TILE, head_size) {
                    self.tile(s, HeadTaps { weight, head_size, static_w, d, width, tile: tile.clone() }, tile);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } => {
                for tile in plan.tiles(PACKED_TILE, head_size) {
                    self.tile(s, SpreadTaps::new(weight, head_size, static_w, d, width, tile.clone()), tile);
                }
            }
            Filter::LowRank { z, u, rank, static_w } if self.packed_u.is_empty() => {
                for tile in plan.tiles(TILE, 1) {
                    self.tile(s, UnpackedTaps { z, u, rank, static_w, d, width, tile: tile.clone() }, tile);
                }
            }
            Filter::LowRank { z, rank, static_w, .. } => {
                let (u, z) = (self.packed_u, &pack_z(z, rank, self.tokens.clone())[..]);
                for tile in plan.tiles(PACKED_TILE, 1) {
                    self.tile(s, LowRankTaps { z, u, rank, static_w, d, width, first, tile: tile.clone() }, tile);
                }
            }
        }
    }
}

impl ForwardTask<'_> {
    /// Writes y of the task's tokens in a tile.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, s: S, mut taps: impl Taps, tile: Range<usize>) {
        let mut rows = self.y.data.chunks_mut(self.y.stride);
        let mut next = || &mut rows.next().expect("one row per token")[tile.clone()];
        for start in self.tokens.clone().step_by(BLOCK) {
            let tokens = start..(start + BLOCK).min(self.tokens.end);
            taps.prepare(s, &Block { tokens: tokens.clone(), after: 0, newest: true });
            let mut token = start;
            while token + GROUP <= tokens.end {
                let y: [_; GROUP] = std::array::from_fn(|_| next());
                group(s, self.plan, &taps, token, &tile, y);
                token += GROUP;
            }
            while token < tokens.end {
                group(s, self.plan, &taps, token, &tile, [next()]);
                token += 1;
            }
        }
    }
}

/// Writes y of `N` tokens in a tile.
#[inline(always)]
fn group<S: Simd, const N: usize>(
    s: S,
    plan: &Plan,
    taps: &impl Taps,
    token: usize,
    tile: &Range<usize>,
    mut y: [&mut [f32]; N],
) {
    let options = plan.options;
    convolution(s, plan, taps, token, tile, options.residual && !options.silu, &mut y);
    if options.silu {
        for (i, y) in y.into_iter().enumerate() {
            if options.residual {
                silu_residual(y, plan.x.row(token + i, tile.clone()));
            } else {
                silu(y);
            }
        }
    }
}

/// sum_k taps[k] * x[t - k] (+ x[t]) of `N` tokens in a tile.
#[inline(always)]
pub(super) fn convolution<S: Simd, const N: usize>(
    s: S,
    plan: &Plan,
    taps: &impl Taps,
    token: usize,
    tile: &Range<usize>,
    residual: bool,
    out: &mut [&mut [f32]; N],
) {
    let x = plan.x_rows::<N>(token, tile);
    for i in (0..tile.len()).step_by(S::F32_LANES) {
        let mut sum = [s.splat_f32s(0.0); N];
        for k in 0..plan.width {
            let taps = taps.taps::<S, N>(s, token, k, i);
            for n in 0..N {
                sum[n] = add_mul(s, sum[n], taps[n], load(s, x[n][k], i));
            }
        }
        for n in 0..N {
            let value = if residual { s.add_f32s(sum[n], load(s, x[n][0], i)) } else { sum[n] };
            store(s, out[n], i, value);
        }
    }
}

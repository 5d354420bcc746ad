//! All gradients, task by task.
//!
//! With g[t] = dy[t] act'(conv(x)[t]): dx[t] = sum_k taps[t+k][k] g[t+k] within the sequence (+ dy[t] with the
//! residual), and the gradient of tap k of token t is g[t] x[t-k]. A task walks its blocks of tokens from the last to
//! the first, so that the W - 1 tokens after a block, whose taps and g its dx needs, were just computed.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::args::{Filter, FilterGrad, InputGrad, OutputGrad, Rows, RowsMut};
use super::forward::convolution;
use super::lanes::{add_mul, load, store};
use super::low_rank::{Products, pack_u, pack_z, pad_z, transpose_u};
use super::partials;
use super::plan::{BLOCK, GROUP, PACKED_TILE, Plan, TILE, run};
use super::scratch::{KeptTaps, ROWS, SpreadTaps};
use super::silu::silu_grad;
use super::tap_grads::{add_static, dweight};
use super::taps::{Block, HeadTaps, LowRankTaps, StaticTaps, Taps};

/// At most about this many tasks, each with a dU of its own, with a low-rank filter.
const LOW_RANK_TASKS: usize = 16;
/// At most about this many tasks, each with a dstatic_w of its own, with the others.
const TASKS: usize = 64;

/// Computes `grad` from checked arguments.
pub(super) fn backward(plan: &Plan, output: OutputGrad, grad: InputGrad) {
    let (taps, rank) = (plan.width * plan.d, plan.filter.rank());
    let step = plan.task_tokens(if rank > 0 { LOW_RANK_TASKS } else { TASKS });
    let tasks = plan.tokens.div_ceil(step);
    let (dweight, dz, du, dstatic_w) = match grad.filter {
        FilterGrad::Static { dw } => (None, None, None, Some(dw)),
        FilterGrad::HeadWise { dweight, dstatic_w } => (Some(dweight), None, None, dstatic_w),
        FilterGrad::LowRank { dz, du, dstatic_w } => (None, Some(dz), Some(du), dstatic_w),
    };
    let (packed_u, transposed_u) = match plan.filter {
        Filter::LowRank { u, .. } => (pack_u(plan, u, rank), transpose_u(plan, u, rank)),
        _ => (Vec::new(), Vec::new()),
    };
    let mut du_parts = vec![0.0; tasks * rank * taps];
    let mut dstatic_parts = vec![0.0; if dstatic_w.is_some() { tasks * taps } else { 0 }];

    let columns = plan.d / plan.filter.head_size() * plan.width;
    let mut dweight = dweight.map(|rows| plan.split(rows, columns, step).into_iter());
    let mut dz = dz.map(|rows| plan.split(rows, rank, step).into_iter());
    let mut du_part = du_parts.chunks_exact_mut((rank * taps).max(1));
    let mut dstatic_part = dstatic_parts.chunks_exact_mut(taps);
    let mut dinitial = grad.dinitial_state;
    let sequences = plan.bounds.len() - 1;
    let mut first_sequence = 0;
    let mut list = Vec::with_capacity(tasks);
    for (i, dx) in plan.split(grad.dx, plan.d, step).into_iter().enumerate() {
        let tokens = i * step..((i + 1) * step).min(plan.tokens);
        let starting = plan.bounds[..sequences].partition_point(|&start| start < tokens.end);
        let end_sequence = if i + 1 == tasks { sequences } else { starting };
        let dinitial_state = dinitial.take().map(|state| {
            let (head, tail) = state.split_at_mut((end_sequence - first_sequence) * (plan.width - 1) * plan.d);
            dinitial = Some(tail);
            head
        });
        list.push(BackwardTask {
            plan,
            dy: output.dy,
            dfinal_state: output.dfinal_state,
            packed_u: &packed_u,
            transposed_u: &transposed_u,
            tokens,
            sequences: first_sequence..end_sequence,
            dx,
            dinitial_state,
            dweight: dweight.as_mut().and_then(Iterator::next),
            dz: dz.as_mut().and_then(Iterator::next),
            du: du_part.next(),
            dstatic_w: dstatic_part.next(),
        });
        first_sequence = end_sequence;
    }
    run(list);
    if let Some(du) = du {
        partials::sum(&du_parts, du);
    }
    if let Some(dstatic_w) = dstatic_w {
        partials::sum(&dstatic_parts, dstatic_w);
    }
}

struct BackwardTask<'a> {
    plan: &'a Plan<'a>,
    dy: Rows<'a>,
    dfinal_state: Option<&'a [f32]>,
    packed_u: &'a [f32],
    transposed_u: &'a [f32],
    tokens: Range<usize>,
    /// The sequences that start in `tokens`; for the last task also the empty ones after them.
    sequences: Range<usize>,
    dx: RowsMut<'a>,
    /// Of `sequences`.
    dinitial_state: Option<&'a mut [f32]>,
    dweight: Option<RowsMut<'a>>,
    dz: Option<RowsMut<'a>>,
    /// This task's part.
    du: Option<&'a mut [f32]>,
    /// This task's part.
    dstatic_w: Option<&'a mut [f32]>,
}

/// g of a range of tokens in a tile.
struct Cotangent<'a> {
    rows: Rows<'a>,
    /// The token of row 0.
    first: usize,
    columns: Range<usize>,
}

impl Cotangent<'_> {
    #[inline(always)]
    fn row(&self, token: usize) -> &[f32] {
        self.rows.row(token - self.first, self.columns.clone())
    }
}

impl WithSimd for BackwardTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let plan = self.plan;
        let (d, width) = (plan.d, plan.width);
        match plan.filter {
            Filter::Static { w } => {
                for tile in plan.tiles(TILE, 1) {
                    self.tile(s, &mut StaticTaps { w, d, tile: tile.clone() }, &tile, None);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } if head_size % S::F32_LANES == 0 => {
                for tile in plan.tiles(TILE, head_size) {
                    let mut taps = HeadTaps { weight, head_size, static_w, d, width, tile: tile.clone() };
                    self.tile(s, &mut taps, &tile, None);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } => {
                for tile in plan.tiles(PACKED_TILE, head_size) {
                    let mut taps = SpreadTaps::new(weight, head_size, static_w, d, width, tile.clone());
                    self.tile(s, &mut taps, &tile, None);
                }
            }
            Filter::LowRank { z, rank, static_w, .. } => {
                let (u, first) = (self.packed_u, self.tokens.start);
                let end = (self.tokens.end + GROUP).min(plan.tokens);
                let z_of_groups = pack_z(z, rank, first..end);
                let z_of_rows = pad_z(z, rank, self.tokens.clone());
                for tile in plan.tiles(PACKED_TILE, 1) {
                    let taps = LowRankTaps { z: &z_of_groups, u, rank, static_w, d, width, first, tile: tile.clone() };
                    let mut products = Products::new(tile.len(), width, rank);
                    self.tile(s, &mut KeptTaps::new(taps, end), &tile, Some((&mut products, &z_of_rows)));
                    if let Some(du) = &mut self.du {
                        products.write_du(plan, du, &tile);
                    }
                }
            }
        }
    }
}

impl BackwardTask<'_> {
    /// All gradients of the task's tokens in a tile. `low_rank` is the tile's products and the tokens' padded z.
    #[inline(always)]
    fn tile<S: Simd>(
        &mut self,
        s: S,
        taps: &mut impl Taps,
        tile: &Range<usize>,
        mut low_rank: Option<(&mut Products, &[f32])>,
    ) {
        let plan = self.plan;
        // With the activation, g of the block and the tokens after it.
        let mut buffer = if plan.options.silu { vec![0.0; ROWS * tile.len()] } else { Vec::new() };
        for start in self.tokens.clone().step_by(BLOCK).rev() {
            let end = (start + BLOCK).min(self.tokens.end);
            let after = (plan.width - 1).min(plan.tokens - end);
            let block = Block { tokens: start..end, after, newest: end == self.tokens.end };
            taps.prepare(s, &block);
            let mut g = Cotangent { rows: self.dy, first: 0, columns: tile.clone() };
            if plan.options.silu {
                self.cotangent(s, taps, &block, tile, &mut buffer);
                g = Cotangent { rows: Rows::packed(&buffer, tile.len()), first: start, columns: 0..tile.len() };
            }
            let mut token = start;
            while token + GROUP <= end {
                self.group::<S, GROUP>(s, taps, &g, token, tile, &mut low_rank, token - start);
                token += GROUP;
            }
            while token < end {
                self.group::<S, 1>(s, taps, &g, token, tile, &mut low_rank, token - start);
                token += 1;
            }
            self.initial_state(s, taps, &g, &block, tile);
            if let Some((products, z)) = &mut low_rank {
                let row = start - self.tokens.start;
                products.add_du(s, z, row, end - start);
                if let Some(dz) = &mut self.dz {
                    products.dz(s, self.transposed_u, tile, row, end - start, dz);
                }
            }
        }
    }

    /// g = dy silu'(conv(x)) of a block and the tokens after it.
    #[inline(always)]
    fn cotangent<S: Simd>(&self, s: S, taps: &impl Taps, block: &Block, tile: &Range<usize>, buffer: &mut [f32]) {
        let (plan, len) = (self.plan, tile.len());
        if !block.newest {
            buffer.copy_within(0..block.after * len, block.tokens.len() * len);
        }
        let fresh = block.fresh();
        let mut rows = buffer.chunks_exact_mut(len);
        let mut next = || rows.next().expect("one row per token");
        let mut token = fresh.start;
        while token + GROUP <= fresh.end {
            let mut out: [_; GROUP] = std::array::from_fn(|_| next());
            convolution(s, plan, taps, token, tile, false, &mut out);
            for (i, out) in out.into_iter().enumerate() {
                silu_grad(out, self.dy.row(token + i, tile.clone()));
            }
            token += GROUP;
        }
        while token < fresh.end {
            let mut out = [next()];
            convolution(s, plan, taps, token, tile, false, &mut out);
            silu_grad(out[0], self.dy.row(token, tile.clone()));
            token += 1;
        }
    }

    /// dx and the gradients of the taps of `N` tokens in a tile.
    #[inline(always)]
    fn group<S: Simd, const N: usize>(
        &mut self,
        s: S,
        taps: &impl Taps,
        g: &Cotangent,
        token: usize,
        tile: &Range<usize>,
        low_rank: &mut Option<(&mut Products, &[f32])>,
        block_row: usize,
    ) {
        let plan = self.plan;
        let (first, stride) = (token - self.tokens.start, self.dx.stride);
        let mut dx = self.dx.data.chunks_mut(stride).skip(first).map(|row| &mut row[tile.clone()]);
        let mut dx: [_; N] = std::array::from_fn(|_| dx.next().expect("one row per token"));
        let residual = plan.options.residual.then_some((self.dy, tile.start));
        if plan.places[token..token + N].iter().all(|place| place.left >= plan.width) {
            gather(s, taps, g, token, 0..plan.width, residual, &mut dx);
        } else {
            for (i, dx) in dx.into_iter().enumerate() {
                let place = plan.places[token + i];
                gather(s, taps, g, token + i, 0..plan.width.min(place.left), residual, &mut [&mut *dx]);
                if place.left < plan.width {
                    let j = plan.width - 1 - place.left;
                    add_final_state(plan, self.dfinal_state, place.sequence, j, tile, dx);
                }
            }
        }

        let x = plan.x_rows::<N>(token, tile);
        let g: [_; N] = std::array::from_fn(|n| g.row(token + n));
        if let Some(dw) = &mut self.dstatic_w {
            add_static(s, dw, plan.d, tile.start, &g, &x);
        }
        if let Some(rows) = &mut self.dweight {
            let (width, size) = (plan.width, plan.filter.head_size());
            for n in 0..N {
                let row =
                    &mut rows.data[(first + n) * rows.stride..][tile.start / size * width..tile.end / size * width];
                dweight(s, row, width, size, g[n], &x[n]);
            }
        }
        if let Some((products, _)) = low_rank {
            products.fill(s, block_row, &g, &x);
        }
    }

    /// Gradients of the initial states of the sequences that start in the block.
    #[inline(always)]
    fn initial_state<S: Simd>(&mut self, s: S, taps: &impl Taps, g: &Cotangent, block: &Block, tile: &Range<usize>) {
        let (plan, rows) = (self.plan, self.plan.width - 1);
        let Some(state) = self.dinitial_state.take() else { return };
        for (i, sequence) in self.sequences.clone().enumerate() {
            let (start, end) = (plan.bounds[sequence], plan.bounds[sequence + 1]);
            // Empty sequences after the last token belong to the last block.
            let here = block.tokens.contains(&start) || (block.newest && start == block.tokens.end);
            if !here {
                continue;
            }
            for j in 0..rows {
                let row = &mut state[(i * rows + j) * plan.d..][tile.clone()];
                // The state's row j is the input W - 1 - j before the first token, and meets it in that tap.
                let taps_of_row = rows - j..plan.width.min(rows - j + end - start);
                gather(s, taps, g, start, taps_of_row, None, &mut [&mut *row]);
                if let Some(j) = j.checked_sub(end - start) {
                    add_final_state(plan, self.dfinal_state, sequence, j, tile, row);
                }
            }
        }
        self.dinitial_state = Some(state);
    }
}

/// Adds the gradient of row `j` of a sequence's final state.
#[inline(always)]
fn add_final_state(
    plan: &Plan,
    state: Option<&[f32]>,
    sequence: usize,
    j: usize,
    tile: &Range<usize>,
    out: &mut [f32],
) {
    if let Some(state) = state {
        let row = &state[(sequence * (plan.width - 1) + j) * plan.d..][tile.clone()];
        for (out, row) in out.iter_mut().zip(row) {
            *out += row;
        }
    }
}

/// out = sum of taps[t + k - first tap][k] g[t + k - first tap] over the `ks` (+ dy) of `N` rows from token t on: the
/// gradient of the input that meets token t in the first tap.
#[inline(always)]
fn gather<S: Simd, const N: usize>(
    s: S,
    taps: &impl Taps,
    g: &Cotangent,
    token: usize,
    ks: Range<usize>,
    residual: Option<(Rows, usize)>,
    out: &mut [&mut [f32]; N],
) {
    let len = out[0].len();
    for i in (0..len).step_by(S::F32_LANES) {
        let mut sum = [s.splat_f32s(0.0); N];
        if let Some((dy, start)) = residual {
            sum = std::array::from_fn(|n| load(s, dy.row(token + n, start..start + len), i));
        }
        for k in ks.clone() {
            let from = token + k - ks.start;
            let taps = taps.taps::<S, N>(s, from, k, i);
            for n in 0..N {
                sum[n] = add_mul(s, sum[n], taps[n], load(s, g.row(from + n), i));
            }
        }
        for n in 0..N {
            store(s, out[n], i, sum[n]);
        }
    }
}

//! All gradients, task by task.
//!
//! With g[t] = dy[t] act'(conv(x)[t]): dx[t] = sum_k taps[t+k][k] g[t+k] within the sequence (+ dy[t] with the
//! residual), and the gradient of tap k of token t is g[t] x[t-k]. A task walks its blocks of tokens from the last to
//! the first, so that the W - 1 tokens after a block, whose taps and g its dx needs, were just computed.

use std::ops::Range;

use super::args::{Filter, FilterGrad, InputGrad, OutputGrad, Rows, RowsMut};
use super::cotangent::Cotangent;
use super::lanes::LANES;
use super::low_rank::{GroupedZ, PackedU};
use super::plan::{BLOCK, GROUP, LOW_RANK_TILE, Place, Plan, TILE, Window, dispatch, run, sum_parts};
use super::products::{Products, pad_z, transpose_u};
use super::scratch::{ROWS, Scratch, Source};
use super::sums::{AFTER, TapSums};
use super::tap_grads::{HeadGrad, StaticGrad};
use super::taps::{Block, HeadTaps, StaticTaps, Taps};

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
    let transposed_u = match plan.filter {
        Filter::LowRank { u, .. } => transpose_u(u, rank, plan.width),
        _ => Vec::new(),
    };
    let mut du_parts = vec![0.0; tasks * rank * taps];
    let mut dstatic_parts = vec![0.0; if dstatic_w.is_some() { tasks * taps } else { 0 }];

    let columns = plan.d / plan.filter.head_size() * plan.width;
    let mut dweight = dweight.map(|rows| plan.split(rows, columns, step).into_iter());
    let mut dz = dz.map(|rows| plan.split(rows, rank, step).into_iter());
    let mut du_part = du_parts.chunks_exact_mut((rank * taps).max(1));
    let mut dstatic_part = dstatic_parts.chunks_exact_mut(taps);
    let mut dinitial = grad.dinitial_state;
    let sequences = plan.seqs.count();
    let mut first_sequence = 0;
    let mut list = Vec::with_capacity(tasks);
    for (i, dx) in plan.split(grad.dx, plan.d, step).into_iter().enumerate() {
        let tokens = i * step..((i + 1) * step).min(plan.tokens);
        let end_sequence = if i + 1 == tasks { sequences } else { plan.seqs.starting_before(tokens.end) };
        let dinitial_state = dinitial.take().map(|state| {
            let (head, tail) = state.split_at_mut((end_sequence - first_sequence) * (plan.width - 1) * plan.d);
            dinitial = Some(tail);
            head
        });
        list.push(BackwardTask {
            plan,
            dy: output.dy,
            dfinal_state: output.dfinal_state,
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
    run(list, BackwardTask::run);
    if let Some(du) = du {
        sum_parts(&du_parts, du);
    }
    if let Some(dstatic_w) = dstatic_w {
        sum_parts(&dstatic_parts, dstatic_w);
    }
}

struct BackwardTask<'a> {
    plan: &'a Plan<'a>,
    dy: Rows<'a>,
    dfinal_state: Option<&'a [f32]>,
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

impl BackwardTask<'_> {
    fn run(mut self) {
        let plan = self.plan;
        let (d, width) = (plan.d, plan.width);
        match plan.filter {
            Filter::Static { w } => {
                for tile in plan.tiles(TILE, 1) {
                    self.tile(StaticTaps { w, d, tile: tile.clone() }, &tile, None);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } if head_size.is_multiple_of(LANES) => {
                for tile in plan.tiles(TILE, head_size) {
                    let fixed = StaticTaps::part(static_w, d, &tile);
                    self.tile(HeadTaps { weight, head_size, fixed, width, start: tile.start }, &tile, None);
                }
            }
            Filter::HeadWise { weight, head_size, static_w } => {
                for tile in plan.tiles(TILE, head_size) {
                    let source = Source::Heads { weight, head_size, fixed: StaticTaps::part(static_w, d, &tile) };
                    self.tile(Scratch::new(width, tile.clone(), source), &tile, None);
                }
            }
            Filter::LowRank { z, u, rank, static_w } => {
                // A whole group of the tokens after the task is as cheap as one.
                let end = (self.tokens.end + GROUP).min(plan.tokens);
                let z_rows = pad_z(z, rank, self.tokens.clone());
                let z = &GroupedZ::new(z, rank, self.tokens.start..end);
                for tile in plan.tiles(LOW_RANK_TILE, 1) {
                    let mut products = Products::new(rank, width, tile.clone(), &z_rows, self.transposed_u);
                    let u = PackedU::new(u, rank, width, &tile);
                    let source = Source::LowRank { z, u, fixed: StaticTaps::part(static_w, d, &tile) };
                    self.tile(Scratch::new(width, tile.clone(), source), &tile, Some(&mut products));
                    if let Some(du) = &mut self.du {
                        products.write_du(d, du);
                    }
                }
            }
        }
    }

    /// All gradients of the task's tokens in a tile.
    fn tile(&mut self, mut taps: impl Taps, tile: &Range<usize>, mut products: Option<&mut Products>) {
        let plan = self.plan;
        // With the activation, g of the block and the tokens after it.
        let mut buffer = if plan.options.silu { vec![0.0; ROWS * tile.len()] } else { Vec::new() };
        for start in self.tokens.clone().step_by(BLOCK).rev() {
            let end = (start + BLOCK).min(self.tokens.end);
            let after = (plan.width - 1).min(plan.tokens - end);
            let block = Block { tokens: start..end, after, newest: end == self.tokens.end };
            taps.prepare(plan.arch, &block);
            let g = if plan.options.silu {
                Cotangent::through_silu(plan, self.dy, &taps, &block, tile, &mut buffer)
            } else {
                Cotangent { rows: self.dy, first: 0, columns: tile.clone() }
            };
            let mut left = block.tokens.clone();
            while !left.is_empty() {
                let tokens = left.start..left.start + plan.together(&left);
                self.input_grad(&taps, &g, tokens.clone(), tile);
                self.tap_grad(&g, tokens.clone(), tile, products.as_deref_mut(), tokens.start - start);
                left.start = tokens.end;
            }
            self.initial_state(&taps, &g, &block, tile);
            if let (Some(products), Some(dz)) = (&mut products, &mut self.dz) {
                products.add(plan.arch, start - self.tokens.start, end - start, dz);
            }
        }
    }

    /// dx of a few tokens of one sequence in a tile.
    fn input_grad(&mut self, taps: &impl Taps, g: &Cotangent, tokens: Range<usize>, tile: &Range<usize>) {
        let (plan, width, token) = (self.plan, self.plan.width, tokens.start);
        let mut dx: [&mut [f32]; BLOCK] = Default::default();
        let rows = self.dx.data.chunks_mut(self.dx.stride).skip(token - self.tokens.start);
        dx[..tokens.len()].iter_mut().zip(rows).for_each(|(dx, row)| *dx = &mut row[tile.clone()]);
        let mut dy = [&[][..]; BLOCK];
        dy[..tokens.len()].iter_mut().enumerate().for_each(|(i, dy)| *dy = self.dy.row(token + i, tile.clone()));

        // The tokens that meet all taps, then those whose last taps are past the end of the sequence.
        let Place { sequence, left, .. } = plan.places[token];
        let whole = tokens.len().min((left + 1).saturating_sub(width));
        let rest = (whole..tokens.len()).map(|i| (i..i + 1, width.min(left - i)));
        for (at, taps_left) in (whole > 0).then_some((0..whole, width)).into_iter().chain(rest) {
            let (token, out) = (token + at.start, &mut dx[at.clone()]);
            let mut window = Window::default();
            let window = g.window(token, at.len() + taps_left - 1, &mut window);
            let extra = plan.options.residual.then_some(&dy[at.clone()]);
            dispatch(plan.arch, TapSums::<_, AFTER> { taps, token, ks: 0..taps_left, window, extra, out });
        }
        for i in whole..tokens.len() {
            if left - i < width {
                add_final_state(plan, self.dfinal_state, sequence, width - 1 - (left - i), tile, dx[i]);
            }
        }
    }

    /// Gradients of the taps of a few tokens of one sequence in a tile.
    fn tap_grad(
        &mut self,
        g: &Cotangent,
        tokens: Range<usize>,
        tile: &Range<usize>,
        products: Option<&mut Products>,
        block_row: usize,
    ) {
        let (plan, arch, width) = (self.plan, self.plan.arch, self.plan.width);
        let (token, count) = (tokens.start, tokens.len());
        let (mut window, mut rows) = (Window::default(), Window::default());
        let window = plan.x_window(token, count, tile, &mut window);
        let g = g.window(token, count, &mut rows);
        if let Some(dw) = &mut self.dstatic_w {
            dispatch(arch, StaticGrad { dw, width, start: tile.start, g, window });
        }
        if let Some(rows) = &mut self.dweight {
            let (head_size, stride) = (plan.filter.head_size(), rows.stride);
            let first = (token - self.tokens.start) * stride + tile.start / head_size * width;
            dispatch(arch, HeadGrad { dweight: &mut rows.data[first..], stride, width, head_size, g, window });
        }
        if let Some(products) = products {
            products.fill(arch, block_row, g, window);
        }
    }

    /// Gradients of the initial states of the sequences that start in the block.
    fn initial_state(&mut self, taps: &impl Taps, g: &Cotangent, block: &Block, tile: &Range<usize>) {
        let (plan, rows) = (self.plan, self.plan.width - 1);
        let Some(state) = &mut self.dinitial_state else {
            return;
        };
        for (i, sequence) in self.sequences.clone().enumerate() {
            let Range { start, end } = plan.seqs.span(sequence);
            // Empty sequences after the last token belong to the last block.
            let here = block.tokens.contains(&start) || (block.newest && start == block.tokens.end);
            if !here {
                continue;
            }
            for j in 0..rows {
                let row = &mut state[(i * rows + j) * plan.d..][tile.clone()];
                // The state's row j is the input W - 1 - j before the first token, and meets it in that tap.
                let ks = rows - j..plan.width.min(rows - j + end - start);
                let mut window = Window::default();
                let window = g.window(start, ks.len(), &mut window);
                let out = &mut [&mut *row];
                dispatch(plan.arch, TapSums::<_, AFTER> { taps, token: start, ks, window, extra: None, out });
                if let Some(j) = j.checked_sub(end - start) {
                    add_final_state(plan, self.dfinal_state, sequence, j, tile, row);
                }
            }
        }
    }
}

/// Adds the gradient of row `j` of a sequence's final state.
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
        out.iter_mut().zip(row).for_each(|(out, row)| *out += row);
    }
}

//! A lowered tape: launches in order over matrices whose places are planned before anything is allocated.
//!
//! A [`View`] names a matrix by the memory it lies in ([`Home`]) and its place there. Buffers of the work memory live from the
//! first step that touches them to the last, and those that never live together share the same bytes ([`place`]).

use std::collections::HashMap;

use kernels::cuda::matmul::Matmul;
use kernels::cuda::{CudaResult, Device, Dtype, Tensor};

/// The memories of a backend. Work is shared out by [`place`], the others are laid out by their owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Home {
    /// A buffer of this program's work memory.
    Work(usize),
    /// All parameters, f32.
    Values,
    /// All parameters in the element type of activations, where that is not f32.
    Copy,
    /// Gradients of parameters, f32.
    Gradients,
    /// Gradients of the taps of convolutions, in the element type.
    TapGradients,
    /// What the host sends with each batch, 4 bytes each.
    Inputs,
    /// What it reads back, 4 bytes each.
    Outputs,
    /// Rotary tables, f32.
    Tables,
}

/// A row-major matrix in one of the memories.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct View {
    pub(super) home: Home,
    /// Elements from the start of its home (of its buffer, for work).
    pub(super) at: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    pub(super) dtype: Dtype,
}

impl View {
    /// Columns `from..from + cols`.
    pub(super) fn columns(self, from: usize, cols: usize) -> Self {
        Self { at: self.at + from, cols, ..self }
    }

    /// Rows `from..from + rows`.
    pub(super) fn rows(self, from: usize, rows: usize) -> Self {
        Self { at: self.at + from * self.stride, rows, ..self }
    }

    /// The one matrix that these neighbouring blocks of columns make up, if they do.
    pub(super) fn hull(blocks: &[View]) -> Option<View> {
        let first = *blocks.first()?;
        let mut cols = first.cols;
        for block in &blocks[1..] {
            if *block != (View { at: first.at + cols, cols: block.cols, ..first }) {
                return None;
            }
            cols += block.cols;
        }
        Some(View { cols, ..first })
    }
}

/// What a step runs on.
#[derive(Debug, Clone, Copy)]
pub(super) struct On<'a> {
    pub(super) device: &'a Device,
    pub(super) matmul: &'a Matmul,
}

type Run = Box<dyn Fn(On<'_>, &[Tensor]) -> CudaResult<()>>;

/// Launches that belong together, and every matrix they touch.
pub(super) struct Step {
    /// For profiles: `attention`, `linear dw`.
    pub(super) name: &'static str,
    pub(super) views: Vec<View>,
    pub(super) run: Run,
}

/// A buffer of the work memory.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    bytes: usize,
    /// Whether it lives through the whole program.
    kept: bool,
}

/// Steps over work buffers.
#[derive(Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    buffers: Vec<Buffer>,
}

impl Program {
    /// A work buffer for `[rows, cols]`; rows start at multiples of 8 elements.
    pub(super) fn buffer(&mut self, rows: usize, cols: usize, dtype: Dtype, kept: bool) -> View {
        let stride = cols.next_multiple_of(8);
        self.buffers.push(Buffer { bytes: rows * stride * dtype.bytes(), kept });
        View { home: Home::Work(self.buffers.len() - 1), at: 0, rows, cols, stride, dtype }
    }

    /// A buffer as large as another: for the gradient of what that one holds.
    pub(super) fn twin(&mut self, buffer: usize) -> usize {
        let bytes = self.buffers[buffer].bytes;
        self.buffers.push(Buffer { bytes, kept: false });
        self.buffers.len() - 1
    }

    /// Appends a step; `run` is handed the matrices of `views`, in order.
    pub(super) fn step<const K: usize>(
        &mut self,
        name: &'static str,
        views: [View; K],
        run: impl Fn(On<'_>, [&Tensor; K]) -> CudaResult<()> + 'static,
    ) {
        let run = Box::new(move |on: On<'_>, tensors: &[Tensor]| run(on, std::array::from_fn(|i| &tensors[i])));
        self.steps.push(Step { name, views: views.to_vec(), run });
    }

    /// Bytes of all work buffers, were each to lie alone.
    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(|b| b.bytes).sum()
    }

    /// First bytes of the work buffers in one memory, and the size of that memory.
    pub(super) fn place(&self) -> (Vec<usize>, usize) {
        let mut lives: HashMap<usize, (usize, usize)> = HashMap::new();
        for (i, step) in self.steps.iter().enumerate() {
            for view in &step.views {
                if let Home::Work(buffer) = view.home {
                    let life = lives.entry(buffer).or_insert((i, i));
                    life.1 = i;
                }
            }
        }
        let spans = self.buffers.iter().enumerate().map(|(i, buffer)| {
            let life = lives.get(&i).copied();
            let (from, to) = if buffer.kept { (0, self.steps.len()) } else { life.unwrap_or((0, 0)) };
            Span { bytes: buffer.bytes, from, to }
        });
        place(&spans.collect::<Vec<_>>())
    }
}

/// Bytes needed from one step to another, both included.
#[derive(Debug, Clone, Copy)]
struct Span {
    bytes: usize,
    from: usize,
    to: usize,
}

/// Bytes that every buffer starts at a multiple of.
const ALIGN: usize = 256;

/// Places spans in one memory, the largest first, each at the lowest place that no span of its time overlaps.
fn place(spans: &[Span]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(spans[i].bytes), i));
    let (mut at, mut size) = (vec![0; spans.len()], 0);
    let mut placed: Vec<usize> = Vec::new();
    for i in order {
        let span = spans[i];
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| spans[j].from <= span.to && span.from <= spans[j].to)
            .map(|&j| (at[j], at[j] + spans[j].bytes))
            .collect();
        taken.sort_unstable();
        let mut start = 0usize;
        for (from, to) in taken {
            if start + span.bytes <= from {
                break;
            }
            start = start.max(to.next_multiple_of(ALIGN));
        }
        at[i] = start;
        size = size.max(start + span.bytes);
        placed.push(i);
    }
    (at, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_live_together_lie_apart_and_others_share() {
        let span = |bytes, from, to| Span { bytes, from, to };
        let spans = [span(1000, 0, 2), span(500, 1, 4), span(1000, 3, 5), span(100, 5, 6)];
        let (at, size) = place(&spans);
        for (i, a) in spans.iter().enumerate() {
            for (j, b) in spans.iter().enumerate().filter(|&(j, _)| j != i) {
                let together = a.from <= b.to && b.from <= a.to;
                let overlap = at[i] < at[j] + b.bytes && at[j] < at[i] + a.bytes;
                assert!(!(together && overlap), "{i} and {j}");
            }
        }
        assert_eq!(size, 1524, "the first and the third share their bytes");
    }

    #[test]
    fn neighbouring_columns_are_one_matrix() {
        let whole = View { home: Home::Work(0), at: 16, rows: 4, cols: 24, stride: 32, dtype: Dtype::F32 };
        let (a, b) = (whole.columns(0, 8), whole.columns(8, 16));
        assert_eq!(View::hull(&[a, b]), Some(whole));
        assert_eq!(View::hull(&[b, a]), None);
        assert_eq!(whole.rows(2, 1).at, 80);
    }
}

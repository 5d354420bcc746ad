//! How work is split: blocks whose size depends on the shape and never on the number of threads, so that partial
//! sums, and with them the result's bits, are the same at any thread count.

use crate::Store;

/// Elements of a block of an elementwise op: 64 KiB of f32.
pub(crate) const ELEMENTS: usize = 16 * 1024;

/// Most blocks of an op that keeps one partial sum per block.
const MAX_PARTIALS: usize = 64;

/// Rows of a block of an op that works row by row.
pub(crate) fn rows(width: usize) -> usize {
    (ELEMENTS / width.max(1)).max(1)
}

/// Rows of a block of an op that sums over rows: as [`rows`], but at most 64 blocks.
pub(crate) fn rows_with_partials(rows_in_all: usize, width: usize) -> usize {
    rows(width).max(rows_in_all.div_ceil(MAX_PARTIALS))
}

/// Adds the blocks' partial sums, in the order of the blocks, into `out`.
pub(crate) fn sum_partials(partials: &[f32], out: &mut [f32], store: Store) {
    if store == Store::Overwrite {
        out.fill(0.0);
    }
    for partial in partials.chunks_exact(out.len()) {
        for (o, p) in out.iter_mut().zip(partial) {
            *o += p;
        }
    }
}

//! Sums over tasks.

use rayon::prelude::*;

/// `out` = the sum of the parts of its length that follow each other in `parts`, added in order.
pub(super) fn sum(parts: &[f32], out: &mut [f32]) {
    const STEP: usize = 4096;
    let len = out.len();
    out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| {
        let columns = i * STEP..i * STEP + out.len();
        let mut parts = parts.chunks_exact(len).map(|part| &part[columns.clone()]);
        out.copy_from_slice(parts.next().expect("one part per task"));
        for part in parts {
            for (out, part) in out.iter_mut().zip(part) {
                *out += part;
            }
        }
    });
}

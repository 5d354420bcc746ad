//! Learned positions: `y[n] = x[n] + table[t]`, t the position of row n in its sequence, table `[t_max, width]`.
//!
//! The gradient of x is dy itself.

use rayon::prelude::*;

use crate::simd::{add_to, vectorized};
use crate::{Error, Result, Sequences, Store, blocks, check};

/// Adds each row's position.
///
/// # Errors
/// A sequence longer than the table; a slice whose size does not fit; a width of 0.
pub fn forward(seqs: Sequences, x: &[f32], table: &[f32], width: usize, y: &mut [f32]) -> Result<()> {
    const OP: &str = "positions";
    check(OP, seqs, table.len(), width)?;
    check::size(OP, "x", x.len(), &[("rows", seqs.rows()), ("width", width)])?;
    check::size(OP, "y", y.len(), &[("rows", seqs.rows()), ("width", width)])?;
    let block = blocks::rows(width);
    y.par_chunks_mut(block * width).zip(x.par_chunks(block * width)).enumerate().for_each(|(b, (y, x))| {
        vectorized(
            #[inline(always)]
            || {
                for (i, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
                    let row = &table[seqs.position(b * block + i) * width..][..width];
                    for ((y, x), t) in y.iter_mut().zip(x).zip(row) {
                        *y = x + t;
                    }
                }
            },
        );
    });
    Ok(())
}

/// `dtable[t] = sum over sequences of dy at position t`, in the order of the sequences; positions that none reaches
/// get 0 or, accumulating, stay.
///
/// # Errors
/// As [`forward`].
pub fn backward(seqs: Sequences, dy: &[f32], width: usize, dtable: &mut [f32], store: Store) -> Result<()> {
    const OP: &str = "positions backward";
    check(OP, seqs, dtable.len(), width)?;
    check::size(OP, "dy", dy.len(), &[("rows", seqs.rows()), ("width", width)])?;
    let block = (blocks::ELEMENTS / 4 / width).max(1);
    dtable.par_chunks_mut(block * width).enumerate().for_each(|(b, dtable)| {
        if store == Store::Overwrite {
            dtable.fill(0.0);
        }
        let (first, rows) = (b * block, dtable.len() / width);
        vectorized(
            #[inline(always)]
            || {
                for span in seqs.spans() {
                    let (from, to) = (first.min(span.len()), (first + rows).min(span.len()));
                    let dy = &dy[(span.start + from) * width..(span.start + to) * width];
                    add_to(&mut dtable[..dy.len()], dy);
                }
            },
        );
    });
    Ok(())
}

fn check(op: &'static str, seqs: Sequences, table: usize, width: usize) -> Result<()> {
    seqs.check(op)?;
    check::positive(op, "width", width)?;
    check::divides(op, ("elements of the table", table), ("width", width), "give a table of whole rows")?;
    if seqs.longest() <= table / width {
        return Ok(());
    }
    Err(Error::Range {
        op,
        name: "tokens of a sequence",
        found: seqs.longest(),
        range: format!("1..={}", table / width),
        remedy: "learn at least as many positions",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const PACKED: Sequences = Sequences::Packed { cu_seqlens: &[0, 1, 8, 12] };
    const EQUAL: Sequences = Sequences::Equal { batch: 3, len: 4 };

    #[test]
    fn positions_restart_with_each_sequence() {
        let (width, reach) = (3, 9);
        let (x, table, dy) = (random(12 * width, 1), random(reach * width, 2), random(12 * width, 3));
        for seqs in [EQUAL, PACKED] {
            let reference = |x: &[f64], table: &[f64]| -> Vec<f64> {
                let positions = seqs.spans().flat_map(|s| 0..s.len());
                let rows = x.chunks(width).zip(positions);
                rows.flat_map(|(x, t)| (0..width).map(move |d| x[d] + table[t * width + d])).collect()
            };
            let (xw, tw) = (wide(&x), wide(&table));
            let mut y = poisoned(x.len());
            forward(seqs, &x, &table, width, &mut y).unwrap();
            assert_close("y", &y, &reference(&xw, &tw));
            let want = gradient(&table, |t| inner(&reference(&xw, t), &dy));
            let mut dtable = poisoned(table.len());
            backward(seqs, &dy, width, &mut dtable, Store::Overwrite).unwrap();
            assert_close("dtable", &dtable, &want);
            backward(seqs, &dy, width, &mut dtable, Store::Accumulate).unwrap();
            assert_close("dtable accumulated", &dtable, &want.iter().map(|w| 2.0 * w).collect::<Vec<_>>());
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (seqs, width) = (Sequences::Equal { batch: 7, len: 300 }, 40);
        let (x, table) = (random(seqs.rows() * width, 1), random(300 * width, 2));
        assert_same_bits_at_any_thread_count(|| {
            let (mut y, mut dtable) = (poisoned(x.len()), poisoned(table.len()));
            forward(seqs, &x, &table, width, &mut y).unwrap();
            backward(seqs, &x, width, &mut dtable, Store::Overwrite).unwrap();
            vec![y, dtable]
        });
    }

    #[test]
    fn sequences_that_do_not_fit_are_refused() {
        let error = forward(PACKED, &[0.0; 12], &[0.0; 6], 1, &mut [0.0; 12]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "positions: tokens of a sequence = 7 is out of range 1..=6; learn at least as many positions"
        );
        for cu_seqlens in [&[0][..], &[1, 2], &[0, 3, 3], &[0, 5, 2]] {
            let seqs = Sequences::Packed { cu_seqlens };
            assert!(matches!(forward(seqs, &[], &[0.0; 6], 1, &mut []), Err(Error::Argument { .. })));
        }
    }
}

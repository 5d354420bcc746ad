//! Token embedding: `y[n] = table[ids[n]]`, table `[vocab, width]`, y `[ids.len(), width]`.

use rayon::prelude::*;

use crate::simd::{add_to, vectorized};
use crate::{Error, Result, Store, blocks, check};

/// Most blocks the table's gradient is split in. Each block looks at every id.
const MAX_BLOCKS: usize = 64;

/// Gathers rows of the table.
///
/// # Errors
/// An id outside of the table; a slice whose size does not fit; a width of 0.
pub fn forward(ids: &[u32], table: &[f32], width: usize, y: &mut [f32]) -> Result<()> {
    check("embedding", ids, table.len(), width, ("y", y.len()))?;
    let rows = blocks::rows(width);
    y.par_chunks_mut(rows * width).zip(ids.par_chunks(rows)).for_each(|(y, ids)| {
        for (y, &id) in y.chunks_exact_mut(width).zip(ids) {
            y.copy_from_slice(&table[id as usize * width..][..width]);
        }
    });
    Ok(())
}

/// `dtable[v] = sum of dy[n] over the n whose id is v`, in the order of n; rows of absent ids get 0 or, accumulating,
/// stay.
///
/// # Errors
/// As [`forward`].
pub fn backward(ids: &[u32], dy: &[f32], width: usize, dtable: &mut [f32], store: Store) -> Result<()> {
    check("embedding backward", ids, dtable.len(), width, ("dy", dy.len()))?;
    let vocab = dtable.len() / width;
    let block = blocks::rows(width).max(vocab.div_ceil(MAX_BLOCKS));
    dtable.par_chunks_mut(block * width).enumerate().for_each(|(b, dtable)| {
        if store == Store::Overwrite {
            dtable.fill(0.0);
        }
        let (first, rows) = (b * block, dtable.len() / width);
        vectorized(
            #[inline(always)]
            || {
                for (dy, &id) in dy.chunks_exact(width).zip(ids) {
                    let row = (id as usize).wrapping_sub(first);
                    if row < rows {
                        add_to(&mut dtable[row * width..][..width], dy);
                    }
                }
            },
        );
    });
    Ok(())
}

fn check(op: &'static str, ids: &[u32], table: usize, width: usize, y: (&'static str, usize)) -> Result<()> {
    check::positive(op, "width", width)?;
    let remedy = "give a table of whole rows";
    check::divides(op, ("elements of the table", table), ("width", width), remedy)?;
    check::size(op, y.0, y.1, &[("tokens", ids.len()), ("width", width)])?;
    let vocab = table / width;
    match ids.iter().position(|&id| id as usize >= vocab) {
        None => Ok(()),
        Some(n) => Err(Error::Argument {
            op,
            what: format!("id {} of token {n} is outside of a table of {vocab} rows", ids[n]),
            remedy: "use the tokenizer the table was made for",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn gathers_rows_and_scatters_their_gradients() {
        let (ids, width) = ([3u32, 0, 3, 1, 3], 5);
        let (table, dy) = (random(4 * width, 1), random(ids.len() * width, 2));
        let mut y = poisoned(dy.len());
        forward(&ids, &table, width, &mut y).unwrap();
        for (y, &id) in y.chunks(width).zip(&ids) {
            assert_eq!(y, &table[id as usize * width..][..width]);
        }

        let reference = |table: &[f64]| -> Vec<f64> {
            ids.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect()
        };
        let want = gradient(&table, |t| inner(&reference(t), &dy));
        let mut dtable = poisoned(table.len());
        backward(&ids, &dy, width, &mut dtable, Store::Overwrite).unwrap();
        assert_close("dtable", &dtable, &want);
        assert_eq!(dtable[2 * width..3 * width], [0.0; 5], "an absent id");
        backward(&ids, &dy, width, &mut dtable, Store::Accumulate).unwrap();
        assert_close("dtable accumulated", &dtable, &want.iter().map(|w| 2.0 * w).collect::<Vec<_>>());
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (width, vocab) = (48, 3000);
        let ids: Vec<u32> = (0..4000u32).map(|n| n * n % 97 * 30).collect();
        let (table, dy) = (random(vocab * width, 1), random(ids.len() * width, 2));
        assert_same_bits_at_any_thread_count(|| {
            let (mut y, mut dtable) = (poisoned(dy.len()), poisoned(table.len()));
            forward(&ids, &table, width, &mut y).unwrap();
            backward(&ids, &dy, width, &mut dtable, Store::Overwrite).unwrap();
            vec![y, dtable]
        });
    }

    #[test]
    fn ids_outside_of_the_table_are_refused() {
        let error = forward(&[0, 9], &[0.0; 8], 2, &mut [0.0; 4]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "embedding: id 9 of token 1 is outside of a table of 4 rows; use the tokenizer the table was made for"
        );
        assert!(matches!(forward(&[0], &[0.0; 7], 2, &mut [0.0; 2]), Err(Error::Divides { .. })));
        assert!(matches!(backward(&[0], &[0.0; 3], 2, &mut [0.0; 8], Store::Overwrite), Err(Error::Size { .. })));
    }
}

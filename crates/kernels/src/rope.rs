//! Rotary positions in the rotate-half convention of Llama.
//!
//! Each head's vector x, `head_size` long, is seen as pairs `(x[i], x[i + head_size/2])`; the pair at position t turns
//! by the angle `t theta^(-2 i / head_size)`. x and y `[rows, heads, head_size]`; the backward turns dy back.

use rayon::prelude::*;

use crate::simd::vectorized;
use crate::{Error, Result, Sequences, blocks, check};

/// Cosines and sines of every position and pair, computed in f64.
#[derive(Debug, Clone)]
pub struct Table {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    /// A table for positions `0..len`, frequencies of base `theta`.
    ///
    /// # Errors
    /// An odd head size or one of 0.
    pub fn new(len: usize, head_size: usize, theta: f32) -> Result<Self> {
        check::positive("rope", "head_size", head_size)?;
        check::divides("rope", ("head_size", head_size), ("halves", 2), "use an even head size")?;
        let half = head_size / 2;
        let frequency = |i: usize| f64::from(theta).powf(-(i as f64) / half as f64);
        let frequencies: Vec<f64> = (0..half).map(frequency).collect();
        let angles = (0..len).flat_map(|t| frequencies.iter().map(move |f| t as f64 * f));
        let (cos, sin) = angles.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        Ok(Self { half, cos, sin })
    }

    /// Positions in the table.
    pub fn len(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Cosines, `[positions, head_size / 2]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Sines, likewise.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// Whether the table has no position.
    pub fn is_empty(&self) -> bool {
        self.cos.is_empty()
    }
}

/// Turns every head of every row by its position: `offset` for the first row of a sequence and one more for each
/// further one.
///
/// # Errors
/// A slice whose size does not fit; positions beyond the table.
pub fn forward(seqs: Sequences, offset: usize, table: &Table, x: &[f32], heads: usize, y: &mut [f32]) -> Result<()> {
    rotate("rope", seqs, offset, table, x, heads, y, 1.0)
}

/// Turns dy back: the gradient of x.
///
/// # Errors
/// As [`forward`].
pub fn backward(seqs: Sequences, offset: usize, table: &Table, dy: &[f32], heads: usize, dx: &mut [f32]) -> Result<()> {
    rotate("rope backward", seqs, offset, table, dy, heads, dx, -1.0)
}

fn rotate(
    op: &'static str,
    seqs: Sequences,
    offset: usize,
    table: &Table,
    x: &[f32],
    heads: usize,
    y: &mut [f32],
    sign: f32,
) -> Result<()> {
    seqs.check(op)?;
    check::positive(op, "heads", heads)?;
    let (half, rows) = (table.half, seqs.rows());
    let dims = [("rows", rows), ("heads", heads), ("head_size", 2 * half)];
    check::size(op, "input", x.len(), &dims)?;
    check::size(op, "output", y.len(), &dims)?;
    let end = offset.saturating_add(seqs.longest());
    if end > table.len() {
        let range = format!("1..={}", table.len());
        return Err(Error::Range {
            op,
            name: "end of the positions",
            found: end,
            range,
            remedy: "make a longer table",
        });
    }
    let width = heads * 2 * half;
    let block = blocks::rows(width);
    y.par_chunks_mut(block * width).zip(x.par_chunks(block * width)).enumerate().for_each(|(b, (y, x))| {
        vectorized(
            #[inline(always)]
            || {
                for (i, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).enumerate() {
                    let t = offset + seqs.position(b * block + i);
                    let (cos, sin) = (&table.cos[t * half..][..half], &table.sin[t * half..][..half]);
                    for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                        rotate_head(x, cos, sin, sign, y);
                    }
                }
            },
        );
    });
    Ok(())
}

#[inline(always)]
fn rotate_head(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
    let half = cos.len();
    let ((x1, x2), (y1, y2)) = (x.split_at(half), y.split_at_mut(half));
    let (x2, y2, sin) = (&x2[..half], &mut y2[..half], &sin[..half]);
    for i in 0..half {
        let s = sign * sin[i];
        y1[i] = x1[i] * cos[i] - x2[i] * s;
        y2[i] = x2[i] * cos[i] + x1[i] * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const THETA: f32 = 10_000.0;

    #[test]
    fn turns_pairs_by_their_angle_and_back() {
        let (heads, size, offset) = (3, 10, 2);
        let width = heads * size;
        for seqs in [Sequences::Equal { batch: 2, len: 9 }, Sequences::Packed { cu_seqlens: &[0, 1, 12, 18] }] {
            let table = Table::new(offset + seqs.longest(), size, THETA).unwrap();
            let x = random(seqs.rows() * width, 1);
            let mut want = vec![0.0; x.len()];
            for span in seqs.spans() {
                for row in span.clone() {
                    for i in 0..width / 2 {
                        let (head, pair) = (i / (size / 2), i % (size / 2));
                        let t = (row - span.start + offset) as f64;
                        let (sin, cos) = (t * f64::from(THETA).powf(-2.0 * pair as f64 / size as f64)).sin_cos();
                        let first = row * width + head * size + pair;
                        let (a, b) = (f64::from(x[first]), f64::from(x[first + size / 2]));
                        (want[first], want[first + size / 2]) = (a * cos - b * sin, b * cos + a * sin);
                    }
                }
            }
            let mut y = poisoned(x.len());
            forward(seqs, offset, &table, &x, heads, &mut y).unwrap();
            assert_close("y", &y, &want);
            // The gradient of a rotation is the rotation back: <R x, dy> = <x, R^T dy>, and R^T R x = x.
            let mut back = poisoned(x.len());
            backward(seqs, offset, &table, &y, heads, &mut back).unwrap();
            assert_close("back", &back, &wide(&x));
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (seqs, table) = (Sequences::Equal { batch: 5, len: 300 }, Table::new(300, 16, THETA).unwrap());
        let x = random(seqs.rows() * 32, 1);
        assert_same_bits_at_any_thread_count(|| {
            let (mut y, mut dx) = (poisoned(x.len()), poisoned(x.len()));
            forward(seqs, 0, &table, &x, 2, &mut y).unwrap();
            backward(seqs, 0, &table, &x, 2, &mut dx).unwrap();
            vec![y, dx]
        });
    }

    #[test]
    fn odd_heads_and_short_tables_are_refused() {
        assert!(matches!(Table::new(4, 7, THETA), Err(Error::Divides { .. })));
        let table = Table::new(4, 2, THETA).unwrap();
        assert_eq!(table.len(), 4);
        let seqs = Sequences::Equal { batch: 1, len: 4 };
        let error = forward(seqs, 1, &table, &[0.0; 8], 1, &mut [0.0; 8]).unwrap_err();
        assert_eq!(error.to_string(), "rope: end of the positions = 5 is out of range 1..=4; make a longer table");
        assert!(matches!(forward(seqs, 0, &table, &[0.0; 7], 1, &mut [0.0; 8]), Err(Error::Size { .. })));
    }
}

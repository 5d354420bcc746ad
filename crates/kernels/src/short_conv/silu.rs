//! SiLU, v / (1 + e^-v), and its derivative, along rows.

use pulp::{Simd, WithSimd};

use crate::simd::sigmoid;

/// v <- silu(v) (+ x) in rows.
pub(super) struct Silu<'a, 'o> {
    pub(super) rows: &'a mut [&'o mut [f32]],
    pub(super) x: Option<&'a [&'a [f32]]>,
}

impl WithSimd for Silu<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _s: S) {
        for (n, row) in self.rows.iter_mut().enumerate() {
            row.iter_mut().for_each(|v| *v *= sigmoid(*v));
            if let Some(x) = self.x {
                row.iter_mut().zip(x[n]).for_each(|(v, x)| *v += x);
            }
        }
    }
}

/// v <- dy silu'(v) in a row, with silu'(v) = s (1 + v (1 - s)), s = 1 / (1 + e^-v).
pub(super) struct SiluGrad<'a> {
    pub(super) row: &'a mut [f32],
    pub(super) dy: &'a [f32],
}

impl WithSimd for SiluGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _s: S) {
        for (v, dy) in self.row.iter_mut().zip(self.dy) {
            let s = sigmoid(*v);
            *v = dy * (s * (1.0 + *v * (1.0 - s)));
        }
    }
}

//! SwiGLU: `y = silu(gate) up`; `dgate = dy up silu'(gate)`, `dup = dy silu(gate)`.

use rayon::prelude::*;

use crate::elementwise::{check_equal, map};
use crate::silu::slope;
use crate::simd::{sigmoid, vectorized};
use crate::{Result, blocks};

/// `y = silu(gate) up`.
///
/// # Errors
/// Unequal sizes.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) -> Result<()> {
    check_equal("swiglu", gate.len(), &[("up", up.len()), ("y", y.len())])?;
    map(
        [gate, up],
        y,
        #[inline(always)]
        |[g, u]| g * sigmoid(g) * u,
    );
    Ok(())
}

/// Gradients of gate and up.
///
/// # Errors
/// Unequal sizes.
pub fn backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) -> Result<()> {
    let others = [("up", up.len()), ("dy", dy.len()), ("dgate", dgate.len()), ("dup", dup.len())];
    check_equal("swiglu backward", gate.len(), &others)?;
    const BLOCK: usize = blocks::ELEMENTS;
    let outputs = dgate.par_chunks_mut(BLOCK).zip(dup.par_chunks_mut(BLOCK));
    let inputs = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(dy.par_chunks(BLOCK));
    outputs.zip(inputs).for_each(|((dgate, dup), ((gate, up), dy))| {
        vectorized(
            #[inline(always)]
            || backward_block(gate, up, dy, dgate, dup),
        );
    });
    Ok(())
}

#[inline(always)]
fn backward_block(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    let (up, dy, dgate, dup) = (&up[..n], &dy[..n], &mut dgate[..n], &mut dup[..n]);
    for i in 0..n {
        let s = sigmoid(gate[i]);
        dgate[i] = dy[i] * up[i] * slope(gate[i], s);
        dup[i] = dy[i] * (gate[i] * s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn reference(gate: &[f64], up: &[f64]) -> Vec<f64> {
        gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
    }

    #[test]
    fn forward_and_gradients() {
        for n in [1, 17, 300] {
            let gate: Vec<f32> = random(n, 1).iter().map(|v| 8.0 * v).collect();
            let (up, dy) = (random(n, 2), random(n, 3));
            let (mut y, mut dgate, mut dup) = (poisoned(n), poisoned(n), poisoned(n));
            forward(&gate, &up, &mut y).unwrap();
            assert_close("y", &y, &reference(&wide(&gate), &wide(&up)));
            backward(&gate, &up, &dy, &mut dgate, &mut dup).unwrap();
            assert_close("dgate", &dgate, &gradient(&gate, |g| inner(&reference(g, &wide(&up)), &dy)));
            assert_close("dup", &dup, &gradient(&up, |u| inner(&reference(&wide(&gate), u), &dy)));
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (gate, up, dy) = (random(100_003, 1), random(100_003, 2), random(100_003, 3));
        assert_same_bits_at_any_thread_count(|| {
            let mut out = [100_003; 3].map(poisoned);
            let [y, dgate, dup] = &mut out;
            forward(&gate, &up, y).unwrap();
            backward(&gate, &up, &dy, dgate, dup).unwrap();
            out.into()
        });
    }

    #[test]
    fn unequal_sizes_are_refused() {
        let error = forward(&[0.0; 3], &[0.0; 2], &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "swiglu: up has 2 elements, expected 3 for shape [elements=3]");
        assert!(backward(&[0.0; 3], &[0.0; 3], &[0.0; 3], &mut [0.0; 3], &mut [0.0; 4]).is_err());
    }
}

//! SiLU: `y = x s(x)`, s the logistic function; `dx = dy s (1 + x (1 - s))`.

use crate::Result;
use crate::elementwise::{check_equal, map};
use crate::simd::sigmoid;

/// `y = silu(x)`.
///
/// # Errors
/// Unequal sizes.
pub fn forward(x: &[f32], y: &mut [f32]) -> Result<()> {
    check_equal("silu", x.len(), &[("y", y.len())])?;
    map(
        [x],
        y,
        #[inline(always)]
        |[x]| x * sigmoid(x),
    );
    Ok(())
}

/// `dx = dy silu'(x)`.
///
/// # Errors
/// Unequal sizes.
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    check_equal("silu backward", x.len(), &[("dy", dy.len()), ("dx", dx.len())])?;
    map(
        [x, dy],
        dx,
        #[inline(always)]
        |[x, dy]| dy * slope(x, sigmoid(x)),
    );
    Ok(())
}

/// The derivative at x, given s(x).
#[inline(always)]
pub(crate) fn slope(x: f32, s: f32) -> f32 {
    s * (1.0 + x * (1.0 - s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn reference(x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| x / (1.0 + (-x).exp())).collect()
    }

    #[test]
    fn forward_and_gradient() {
        for n in [1, 17, 300] {
            let x: Vec<f32> = random(n, 1).iter().map(|v| 8.0 * v).collect();
            let dy = random(n, 2);
            let (mut y, mut dx) = (poisoned(n), poisoned(n));
            forward(&x, &mut y).unwrap();
            assert_close("y", &y, &reference(&wide(&x)));
            backward(&x, &dy, &mut dx).unwrap();
            assert_close("dx", &dx, &gradient(&x, |x| inner(&reference(x), &dy)));
        }
    }

    #[test]
    fn far_tails_are_finite() {
        let x = [-1e30, -100.0, 100.0, 1e12];
        let (mut y, mut dx) = (poisoned(4), poisoned(4));
        forward(&x, &mut y).unwrap();
        backward(&x, &[1.0; 4], &mut dx).unwrap();
        assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6 && y[2..] == x[2..], "{y:?}");
        assert!(dx[0].abs() < 1e-6 && dx[1].abs() < 1e-6 && dx[2..] == [1.0, 1.0], "{dx:?}");
    }

    #[test]
    fn unequal_sizes_are_refused() {
        let error = backward(&[0.0; 3], &[0.0; 2], &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "silu backward: dy has 2 elements, expected 3 for shape [elements=3]");
        assert!(forward(&[0.0; 3], &mut [0.0; 2]).is_err());
    }
}

//! GELU in the tanh form: `y = x/2 (1 + tanh(u))`, `u = sqrt(2/pi) (x + 0.044715 x^3)`.
//!
//! Computed as `x s(2 u)`, s the logistic function: the same, and accurate in the negative tail, where 1 + tanh
//! cancels. `dx = dy (s + x s (1 - s) 2 u')`.

use crate::Result;
use crate::elementwise::{check_equal, map};
use crate::simd::sigmoid;

/// 2 sqrt(2/pi).
const SCALE: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

/// `y = gelu(x)`.
///
/// # Errors
/// Unequal sizes.
pub fn forward(x: &[f32], y: &mut [f32]) -> Result<()> {
    check_equal("gelu", x.len(), &[("y", y.len())])?;
    map(
        [x],
        y,
        #[inline(always)]
        |[x]| x * gate(x),
    );
    Ok(())
}

/// `dx = dy gelu'(x)`.
///
/// # Errors
/// Unequal sizes.
pub fn backward(x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    check_equal("gelu backward", x.len(), &[("dy", dy.len()), ("dx", dx.len())])?;
    map(
        [x, dy],
        dx,
        #[inline(always)]
        |[x, dy]| {
            // Beyond 10 the slope is 0 or 1 to the last bit, and x^3 would in the end overflow.
            let x = if x > 10.0 { 10.0 } else { x };
            let x = if x < -10.0 { -10.0 } else { x };
            let s = gate(x);
            dy * (s + x * s * (1.0 - s) * (SCALE * (1.0 + 3.0 * CUBIC * x * x)))
        },
    );
    Ok(())
}

/// s(2 u).
#[inline(always)]
fn gate(x: f32) -> f32 {
    sigmoid(SCALE * (x + CUBIC * x * x * x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn reference(x: &[f64]) -> Vec<f64> {
        x.iter()
            .map(|x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()))
            .collect()
    }

    #[test]
    fn forward_and_gradient() {
        for n in [1, 17, 300] {
            let x: Vec<f32> = random(n, 1).iter().map(|v| 5.0 * v).collect();
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
        assert_eq!(error.to_string(), "gelu backward: dy has 2 elements, expected 3 for shape [elements=3]");
        assert!(forward(&[0.0; 3], &mut [0.0; 2]).is_err());
    }
}

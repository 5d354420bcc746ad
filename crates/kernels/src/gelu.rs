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
    use crate::testing::elementwise::Activation;

    #[test]
    fn values_gradients_tails_and_refusals() {
        let reference =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        Activation { forward, backward, reference, range: 5.0 }.check("gelu");
    }
}

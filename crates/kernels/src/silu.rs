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
    use crate::testing::elementwise::Activation;

    #[test]
    fn values_gradients_tails_and_refusals() {
        let reference = |x: f64| x / (1.0 + (-x).exp());
        Activation { forward, backward, reference, range: 8.0 }.check("silu");
    }
}

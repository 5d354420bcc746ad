//! The variants that a compile check covers.

use super::{BC, GRADIENTS, OUTPUTS, STATES, SsdShape};
use crate::cuda::compile::Defines;
use crate::cuda::short_conv::Variant;

/// Every kernel at a sample of sizes: each type, rows in vectors and not, one tile of a state and several.
pub fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for dtype in [0, 1] {
        let wide = if dtype == 0 { 4 } else { 8 };
        for (head_size, state_size, x_vec, b_vec) in [
            (64, 64, wide, wide),
            (64, 64, 1, 1),
            (64, 128, wide, wide),
            (19, 216, 1, wide),
            (38, 32, 1, wide),
            (128, 256, wide, wide),
            (6, 4, 1, 1),
            (1, 4, 1, 1),
        ] {
            let shape = SsdShape { sequences: 1, chunks: 1, heads: 1, head_size, groups: 1, state_size };
            for file in [STATES, OUTPUTS, GRADIENTS, BC] {
                all.push(Variant { file, defines: Defines::new(&shape.defines(file, dtype, x_vec, b_vec)) });
            }
        }
    }
    all
}

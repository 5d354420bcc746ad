//! The variants that a compile check covers.

use super::MOE_EXPERTS;
use super::tiles::Tiles;
use crate::cuda::compile::Defines;
use crate::cuda::short_conv::Variant;
use crate::moe::Shape;

/// Whether only sm_90a has the tiles of these experts' products.
pub fn is_hopper_only(variant: &Variant) -> bool {
    let narrow = |(name, columns)| variant.defines.get(name) == Some(columns);
    variant.file == "moe_experts.cu" && !Tiles::NARROW.defines().into_iter().all(narrow)
}

/// Every kernel of a mixture, with a sample of its tiles and all other variants.
pub fn moe_variants() -> Vec<Variant> {
    let variant = |file, defines: &[(&'static str, i64)]| Variant { file, defines: Defines::new(defines) };
    let mut all = vec![variant("moe_balance.cu", &[])];
    for (code, bytes) in [(0, 4), (1, 2)] {
        for option in [0, 1] {
            for lanes in [1, 2, 4, MOE_EXPERTS as i64 / 32] {
                let defines = [("DTYPE", code), ("VEC", 1), ("PER_LANE", lanes), ("RENORMALIZE", option)];
                all.push(variant("moe_route.cu", &defines));
            }
            for keep in [0, 1] {
                let shape = |d, ffn| Shape { tokens: 1, d, experts: 1, top_k: 1, ffn };
                let mut tiles = vec![Tiles::NARROW];
                if code == 1 && option == 1 {
                    tiles.extend([shape(256, 176), shape(1536, 256), shape(192, 96), shape(64, 120)].map(Tiles::wide));
                }
                for tiles in tiles {
                    let defines =
                        [("DTYPE", code), ("ALIGNED", option), ("KEEP", keep)].into_iter().chain(tiles.defines());
                    all.push(variant("moe_experts.cu", &defines.collect::<Vec<_>>()));
                }
            }
            for (vec, accumulate) in [(1, 0), (16 / bytes, 0), (1, 1), (16 / bytes, 1)] {
                let defines = [("DTYPE", code), ("VEC", vec), ("WEIGHTED", option), ("ACCUMULATE", accumulate)];
                all.push(variant("moe_combine.cu", &defines));
            }
        }
    }
    all.sort();
    all
}

//! How many columns of results a block of the experts' products makes.

use super::ROWS;
use crate::cuda::{Device, Dtype};
use crate::moe::Shape;

/// Columns of a tile, by product; see `kernels/moe_experts.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Of gate and up side by side.
    pub(super) gate_up: usize,
    /// Of hidden values' gradients.
    pub(super) back: usize,
    /// Of everything else, D columns.
    pub(super) out: usize,
}

impl Tiles {
    /// Those that products by warps take, whose registers hold no more.
    pub(super) const NARROW: Self = Self { gate_up: 128, back: 64, out: 128 };

    /// `pieces`: whether operands are whole 16-byte pieces.
    pub(super) fn new(device: &Device, dtype: Dtype, s: Shape, pieces: bool) -> Self {
        if device.arch() == "sm_90a" && dtype == Dtype::Bf16 && pieces { Self::wide(s) } else { Self::NARROW }
    }

    /// For warpgroup products: those that fetch least. The backward of SwiGLU reads and writes much after its product, which a second
    /// block of a multiprocessor covers.
    pub(super) fn wide(s: Shape) -> Self {
        Self {
            gate_up: cheapest(2 * s.ffn, [128, 192, 256]),
            back: cheapest(s.ffn, [64, 128]),
            out: cheapest(s.d, [128, 192, 256]),
        }
    }

    pub(super) fn defines(self) -> [(&'static str, i64); 3] {
        [("GATE_UP", self.gate_up as i64), ("BACK", self.back as i64), ("OUT", self.out as i64)]
    }

    /// Blocks to launch for so many tiles of so many columns: where a block has a multiprocessor alone, at most `most` columns, it goes on
    /// from tile to tile. The kernels (moe_experts.cu) decide by the same numbers.
    pub(super) fn resident(device: &Device, tiles: usize, columns: usize, most: usize) -> usize {
        if columns > Self::NARROW.out && columns <= most { tiles.min(device.multiprocessors()) } else { tiles }
    }

    /// Bytes of shared memory for tiles of so many columns: three stages of both operands, or four where one block fills a
    /// multiprocessor.
    pub(super) fn shared(columns: usize) -> usize {
        (if columns > 128 { 4 } else { 3 }) * (ROWS + columns) * 128
    }
}

/// The tile of which all columns take the fewest rows and columns of operands; of equals the first.
fn cheapest<const K: usize>(columns: usize, tiles: [usize; K]) -> usize {
    let fetched = |tile: &usize| columns.div_ceil(*tile) * (ROWS + tile);
    tiles.into_iter().min_by_key(fetched).unwrap_or(ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fetch_little_and_fit() {
        let of = |d, ffn| Tiles::wide(Shape { tokens: 1, d, experts: 1, top_k: 1, ffn });
        assert_eq!(of(256, 176), Tiles { gate_up: 192, back: 128, out: 256 });
        assert_eq!(of(1536, 256), Tiles { gate_up: 256, back: 128, out: 256 });
        assert_eq!(of(64, 24), Tiles { gate_up: 128, back: 64, out: 128 });
        assert!([64, 128, 192, 256].into_iter().all(|columns| Tiles::shared(columns) <= 227 * 1024));
    }
}

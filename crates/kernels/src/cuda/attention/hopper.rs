//! Launches of the warpgroup kernels: `kernels/attention_fwd.cu`, `attention_dq.cu`, `attention_dkdv.cu`. bf16 on sm_90a.

use std::ffi::c_void;

use cudarc::driver::sys::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle, cuTensorMapEncodeTiled,
};

use super::super::device::Grid;
use super::super::error::{CudaResult, driver};
use super::params::{Call, Place};

pub(super) const FORWARD: &str = "attention_fwd.cu";
pub(super) const DQ: &str = "attention_dq.cu";
pub(super) const DKDV: &str = "attention_dkdv.cu";

/// Rows of a warpgroup.
const GROUP: usize = 64;
/// Bytes of a bf16.
const ELEMENT: usize = 2;

/// Columns of a head in shared memory: a product takes 16.
fn padded(head_size: usize) -> usize {
    head_size.max(16)
}

/// How a kernel's blocks are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Warpgroups that compute, 64 rows each.
    consumers: usize,
    /// Rows of a streamed tile.
    stream: usize,
    /// Streamed tiles in flight.
    stages: usize,
    /// Blocks of a multiprocessor.
    blocks: usize,
    /// Own tiles of a warpgroup: q, or q and do, or k and v.
    own: usize,
}

impl Cut {
    /// For o and lse. Measured, as the others (kernels/NOTES.md); a third warpgroup has nothing to do in short sequences.
    pub(super) fn forward(head_size: usize, len: usize) -> Self {
        let (consumers, blocks) = Self::side_by_side(head_size, len);
        Self { consumers, stream: 64, stages: 3, blocks, own: 1 }
    }

    /// For dq.
    pub(super) fn dq(head_size: usize, len: usize) -> Self {
        let (consumers, blocks) = if head_size < 128 { Self::side_by_side(head_size, len) } else { (2, 1) };
        Self { consumers, stream: if blocks == 2 { 32 } else { 64 }, stages: 3, blocks, own: 2 }
    }

    /// For dk and dv, whose sums take twice the registers.
    pub(super) fn dkdv(head_size: usize) -> Self {
        Self { consumers: 2, stream: if head_size < 128 { 64 } else { 32 }, stages: 3, blocks: 1, own: 2 }
    }

    /// Warpgroups of a block and blocks of a multiprocessor: registers hold three times 64 rows, or with small heads four.
    fn side_by_side(head_size: usize, len: usize) -> (usize, usize) {
        if head_size <= 32 {
            (2, 2)
        } else if len > 128 {
            (3, 1)
        } else {
            (2, 1)
        }
    }

    /// Rows of a block.
    fn rows(&self) -> usize {
        GROUP * self.consumers
    }

    /// The kernels' defines.
    pub(super) fn defines(&self) -> [(&'static str, i64); 4] {
        [
            ("CONSUMERS", self.consumers as i64),
            ("STREAM", self.stream as i64),
            ("STAGES", self.stages as i64),
            ("BLOCKS", self.blocks as i64),
        ]
    }

    /// Rows of a tensor map's box.
    fn rows_of_box(&self) -> usize {
        self.stream.min(GROUP)
    }

    fn grid(&self, head_size: usize, blocks: usize) -> Grid {
        let own = self.consumers * self.own * GROUP;
        let rows = own + 2 * self.stages * self.stream;
        Grid {
            blocks: (blocks as u32, 1),
            threads: (128 * (self.consumers + 1) as u32, 1),
            shared: (1024 + rows * padded(head_size) * ELEMENT) as u32,
        }
    }
}

/// Whether these kernels take a call: the type, the head size, the device, and the alignment of all that it reads and
/// writes.
pub(super) fn takes(call: &Call<'_>) -> bool {
    let p = &call.p;
    let addresses = [p.q, p.k, p.v, p.o, p.d_o, p.dq, p.dk, p.dv];
    let strides = [p.ldq, p.ldk, p.ldv, p.ldo, p.lddo, p.lddq, p.lddk, p.lddv];
    // Shorter sequences leave most of a warpgroup's rows empty, and heads of 8 half of their columns.
    let small = call.shape.head_size == 8 && call.shape.len >= GROUP;
    call.code == 1
        && call.device.arch() == "sm_90a"
        && (matches!(call.shape.head_size, 16 | 32 | 64 | 128) || small)
        && addresses.iter().all(|a| a % 16 == 0)
        && strides.iter().all(|s| s % 8 == 0 && *s < 1 << 39)
}

/// o and lse.
pub(super) fn forward(call: &mut Call<'_>) -> CudaResult<()> {
    let (heads, cut) = (call.shape.heads, Cut::forward(call.shape.head_size, call.shape.len));
    let (tiles, _plan) = call.tiles(cut.rows())?;
    let Maps { q, k, v, .. } = call.maps(cut)?;
    launch(call, FORWARD, "attention_fwd", cut, tiles * heads, &[q, k, v])
}

/// dq, dk, dv.
pub(super) fn backward(call: &mut Call<'_>) -> CudaResult<()> {
    let (heads, kv_heads, head_size) = (call.shape.heads, call.shape.kv_heads, call.shape.head_size);
    let _delta = call.delta()?;
    // First dq, which writes delta.
    let cut = Cut::dq(head_size, call.shape.len);
    let (tiles, _plan) = call.tiles(cut.rows())?;
    let Maps { q, k, v, d_o } = call.maps(cut)?;
    launch(call, DQ, "attention_dq", cut, tiles * heads, &[q, d_o, k, v])?;
    let cut = Cut::dkdv(head_size);
    let (tiles, _plan) = call.tiles(cut.rows())?;
    call.p.group = call.p.group.min((call.shape.batch * kv_heads) as i32);
    let Maps { q, k, v, d_o } = call.maps(cut)?;
    launch(call, DKDV, "attention_dkdv", cut, tiles * kv_heads, &[k, v, q, d_o])
}

fn launch(
    call: &mut Call<'_>,
    file: &'static str,
    entry: &'static str,
    cut: Cut,
    blocks: usize,
    maps: &[CUtensorMap],
) -> CudaResult<()> {
    let grid = cut.grid(call.shape.head_size, blocks);
    // SAFETY: the arguments of the entry; sizes were checked by the caller, the maps end with the rows and heads, the grid
    // covers the tiles of every head once.
    unsafe { call.launch(file, entry, &cut.defines(), grid, maps) }
}

/// The maps of what the kernels copy.
struct Maps {
    q: CUtensorMap,
    k: CUtensorMap,
    v: CUtensorMap,
    d_o: CUtensorMap,
}

impl Call<'_> {
    /// The maps for kernels of a cut; forward has no do, and leaves its map alone.
    fn maps(&self, cut: Cut) -> CudaResult<Maps> {
        let (p, shape) = (&self.p, self.shape);
        let of = |at, ld, heads| map(Place { at, ld }, shape.rows(), heads, shape.head_size, cut.rows_of_box());
        let q = of(p.q, p.ldq, shape.heads)?;
        Ok(Maps {
            q,
            k: of(p.k, p.ldk, shape.kv_heads)?,
            v: of(p.v, p.ldv, shape.kv_heads)?,
            d_o: if p.d_o == 0 { q } else { of(p.d_o, p.lddo, shape.heads)? },
        })
    }
}

/// The tensor map of columns, heads and rows, in boxes of rows of one head or of half of one of 128 columns.
fn map(place: Place, rows: usize, heads: usize, head_size: usize, rows_of_box: usize) -> CudaResult<CUtensorMap> {
    let span = padded(head_size).min(64);
    let swizzle = match span {
        16 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        _ => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let mut map = CUtensorMap { opaque: [0; 16] };
    let size = [head_size, heads, rows].map(|n| n as u64);
    let strides = [(head_size * ELEMENT) as u64, place.ld as u64 * ELEMENT as u64];
    let (boxes, steps) = ([span as u32, 1, rows_of_box as u32], [1, 1, 1]);
    // SAFETY: every array holds what a map of rank 3 reads of it; the address is only stored.
    unsafe {
        cuTensorMapEncodeTiled(
            &mut map,
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            3,
            place.at as *mut c_void,
            size.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .map_err(driver("tensor map"))?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_fits_a_multiprocessor() {
        for head_size in [8, 16, 32, 64, 128] {
            for len in [1, 128, 129, 4096] {
                for cut in [Cut::forward(head_size, len), Cut::dq(head_size, len), Cut::dkdv(head_size)] {
                    let grid = cut.grid(head_size, 1);
                    let shared = cut.blocks * grid.shared as usize;
                    assert!(shared <= 224 * 1024, "{cut:?} at head size {head_size}: {shared} bytes");
                    // What the kernels have registers for.
                    assert!(matches!((cut.consumers, cut.blocks), (2, 1 | 2) | (3, 1)), "{cut:?}");
                    assert_eq!(
                        cut.rows() * padded(head_size) * ELEMENT % 1024,
                        0,
                        "{cut:?}: tiles begin at multiples of 1024"
                    );
                }
            }
        }
    }
}

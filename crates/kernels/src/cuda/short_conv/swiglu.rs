//! Launches of `kernels/short_conv_swiglu_hopper.cu`: SwiGLU of two low-rank convolutions whose outputs are kept nowhere.

use super::super::compile::Defines;
use super::super::device::{Device, Grid};
use super::super::error::{CudaError, CudaResult};
use super::super::memory::Dtype;
use super::args::{Element, Input, Options, Rows, RowsMut, Shape};
use super::check::Check;
use super::low_rank::aligned;
use super::low_rank_hopper as hopper;
use super::params::{Call, Kind, Op, Place};
use crate::error::Error;

pub(super) const FILE: &str = "short_conv_swiglu_hopper.cu";

const OP: &str = "cuda::short_conv::swiglu";

/// Channels of a block in each stream, and bytes between its rows of dh.
const CHANNELS: usize = hopper::CHANNELS / 2;
const DH_ROW: usize = (CHANNELS + 8) * 2;

/// Writes `h = silu(a) b` with (a, b) the outputs of stream 0 and 1, each rounded as [`super::forward`] rounds it: the same bits as
/// that and SwiGLU.
///
/// # Errors
/// Arguments that do not fit, and every case that [`takes_swiglu`] refuses.
pub fn swiglu<T: Element>(
    device: &Device,
    shape: Shape,
    options: Options,
    input: &Input<'_, T>,
    mut h: RowsMut<'_, T>,
) -> CudaResult<()> {
    Check::input(OP, shape, input)?.hidden("h", h.data.len(), h.stride)?;
    let h = Place::of_mut(&mut h, device.stream());
    launch(&Call::new(device, shape, options, input), h, None)
}

/// Writes the gradients of a and b, as two streams, from that of h; a and b are made again.
///
/// # Errors
/// As [`swiglu`].
pub fn swiglu_backward<T: Element>(
    device: &Device,
    shape: Shape,
    options: Options,
    input: &Input<'_, T>,
    dh: Rows<'_, T>,
    mut dab: RowsMut<'_, T>,
) -> CudaResult<()> {
    let check = Check::input(OP, shape, input)?;
    check.hidden("dh", dh.data.len(), dh.stride)?;
    check.rows_mut("dab", &dab, shape.d)?;
    let (dh, dab) = (Place::of(&dh, device.stream()), Place::of_mut(&mut dab, device.stream()));
    launch(&Call::new(device, shape, options, input), dab, Some(dh))
}

/// Whether [`swiglu`] takes a low-rank convolution on a device of that architecture, if every row of x, U, static_w, h and their
/// gradients starts at a multiple of 16 bytes and there is no initial state.
pub fn takes_swiglu(arch: &str, shape: Shape, options: Options, rank: usize, dtype: Dtype) -> bool {
    let code = if dtype == Dtype::Bf16 { 1 } else { 0 };
    let (kind, element) = (Kind::LowRank { rank }, dtype.bytes());
    let op = Op { shape, options, kind, code, element, packed: false, state: false, static_w: false };
    takes(&op, arch, shape.d.is_multiple_of(8))
}

/// With an activation of the convolutions registers spill.
pub(super) fn takes(op: &Op, arch: &str, aligned: bool) -> bool {
    let low_rank = matches!(op.kind, Kind::LowRank { .. });
    low_rank && op.shape.streams == 2 && !op.options.silu && !op.state && hopper::takes(op, arch, aligned)
}

/// Tiles in flight: dh takes the room of one.
fn stages(gradient: bool) -> usize {
    if gradient { hopper::STAGES - 1 } else { hopper::STAGES }
}

/// U, and the stages of x, the z of both streams and dh.
fn shared(op: &Op, gradient: bool) -> usize {
    let (u, row, z) = hopper::sizes(op);
    let x = (hopper::ROWS + op.shape.width - 1) * row;
    u + stages(gradient) * (x + hopper::ROWS * (2 * z + if gradient { DH_ROW } else { 0 }))
}

pub(super) fn defines(op: &Op, gradient: bool) -> Defines {
    let more = [
        ("THREADS", hopper::FORWARD_THREADS as i64),
        ("SIDES", 2),
        ("STAGES", stages(gradient) as i64),
        ("GRAD", i64::from(gradient)),
    ];
    hopper::defines(op, false, &more)
}

/// h or, with `dh`, the gradients of a and b.
fn launch(call: &Call<'_>, y: Place, dh: Option<Place>) -> CudaResult<()> {
    let op = &call.op;
    let rows: Vec<_> = std::iter::once(y).chain(dh).collect();
    if !takes(op, call.device.arch(), aligned(call, &rows)) {
        let Shape { streams, d, width, .. } = op.shape;
        let what = format!(
            "{streams} streams of {d} channels, width {width}, {:?}, {:?}, {} bytes an element, on {}",
            op.kind,
            op.options,
            op.element,
            call.device.arch()
        );
        let remedy = "ask takes_swiglu, align rows to 16 bytes, or run the convolutions and SwiGLU one after the other";
        return Err(CudaError::Argument(Error::Argument { op: OP, what, remedy }));
    }
    let (mut p, _plan) = call.params(hopper::ROWS)?;
    // One block on each multiprocessor.
    let tiles = op.shape.d.div_ceil(CHANNELS);
    let spans = (call.device.multiprocessors() / tiles).clamp(1, p.chunks.max(1) as usize);
    (p.col_tiles, p.spans) = (tiles as i32, spans as i32);
    (p.y, p.ldy, p.s_y) = (y.at, y.ld, y.stream);
    if let Some(dh) = dh {
        (p.dy, p.lddy) = (dh.at, dh.ld);
    }
    let grid = Grid {
        blocks: ((tiles * spans) as u32, 1),
        threads: (hopper::FORWARD_THREADS as u32, 1),
        shared: shared(op, dh.is_some()) as u32,
    };
    let defines = defines(op, dh.is_some());
    // SAFETY: the argument of conv_swiglu; sizes were checked by the callers, the spans cover the rows once.
    unsafe { call.launch(FILE, "conv_swiglu", &defines, grid, &mut p) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_streams_without_an_activation_are_taken() {
        let shape = Shape { streams: 2, batch: 4, len: 4096, d: 2736, width: 4 };
        let plain = Options { residual: true, silu: false };
        let takes = |shape, options, dtype| takes_swiglu(hopper::ARCH, shape, options, 15, dtype);
        assert!(takes(shape, plain, Dtype::Bf16) && !takes_swiglu("sm_80", shape, plain, 15, Dtype::Bf16));
        assert!(!takes_swiglu(hopper::ARCH, shape, plain, 17, Dtype::Bf16));
        assert!(!takes(shape, Options { silu: true, ..plain }, Dtype::Bf16) && !takes(shape, plain, Dtype::F32));
        for other in [
            Shape { streams: 3, ..shape },
            Shape { d: 128, ..shape },
            Shape { d: 2732, ..shape },
            Shape { width: 3, ..shape },
        ] {
            assert!(!takes(other, plain, Dtype::Bf16), "{other:?}");
        }
    }

    #[test]
    fn shared_memory_is_what_a_block_may_have() {
        // The layout of the kernel at width 4, byte by byte, and the 227 KiB of sm_90 less the kernel's own barriers.
        let shape = Shape { streams: 2, batch: 4, len: 4096, d: 2736, width: 4 };
        let options = Options { residual: true, silu: false };
        let op = |rank| Op {
            shape,
            options,
            kind: Kind::LowRank { rank },
            code: 1,
            element: 2,
            packed: false,
            state: false,
            static_w: true,
        };
        assert_eq!(shared(&op(15), false), 32768 + 4 * (67 * 528 + 2 * 64 * 48));
        assert_eq!(shared(&op(15), true), 32768 + 3 * (67 * 528 + 2 * 64 * 48 + 64 * 272));
        let widest = op(16);
        assert!(shared(&widest, false).max(shared(&widest, true)) < 226 * 1024);
    }
}

//! Launches of `kernels/moe_experts.cu` and `moe_combine.cu`.

use super::tiles::Tiles;
use super::{Experts, Launch, Mixture, ROWS};
use crate::cuda::dense::{check, check_flat, code, vector};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};
use crate::moe::Shape;

impl Mixture<'_> {
    /// The experts' products with operands of this type.
    fn products(&self, device: &Device, keep: bool, operands: &[&Tensor]) -> CudaResult<Products> {
        let dtype = operands[0].dtype;
        let pieces = vector(operands, &[self.shape.d, self.shape.ffn]) > 1;
        let tiles = Tiles::new(device, dtype, self.shape, pieces);
        let mut defines =
            vec![("DTYPE", code("cuda moe", operands[0])?), ("ALIGNED", i64::from(pieces)), ("KEEP", i64::from(keep))];
        defines.extend(tiles.defines());
        Ok(Products { tiles, defines })
    }

    fn check_experts(&self, op: &'static str, experts: Experts<'_>, dtype: Dtype) -> CudaResult<()> {
        let Shape { d, experts: e, ffn, .. } = self.shape;
        for (name, t) in ["gate", "up", "down"].into_iter().zip(experts) {
            check_flat(op, name, t, e * ffn * d, dtype)?;
        }
        Ok(())
    }

    /// Each token's sum over its slots; `weighted` by its experts' weights.
    fn combine(&self, device: &Device, out: &Tensor, y: &Tensor, weighted: bool, accumulate: bool) -> CudaResult<()> {
        let vec = vector(&[out, y], &[y.cols]);
        let defines = vec![
            ("DTYPE", code("moe_combine", y)?),
            ("VEC", vec as i64),
            ("WEIGHTED", i64::from(weighted)),
            ("ACCUMULATE", i64::from(accumulate)),
        ];
        let blocks = (y.rows * (y.cols / vec)).div_ceil(256);
        let launch = Launch { file: "moe_combine.cu", entry: "moe_combine", defines, blocks, threads: 256, shared: 0 };
        let args = &mut [
            out.into(),
            out.stride.into(),
            self.at(|p| p.slots),
            self.at(|p| p.weights),
            y.into(),
            y.stride.into(),
            y.rows.into(),
            y.cols.into(),
            self.shape.top_k.into(),
        ];
        // SAFETY: the arguments of moe_combine; slots lie below the rows of `out`, whose shape its caller has checked.
        unsafe { launch.queue(device, args) }
    }
}

/// How the experts' products are compiled and cut.
struct Products {
    tiles: Tiles,
    defines: Vec<(&'static str, i64)>,
}

impl Products {
    /// So many blocks, each of a tile of so many columns.
    fn launch(&self, entry: &'static str, blocks: usize, columns: usize) -> Launch {
        let (defines, shared) = (self.defines.clone(), Tiles::shared(columns));
        Launch { file: "moe_experts.cu", entry, defines, blocks, threads: 256, shared }
    }
}

/// `y`, the weighted sum of each token's experts. `both` `[slots, 2 F]`, left for the backward: gate and up; `hidden` `[slots, F]` and
/// `out` `[slots, D]`: scratch.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn moe_experts(
    device: &Device,
    m: Mixture<'_>,
    x: &Tensor,
    w: Experts<'_>,
    both: Option<&Tensor>,
    (hidden, out): (&Tensor, &Tensor),
    y: &Tensor,
) -> CudaResult<()> {
    const OP: &str = "cuda moe";
    m.check(OP)?;
    let (Shape { tokens, d, ffn, .. }, slots) = (m.shape, Mixture::slots(m.shape));
    check(OP, tokens, d, x.dtype, &[("x", x), ("y", y)])?;
    check(OP, slots, ffn, x.dtype, &[("hidden", hidden)])?;
    check(OP, slots, d, x.dtype, &[("out", out)])?;
    if let Some(both) = both {
        check(OP, slots, 2 * ffn, x.dtype, &[("gate and up", both)])?;
    }
    m.check_experts(OP, w, x.dtype)?;
    let [gate, up, down] = w;
    let mut operands = vec![x, gate, up, down, hidden, out];
    operands.extend(both);
    let products = m.products(device, both.is_some(), &operands)?;
    let Tiles { gate_up: tile, out: out_tile, .. } = products.tiles;
    let columns = ffn.div_ceil(tile / 2);
    let blocks = m.tiles() * columns;
    let launch = products.launch("moe_gate_up", Tiles::resident(device, blocks, tile, 192), tile);
    let args = &mut [
        x.into(),
        x.stride.into(),
        gate.into(),
        up.into(),
        both.into(),
        both.map_or(0, |b| b.stride).into(),
        hidden.into(),
        hidden.stride.into(),
        m.at(|p| p.tokens),
        m.at(|p| p.tiles),
        d.into(),
        ffn.into(),
        columns.into(),
        blocks.into(),
    ];
    // SAFETY: the arguments of moe_gate_up, of the shapes checked above; the routing names tokens and experts that there are.
    unsafe { launch.queue(device, args)? };
    let columns = d.div_ceil(out_tile);
    let blocks = m.tiles() * columns;
    let launch = products.launch("moe_down", Tiles::resident(device, blocks, out_tile, 256), out_tile);
    let args = &mut [
        hidden.into(),
        hidden.stride.into(),
        down.into(),
        out.into(),
        out.stride.into(),
        m.at(|p| p.tiles),
        d.into(),
        ffn.into(),
        columns.into(),
        blocks.into(),
    ];
    // SAFETY: the arguments of moe_down, likewise.
    unsafe { launch.queue(device, args)? };
    m.combine(device, out, y, true, false)
}

/// The gradient of x (added to what `dx` holds with `accumulate`). `both` holds gate and up and then their gradients; `hidden`: the
/// hidden values times their slot's weight; `parts`: for [`moe_route_backward`]; `out` `[slots, D]`: scratch.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn moe_backward(
    device: &Device,
    m: Mixture<'_>,
    dy: &Tensor,
    w: Experts<'_>,
    both: &Tensor,
    (hidden, parts, out): (&Tensor, &Tensor, &Tensor),
    (dx, accumulate): (&Tensor, bool),
) -> CudaResult<()> {
    const OP: &str = "cuda moe backward";
    m.check(OP)?;
    let (Shape { tokens, d, ffn, .. }, slots) = (m.shape, Mixture::slots(m.shape));
    check(OP, tokens, d, dy.dtype, &[("dy", dy), ("dx", dx)])?;
    check(OP, slots, 2 * ffn, dy.dtype, &[("gate and up", both)])?;
    check(OP, slots, ffn, dy.dtype, &[("hidden", hidden)])?;
    check(OP, slots, d, dy.dtype, &[("out", out)])?;
    check_flat(OP, "parts", parts, Mixture::weight_parts(m.shape), Dtype::F32)?;
    m.check_experts(OP, w, dy.dtype)?;
    let [gate, up, down] = w;
    let operands = [dy, gate, up, down, both, hidden, out];
    let products = m.products(device, true, &operands)?;
    let Tiles { back: tile, out: out_tile, .. } = products.tiles;
    let columns = ffn.div_ceil(tile);
    let launch = products.launch("moe_back", m.tiles() * columns, tile);
    let args = &mut [
        dy.into(),
        dy.stride.into(),
        down.into(),
        both.into(),
        both.stride.into(),
        hidden.into(),
        hidden.stride.into(),
        parts.into(),
        m.at(|p| p.tokens),
        m.at(|p| p.slot_weights),
        m.at(|p| p.tiles),
        d.into(),
        ffn.into(),
        slots.into(),
        columns.into(),
    ];
    // SAFETY: the arguments of moe_back, of the shapes checked above; the routing names tokens and experts that there are.
    unsafe { launch.queue(device, args)? };
    let columns = d.div_ceil(out_tile);
    let launch = products.launch("moe_dx", m.tiles() * columns, out_tile);
    let args = &mut [
        both.into(),
        both.stride.into(),
        gate.into(),
        up.into(),
        out.into(),
        out.stride.into(),
        m.at(|p| p.tiles),
        d.into(),
        ffn.into(),
        columns.into(),
    ];
    // SAFETY: the arguments of moe_dx, likewise.
    unsafe { launch.queue(device, args)? };
    m.combine(device, out, dx, false, accumulate)
}

/// The gradients of the weights, after [`moe_backward`]; each is added to what is there where `add` says so.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn moe_weights_backward(
    device: &Device,
    m: Mixture<'_>,
    (x, dy): (&Tensor, &Tensor),
    (both, hidden): (&Tensor, &Tensor),
    gradients: Experts<'_>,
    add: [bool; 3],
) -> CudaResult<()> {
    const OP: &str = "cuda moe backward";
    m.check(OP)?;
    let (Shape { tokens, d, experts, ffn, .. }, slots) = (m.shape, Mixture::slots(m.shape));
    check(OP, tokens, d, x.dtype, &[("x", x), ("dy", dy)])?;
    check(OP, slots, 2 * ffn, x.dtype, &[("gate and up", both)])?;
    check(OP, slots, ffn, x.dtype, &[("hidden", hidden)])?;
    m.check_experts(OP, gradients, Dtype::F32)?;
    let products = m.products(device, true, &[x, dy, both, hidden])?;
    let tile = products.tiles.out;
    let of_expert = ((2 * ffn).div_ceil(ROWS) + ffn.div_ceil(ROWS)) * d.div_ceil(tile);
    let launch = products.launch("moe_dw", experts * of_expert, tile);
    let [dgate, dup, ddown] = gradients;
    let bits: usize = add.iter().enumerate().map(|(i, &add)| usize::from(add) << i).sum();
    let args = &mut [
        both.into(),
        both.stride.into(),
        x.into(),
        x.stride.into(),
        dy.into(),
        dy.stride.into(),
        hidden.into(),
        hidden.stride.into(),
        m.at(|p| p.tokens),
        m.at(|p| p.starts),
        dgate.into(),
        dup.into(),
        ddown.into(),
        bits.into(),
        d.into(),
        ffn.into(),
    ];
    // SAFETY: the arguments of moe_dw, of the shapes checked above; the routing names tokens that there are.
    unsafe { launch.queue(device, args) }
}

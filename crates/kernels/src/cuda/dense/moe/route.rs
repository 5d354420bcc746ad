//! Launches of `kernels/moe_route.cu`.

use super::{Launch, Mixture, PART, TOKENS};
use crate::cuda::dense::{check, check_flat, code};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};
use crate::moe::Shape;

impl Mixture<'_> {
    /// `E / (k N^2)` times the weight of the load-balancing loss, and the weight of the z-loss over N.
    fn scales(&self) -> (f32, f32) {
        let (Shape { tokens, experts, top_k, .. }, o) = (self.shape, self.options);
        let balance = o.aux_weight * experts as f32 / (top_k as f32 * (tokens as f32).powi(2));
        (balance, o.z_weight / tokens as f32)
    }

    fn router(&self, entry: &'static str, logits: &Tensor, blocks: usize, threads: usize) -> CudaResult<Launch> {
        let per_lane = self.shape.experts.div_ceil(32).next_power_of_two();
        let defines = vec![
            ("DTYPE", code(entry, logits)?),
            ("VEC", 1),
            ("PER_LANE", per_lane as i64),
            ("RENORMALIZE", i64::from(self.options.renormalize)),
        ];
        Ok(Launch { file: "moe_route.cu", entry, defines, blocks, threads, shared: 0 })
    }
}

/// Chooses and weighs each token's experts and sorts the pairs. `outcome`, u32 `[E + 1]`: each expert's tokens, then the bits of the
/// weighted auxiliary losses. `parts`: [`Mixture::route_parts`] words.
///
/// # Errors
/// Shapes or types that do not fit; more experts than the kernels take.
pub fn moe_route(
    device: &Device,
    m: Mixture<'_>,
    logits: &Tensor,
    bias: Option<&Tensor>,
    parts: &Tensor,
    outcome: &Tensor,
) -> CudaResult<()> {
    const OP: &str = "cuda moe route";
    m.check(OP)?;
    let Shape { tokens, experts, top_k, .. } = m.shape;
    check(OP, tokens, experts, logits.dtype, &[("logits", logits)])?;
    check_flat(OP, "parts", parts, Mixture::route_parts(m.shape), Dtype::F32)?;
    check_flat(OP, "outcome", outcome, experts + 1, Dtype::U32)?;
    if let Some(bias) = bias {
        check_flat(OP, "bias", bias, experts, Dtype::F32)?;
    }
    let blocks = tokens.div_ceil(TOKENS);
    let route = m.router("moe_route", logits, blocks, 256)?;
    let args = &mut [
        logits.into(),
        logits.stride.into(),
        bias.into(),
        m.at(|p| p.choices),
        m.at(|p| p.weights),
        parts.into(),
        tokens.into(),
        experts.into(),
        top_k.into(),
    ];
    // SAFETY: the arguments of moe_route, of the shapes checked above; a part per block.
    unsafe { route.queue(device, args)? };
    let (aux, z) = m.scales();
    let plan = m.router("moe_plan", logits, 1, 1024)?;
    let args = &mut [
        parts.into(),
        m.at(|p| p.starts),
        m.at(|p| p.tiles),
        m.at(|p| p.tokens),
        m.at(|p| p.slot_weights),
        outcome.into(),
        aux.into(),
        z.into(),
        blocks.into(),
        experts.into(),
        m.tiles().into(),
    ];
    // SAFETY: the arguments of moe_plan, which reads the parts written above.
    unsafe { plan.queue(device, args)? };
    let place = m.router("moe_place", logits, blocks, 256)?;
    let args = &mut [
        m.at(|p| p.choices),
        m.at(|p| p.weights),
        parts.into(),
        m.at(|p| p.slots),
        m.at(|p| p.tokens),
        m.at(|p| p.slot_weights),
        tokens.into(),
        experts.into(),
        top_k.into(),
    ];
    // SAFETY: the arguments of moe_place; the slots of the parts lie below `Mixture::slots`.
    unsafe { place.queue(device, args) }
}

/// The gradient of the logits, after [`moe_backward`]; `load` as [`moe_route`] left it; `share` (one f32) multiplies the auxiliary losses.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn moe_route_backward(
    device: &Device,
    m: Mixture<'_>,
    logits: &Tensor,
    (parts, load, share): (&Tensor, &Tensor, &Tensor),
    dlogits: &Tensor,
) -> CudaResult<()> {
    const OP: &str = "cuda moe route backward";
    m.check(OP)?;
    let Shape { tokens, experts, top_k, ffn, .. } = m.shape;
    check(OP, tokens, experts, logits.dtype, &[("logits", logits), ("dlogits", dlogits)])?;
    check_flat(OP, "parts", parts, Mixture::weight_parts(m.shape), Dtype::F32)?;
    check_flat(OP, "load", load, experts, Dtype::U32)?;
    check_flat(OP, "share", share, 1, Dtype::F32)?;
    let (aux, z) = m.scales();
    let launch = m.router("moe_route_bwd", logits, tokens.div_ceil(8), 256)?;
    let args = &mut [
        logits.into(),
        logits.stride.into(),
        m.at(|p| p.choices),
        m.at(|p| p.weights),
        m.at(|p| p.slots),
        parts.into(),
        load.into(),
        share.into(),
        dlogits.into(),
        dlogits.stride.into(),
        aux.into(),
        (2.0 * z).into(),
        tokens.into(),
        experts.into(),
        top_k.into(),
        ffn.div_ceil(PART).into(),
        Mixture::slots(m.shape).into(),
    ];
    // SAFETY: the arguments of moe_route_bwd, of the shapes checked above; slots lie below the parts' columns.
    unsafe { launch.queue(device, args) }
}

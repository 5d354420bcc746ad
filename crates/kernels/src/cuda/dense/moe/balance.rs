//! Launches of `kernels/moe_balance.cu`.

use super::{Launch, MOE_EXPERTS};
use crate::cuda::dense::{check_flat, refused};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};
use crate::moe::Shape;

/// `excess[e] (+)= load[e] - k N / E`, f32: what takes the place of the gradient of a balancing bias.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn moe_excess(device: &Device, s: Shape, load: &Tensor, excess: &Tensor, accumulate: bool) -> CudaResult<()> {
    const OP: &str = "cuda moe excess";
    check_flat(OP, "load", load, s.experts, Dtype::U32)?;
    check_flat(OP, "excess", excess, s.experts, Dtype::F32)?;
    let pairs = s.tokens * s.top_k;
    let args = &mut [load.into(), excess.into(), pairs.into(), s.experts.into(), usize::from(accumulate).into()];
    // SAFETY: the arguments of moe_excess, of the shapes checked above.
    unsafe { balance("moe_excess").queue(device, args) }
}

/// Moves a balancing bias by one step of `gamma`, as [`crate::moe::rebalance`] does; where `norm`, that of the step's gradients, is
/// not finite, it stays.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn rebalance(device: &Device, gamma: f32, excess: &Tensor, bias: &Tensor, norm: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda rebalance";
    let experts = bias.cols;
    if experts > MOE_EXPERTS {
        return Err(refused(OP, format!("a bias of {experts} experts"), "choose at most 256 experts"));
    }
    for (name, t, len) in [("bias", bias, experts), ("excess", excess, experts), ("norm", norm, 1)] {
        check_flat(OP, name, t, len, Dtype::F32)?;
    }
    let args = &mut [excess.into(), bias.into(), norm.into(), gamma.into(), experts.into()];
    // SAFETY: the arguments of rebalance, of the shapes checked above.
    unsafe { balance("rebalance").queue(device, args) }
}

fn balance(entry: &'static str) -> Launch {
    Launch { file: "moe_balance.cu", entry, defines: Vec::new(), blocks: 1, threads: 256, shared: 0 }
}

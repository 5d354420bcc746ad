//! The kernel sources, embedded. KERNELS_DIR, when set, is a folder whose files are read instead: edit a kernel, run again.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::error::{CudaError, CudaResult};

/// Every file of `kernels/` that is compiled.
pub const FILES: [(&str, &str); 44] = [
    ("common.cuh", include_str!("../../../../kernels/common.cuh")),
    ("mma.cuh", include_str!("../../../../kernels/mma.cuh")),
    ("tiles.cuh", include_str!("../../../../kernels/tiles.cuh")),
    ("lowrank_hopper.cuh", include_str!("../../../../kernels/lowrank_hopper.cuh")),
    ("attention.cuh", include_str!("../../../../kernels/attention.cuh")),
    ("attention_hopper.cuh", include_str!("../../../../kernels/attention_hopper.cuh")),
    ("hopper.cuh", include_str!("../../../../kernels/hopper.cuh")),
    ("attention_fwd.cu", include_str!("../../../../kernels/attention_fwd.cu")),
    ("attention_dq.cu", include_str!("../../../../kernels/attention_dq.cu")),
    ("attention_dkdv.cu", include_str!("../../../../kernels/attention_dkdv.cu")),
    ("attention_any.cu", include_str!("../../../../kernels/attention_any.cu")),
    ("short_conv_headwise.cu", include_str!("../../../../kernels/short_conv_headwise.cu")),
    ("short_conv_lowrank_fwd.cu", include_str!("../../../../kernels/short_conv_lowrank_fwd.cu")),
    ("short_conv_lowrank_bwd.cu", include_str!("../../../../kernels/short_conv_lowrank_bwd.cu")),
    ("short_conv_lowrank_fwd_hopper.cu", include_str!("../../../../kernels/short_conv_lowrank_fwd_hopper.cu")),
    ("short_conv_lowrank_bwd_hopper.cu", include_str!("../../../../kernels/short_conv_lowrank_bwd_hopper.cu")),
    ("short_conv_swiglu_hopper.cu", include_str!("../../../../kernels/short_conv_swiglu_hopper.cu")),
    ("short_conv_state.cu", include_str!("../../../../kernels/short_conv_state.cu")),
    ("sums.cu", include_str!("../../../../kernels/sums.cu")),
    ("plan.cu", include_str!("../../../../kernels/plan.cu")),
    ("dense.cuh", include_str!("../../../../kernels/dense.cuh")),
    ("norm.cu", include_str!("../../../../kernels/norm.cu")),
    ("pointwise.cu", include_str!("../../../../kernels/pointwise.cu")),
    ("rope.cu", include_str!("../../../../kernels/rope.cu")),
    ("embedding.cu", include_str!("../../../../kernels/embedding.cu")),
    ("cross_entropy.cu", include_str!("../../../../kernels/cross_entropy.cu")),
    ("adamw.cu", include_str!("../../../../kernels/adamw.cu")),
    ("column_sums.cu", include_str!("../../../../kernels/column_sums.cu")),
    ("ssd.cuh", include_str!("../../../../kernels/ssd.cuh")),
    ("ssd_states.cu", include_str!("../../../../kernels/ssd_states.cu")),
    ("ssd_outputs.cu", include_str!("../../../../kernels/ssd_outputs.cu")),
    ("ssd_gradients.cu", include_str!("../../../../kernels/ssd_gradients.cu")),
    ("ssd_bc.cu", include_str!("../../../../kernels/ssd_bc.cu")),
    ("moe.cuh", include_str!("../../../../kernels/moe.cuh")),
    ("moe_hopper.cuh", include_str!("../../../../kernels/moe_hopper.cuh")),
    ("moe_route.cu", include_str!("../../../../kernels/moe_route.cu")),
    ("moe_experts.cu", include_str!("../../../../kernels/moe_experts.cu")),
    ("moe_combine.cu", include_str!("../../../../kernels/moe_combine.cu")),
    ("moe_balance.cu", include_str!("../../../../kernels/moe_balance.cu")),
    ("gated_delta_rule.cuh", include_str!("../../../../kernels/gated_delta_rule.cuh")),
    ("gated_delta_rule_prepare.cu", include_str!("../../../../kernels/gated_delta_rule_prepare.cu")),
    ("gated_delta_rule_states.cu", include_str!("../../../../kernels/gated_delta_rule_states.cu")),
    ("gated_delta_rule_outputs.cu", include_str!("../../../../kernels/gated_delta_rule_outputs.cu")),
    ("gated_delta_rule_gradients.cu", include_str!("../../../../kernels/gated_delta_rule_gradients.cu")),
];

/// The text of one file.
pub fn text(name: &str) -> CudaResult<Cow<'static, str>> {
    if let Some(dir) = std::env::var_os("KERNELS_DIR") {
        let path = std::path::Path::new(&dir).join(name);
        return std::fs::read_to_string(&path).map(Cow::Owned).map_err(|error| CudaError::File { path, error });
    }
    let found = FILES.iter().find(|(file, _)| *file == name);
    let error = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such kernel source");
    found.map(|(_, text)| Cow::Borrowed(*text)).ok_or_else(|| CudaError::File { path: name.into(), error: error() })
}

/// SHA-256 of every file in hexadecimal, by name: what a record says of the kernels it ran.
pub fn hashes() -> BTreeMap<String, String> {
    hashes_of(|_| true)
}

/// The same of the files of some names.
pub fn hashes_of(of: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    use sha2::{Digest, Sha256};
    let hex = |text: &str| Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect();
    let names = FILES.iter().map(|(name, _)| *name).filter(|name| of(name));
    // One that cannot be read cannot have run.
    names.filter_map(|name| Some((name.into(), hex(&text(name).ok()?)))).collect()
}

/// The headers, which any source may include.
pub fn headers() -> CudaResult<Vec<(&'static str, Cow<'static, str>)>> {
    FILES.iter().filter(|(name, _)| name.ends_with(".cuh")).map(|(name, _)| Ok((*name, text(name)?))).collect()
}

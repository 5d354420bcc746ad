//! Launches of mixtures of experts: what they share, and how the kernels lay out what the router finds.

mod balance;
mod experts;
mod route;
mod tiles;
mod variants;

pub use balance::{moe_excess, rebalance};
pub use experts::{moe_backward, moe_experts, moe_weights_backward};
pub use route::{moe_route, moe_route_backward};
pub use variants::{is_hopper_only, moe_variants};

use super::{Arg, Kernel, check_flat, refused};
use crate::cuda::{CudaResult, Device, Tensor};
use crate::moe::{Options, Shape};

/// Most experts of a mixture: eight a lane of the router.
pub const MOE_EXPERTS: usize = 256;
/// Most experts of a token: a lane keeps each.
pub const MOE_TOP_K: usize = 32;
/// Slots of a tile, all of one expert: ROWS of the kernels.
const ROWS: usize = 128;
/// Hidden columns of a summand of the gradient of a slot's weight.
const PART: usize = 64;
/// Tokens of a block of the router.
const TOKENS: usize = 32;

/// A mixture and what its router found: a row of [`Mixture::words`].
#[derive(Debug, Clone, Copy)]
pub struct Mixture<'a> {
    /// Dimensions.
    pub shape: Shape,
    /// How tokens are weighted, and the auxiliary losses.
    pub options: Options,
    /// Choices, weights, slots; 4 bytes each.
    pub routing: &'a Tensor,
}

/// The experts' weights, `[E F, D]`, `[E F, D]` and `[E D, F]`, or their gradients in f32.
pub type Experts<'a> = [&'a Tensor; 3];

/// Places in the routing, in words.
struct Places {
    choices: usize,
    weights: usize,
    slots: usize,
    tokens: usize,
    slot_weights: usize,
    starts: usize,
    tiles: usize,
    end: usize,
}

impl Places {
    fn new(s: Shape) -> Self {
        let (pairs, slots) = (s.tokens * s.top_k, Mixture::slots(s));
        let lengths = [pairs, pairs, pairs, slots, slots, s.experts + 1, slots / ROWS];
        let mut at = 0;
        let [choices, weights, slots, tokens, slot_weights, starts, tiles] = lengths.map(|length| {
            at += length;
            at - length
        });
        Self { choices, weights, slots, tokens, slot_weights, starts, tiles, end: at }
    }
}

impl Mixture<'_> {
    /// Pairs of a token and an expert, each expert's rounded up to a tile, at most.
    pub fn slots(s: Shape) -> usize {
        let pairs = s.tokens * s.top_k;
        (pairs + s.experts.min(pairs) * (ROWS - 1)) / ROWS * ROWS
    }

    /// Words of the routing.
    pub fn words(s: Shape) -> usize {
        Places::new(s).end
    }

    /// Words that [`moe_route`] works in.
    pub fn route_parts(s: Shape) -> usize {
        s.tokens.div_ceil(TOKENS) * (2 * s.experts + 1)
    }

    /// Words that [`moe_backward`] leaves for [`moe_route_backward`].
    pub fn weight_parts(s: Shape) -> usize {
        s.ffn.div_ceil(PART) * Self::slots(s)
    }

    /// The chosen experts, words `[N, k]`, once [`moe_route`] has run.
    ///
    /// # Errors
    /// If the routing has fewer words.
    pub fn choices(&self) -> CudaResult<Tensor> {
        self.routing.columns(Places::new(self.shape).choices, self.shape.tokens * self.shape.top_k)
    }

    fn tiles(&self) -> usize {
        Self::slots(self.shape) / ROWS
    }

    fn at(&self, place: impl Fn(&Places) -> usize) -> Arg {
        Arg(self.routing.address() + 4 * place(&Places::new(self.shape)) as u64)
    }

    fn check(&self, op: &'static str) -> CudaResult<()> {
        let Shape { tokens, experts, top_k, .. } = self.shape;
        if !(1..=MOE_EXPERTS).contains(&experts) || !(1..=MOE_TOP_K.min(experts)).contains(&top_k) {
            let what = format!("{top_k} of {experts} experts");
            return Err(refused(op, what, "choose at most 32 of at most 256 experts"));
        }
        if Self::slots(self.shape) > i32::MAX as usize {
            return Err(refused(op, format!("{tokens} tokens of {top_k} experts"), "split the batch"));
        }
        check_flat(op, "routing", self.routing, Self::words(self.shape), self.routing.dtype)
    }
}

/// A kernel whose defines are its own.
struct Launch {
    file: &'static str,
    entry: &'static str,
    defines: Vec<(&'static str, i64)>,
    blocks: usize,
    threads: usize,
    shared: usize,
}

impl Launch {
    /// # Safety
    /// As [`Kernel::launch`].
    unsafe fn queue(&self, device: &Device, args: &mut [Arg]) -> CudaResult<()> {
        let &Self { file, entry, ref defines, blocks, threads, shared } = self;
        let kernel = Kernel { file, entry, defines, blocks: (blocks, 1), threads, shared };
        // SAFETY: by the caller.
        unsafe { kernel.launch(device, args) }
    }
}

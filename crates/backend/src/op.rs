//! The coarse ops a tape is made of.

/// A value on a tape: the output of one op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Var(pub(crate) usize);

impl Var {
    /// The value that the op at this position makes.
    pub(crate) fn at(index: usize) -> Self {
        Self(index)
    }

    /// Position of the op that makes this value.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A declared parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Param(pub(crate) usize);

impl Param {
    /// Position among [`Tape::specs`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// The taps of a short convolution (shapes: B batch, T len, D columns, W width, H = D / head size, R rank).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The same taps at every token.
    Static {
        /// Taps `[W, D]`, tap 0 on the current token.
        w: Param,
    },
    /// One filter per token and head.
    HeadWise {
        /// Taps `[B T, H W]`, W innermost.
        weight: Var,
        /// Channels that share a filter.
        head_size: usize,
        /// Taps `[W, D]` added at every token.
        static_w: Option<Param>,
    },
    /// Taps `z U`, `[B T, W D]`, never materialised.
    LowRank {
        /// Codes `[B T, R]`.
        z: Var,
        /// Generator `[R, W D]`, tap-major.
        u: Param,
        /// Taps `[W, D]` added at every token.
        static_w: Option<Param>,
    },
}

/// A mixture of experts (shapes: E experts, D columns, F the hidden width of one); see [`kernels::moe`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moe {
    /// Input `[.., D]`.
    pub x: Var,
    /// The router's logits `[.., E]`.
    pub logits: Var,
    /// Gates of all experts `[E F, D]`.
    pub gate: Param,
    /// Ups `[E F, D]`.
    pub up: Param,
    /// Downs `[E D, F]`.
    pub down: Param,
    /// Added to the probabilities to choose by: a parameter of [`Tape::balance`](crate::Tape::balance).
    pub bias: Option<Param>,
    /// Experts of each token.
    pub top_k: usize,
    /// Whether a token's weights are scaled to a sum of 1.
    pub renormalize: bool,
    /// Weight of the load-balancing loss.
    pub aux_weight: f32,
    /// Weight of the z-loss.
    pub z_weight: f32,
}

/// The gated delta rule (shapes: H heads, K and V the sizes of a head's key and value); see [`kernels::gated_delta_rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedDeltaRule {
    /// Queries `[.., H K]`, normed inside.
    pub q: Var,
    /// Keys `[.., H K]`, normed inside.
    pub k: Var,
    /// Values `[.., H V]`.
    pub v: Var,
    /// Before bias and softplus, how much is forgotten `[.., H]`.
    pub a: Var,
    /// Before the sigmoid, how much is written `[.., H]`.
    pub b: Var,
    /// Log of the rate of decay `[H]`.
    pub a_log: Param,
    /// Added to a `[H]`.
    pub dt_bias: Param,
}

/// Mamba-2's recurrence (shapes: H heads, P columns of one, G groups, S the state's size); see [`kernels::ssd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssd {
    /// Input `[.., H P]`.
    pub x: Var,
    /// Where the state is written `[.., G S]`.
    pub b: Var,
    /// Where the state is read `[.., G S]`.
    pub c: Var,
    /// Step sizes before bias and softplus `[.., H]`.
    pub dt: Var,
    /// Log of the rate of decay `[H]`.
    pub a_log: Param,
    /// Added to dt `[H]`.
    pub dt_bias: Param,
    /// What x is multiplied by past the state `[H]`.
    pub d: Param,
    /// Groups of heads that share b and c.
    pub groups: usize,
}

/// What runs: each op's inputs and options. Its output is the [`Var`] of its position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Rows of `table [V, D]` picked by the batch's ids.
    Embedding {
        /// The table.
        table: Param,
    },
    /// `x + table[t]`, t the position in the sequence; `table [T_max, D]`.
    AddPositions {
        /// Input.
        x: Var,
        /// The table.
        table: Param,
    },
    /// `x w^T (+ bias) (+ residual)`.
    Linear {
        /// Input `[.., in]`.
        x: Var,
        /// Weight `[out, in]`.
        w: Param,
        /// Bias `[out]`.
        bias: Option<Param>,
        /// Added to the product: the residual stream.
        residual: Option<Var>,
    },
    /// `x / rms(x) * gain` over groups of `gain`'s length (all columns, or each head for QK-norm).
    RmsNorm {
        /// Input.
        x: Var,
        /// Gain, as long as a group.
        gain: Param,
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean) / std * gain + bias` over all columns.
    LayerNorm {
        /// Input.
        x: Var,
        /// Gain `[D]`.
        gain: Param,
        /// Bias `[D]`.
        bias: Param,
        /// Added to the variance.
        eps: f32,
    },
    /// Rotary positions on each head, in the rotate-half convention.
    Rope {
        /// Input, heads side by side.
        x: Var,
        /// Number of heads.
        heads: usize,
        /// Base of the frequencies.
        theta: f32,
    },
    /// Causal softmax attention, scale `1 / sqrt(head_size)`.
    Attention {
        /// Queries.
        q: Var,
        /// Keys.
        k: Var,
        /// Values.
        v: Var,
        /// Number of heads.
        heads: usize,
    },
    /// `silu(gate) * up`.
    SwiGlu {
        /// Gate.
        gate: Var,
        /// Up.
        up: Var,
    },
    /// `gelu(x)`, the tanh form.
    Gelu {
        /// Input.
        x: Var,
    },
    /// A causal depthwise convolution, static or dynamic: `act(conv(x)) (+ x)`.
    ShortConv {
        /// Input `[.., D]`.
        x: Var,
        /// Where the taps come from.
        filter: Filter,
        /// Number of taps.
        width: usize,
        /// Whether x is added.
        residual: bool,
        /// Whether the convolution passes through SiLU.
        silu: bool,
    },
    /// The weighted sum of each token's `top_k` SwiGLU experts. Its auxiliary losses join the tape's loss.
    Moe(Moe),
    /// The recurrence of Gated DeltaNet, `[.., H V]`.
    GatedDeltaRule(GatedDeltaRule),
    /// The recurrence of Mamba-2, `[.., H P]`.
    Ssd(Ssd),
    /// `a + b`.
    Add {
        /// First summand.
        a: Var,
        /// Second summand.
        b: Var,
    },
    /// Mean negative log likelihood of the batch's targets, ignored ones left out. The tape's loss.
    CrossEntropy {
        /// Logits `[.., V]`.
        logits: Var,
    },
}

impl Op {
    /// The op's name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embedding { .. } => "embedding",
            Op::AddPositions { .. } => "add_positions",
            Op::Linear { .. } => "linear",
            Op::RmsNorm { .. } => "rms_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::SwiGlu { .. } => "swiglu",
            Op::Gelu { .. } => "gelu",
            Op::ShortConv { .. } => "short_conv",
            Op::Moe(_) => "moe",
            Op::GatedDeltaRule(_) => "gated_delta_rule",
            Op::Ssd(_) => "ssd",
            Op::Add { .. } => "add",
            Op::CrossEntropy { .. } => "cross_entropy",
        }
    }
}

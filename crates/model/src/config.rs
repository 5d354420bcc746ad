//! Typed configurations; what a toml file may say.

use serde::{Deserialize, Serialize};

/// A pre-norm Transformer (PAPER section 3): attention and MLP blocks on one residual stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transformer {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; they divide `d_model`.
    pub heads: usize,
    /// The MLP of each block.
    #[serde(default)]
    pub mlp: Mlp,
    /// Hidden width of the MLP; ignored by `none` and `moe`.
    #[serde(default)]
    pub ffn: usize,
    /// Kind of norm.
    #[serde(default)]
    pub norm: Norm,
    /// How tokens know their place.
    #[serde(default)]
    pub positions: Positions,
    /// Base of the rotary frequencies.
    #[serde(default = "rope_theta")]
    pub rope_theta: f32,
    /// Learned positions; at least the longest row.
    #[serde(default)]
    pub max_len: usize,
    /// Whether input and output embeddings are one parameter.
    #[serde(default)]
    pub tied: bool,
    /// Whether each head's q and k are RMS-normed, after the convolution and before RoPE.
    #[serde(default)]
    pub qk_norm: bool,
    /// Short convolutions.
    #[serde(default)]
    pub conv: Conv,
    /// Standard deviation of every linear and embedding at the start.
    #[serde(default = "init_std")]
    pub init_std: f32,
    /// Whether the linears that write to the residual stream start smaller, by `1 / sqrt(2 layers)`.
    #[serde(default = "yes")]
    pub depth_scaled_init: bool,
}

fn rope_theta() -> f32 {
    10_000.0
}

fn init_std() -> f32 {
    0.02
}

fn yes() -> bool {
    true
}

/// The MLP of a block: `mlp = "gelu"`, `mlp = { moe = { experts = 8, top_k = 2, ffn = 64 } }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mlp {
    /// `down(silu(gate x) * up x)`.
    #[default]
    Swiglu,
    /// `down(gelu(up x))`.
    Gelu,
    /// A router and SwiGLU experts.
    Moe(Moe),
    /// Attention only.
    None,
}

/// A mixture of experts (PAPER section 6): each token goes to its `top_k` likeliest experts, and none is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// Experts.
    pub experts: usize,
    /// Experts of each token.
    pub top_k: usize,
    /// Hidden width of an expert.
    pub ffn: usize,
    /// Hidden width of the expert that every token goes to besides; 0 for none.
    #[serde(default)]
    pub shared_ffn: usize,
    /// Whether a token's weights sum to 1: the softmax over its experts alone rather than over all.
    #[serde(default = "yes")]
    pub renormalize: bool,
    /// Weight of the load-balancing loss.
    #[serde(default = "aux_weight")]
    pub aux_weight: f32,
    /// Weight of the z-loss.
    #[serde(default)]
    pub z_weight: f32,
    /// Step of loss-free balancing, a bias per expert that only the choice sees; 0 for none.
    #[serde(default)]
    pub loss_free_gamma: f32,
}

fn aux_weight() -> f32 {
    0.001
}

/// Kind of norm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Root mean square, gain only.
    #[default]
    Rms,
    /// Mean and variance, gain and bias.
    Layer,
}

/// How tokens know their place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Rotary, on q and k.
    #[default]
    Rope,
    /// A learned table added to the embedding.
    Learned,
    /// None but causality.
    None,
}

/// Short convolutions of a model: what kind, and after which linears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Where the taps come from.
    #[serde(default)]
    pub kind: ConvKind,
    /// Taps, 1 to 8.
    #[serde(default = "width")]
    pub width: usize,
    /// Channels that share a filter, of the head-wise kind.
    #[serde(default = "head_size")]
    pub head_size: usize,
    /// Rank of the low-rank kind, 1 to 128.
    #[serde(default = "rank")]
    pub rank: usize,
    /// Whether dynamic taps have a static part `[W, D]` added.
    #[serde(default = "yes")]
    pub bias: bool,
    /// The linears whose output is convolved.
    #[serde(default = "qkv")]
    pub on: Vec<Place>,
}

impl Default for Conv {
    fn default() -> Self {
        Self { kind: ConvKind::None, width: width(), head_size: head_size(), rank: rank(), bias: true, on: qkv() }
    }
}

fn width() -> usize {
    4
}

fn head_size() -> usize {
    32
}

fn rank() -> usize {
    16
}

fn qkv() -> Vec<Place> {
    vec![Place::Q, Place::K, Place::V]
}

/// Where the taps come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConvKind {
    /// No convolution.
    #[default]
    None,
    /// Learned taps, the same at every token.
    Static,
    /// Dynamic, one filter per head of neighbouring channels.
    HeadWise,
    /// Dynamic, one filter per channel from a low-rank code.
    LowRank,
}

/// A linear layer of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// MLP gate.
    Gate,
    /// MLP up.
    Up,
    /// MLP down.
    Down,
}

impl Place {
    /// All seven linears of a SwiGLU block.
    pub const ALL: [Place; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The name in parameters: `q`, `gate`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

//! Typed configurations; what a toml file may say.

use serde::{Deserialize, Serialize};

/// The paper's pre-norm Transformer: attention and MLP blocks on one residual stream. With another mixer, a
/// linear RNN of the same structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transformer {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; they divide `d_model`. Ignored by other mixers.
    #[serde(default)]
    pub heads: usize,
    /// What mixes tokens in each block.
    #[serde(default, skip_serializing_if = "Mixer::is_attention")]
    pub mixer: Mixer,
    /// The MLP of each block.
    #[serde(default)]
    pub mlp: Mlp,
    /// Hidden width of the MLP; ignored by `none` and `moe`.
    #[serde(default)]
    pub ffn: usize,
    /// Kind of norm.
    #[serde(default)]
    pub norm: Norm,
    /// How tokens know their place. Rotary positions are attention's: a linear RNN has none.
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

/// What mixes tokens: `mixer = { gated-deltanet = { heads = 2, key_size = 256, value_size = 512 } }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixer {
    /// Causal softmax attention.
    #[default]
    Attention,
    /// Gated DeltaNet (Yang, Kautz and Hatamizadeh, 2024).
    #[serde(rename = "gated-deltanet")]
    GatedDeltaNet(GatedDeltaNet),
    /// Mamba-2 (Dao and Gu, 2024).
    #[serde(rename = "mamba-2")]
    Mamba2(Mamba2),
}

impl Mixer {
    fn is_attention(&self) -> bool {
        *self == Self::Attention
    }
}

/// Sizes of Gated DeltaNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedDeltaNet {
    /// Heads.
    pub heads: usize,
    /// Columns of a head's query and key.
    pub key_size: usize,
    /// Columns of a head's value.
    pub value_size: usize,
}

/// Sizes of Mamba-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mamba2 {
    /// Heads; they divide `intermediate`.
    pub heads: usize,
    /// Columns of all heads.
    pub intermediate: usize,
    /// Rows of a state.
    pub state_size: usize,
    /// Groups of heads that share b and c; they divide the heads.
    #[serde(default = "one")]
    pub groups: usize,
}

fn one() -> usize {
    1
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

/// A mixture of experts: each token goes to its `top_k` likeliest experts, and none is dropped.
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

/// Short convolutions of a model: what kind, and after which linears. The convolutions that a linear RNN has of its own,
/// with SiLU, are static where a dynamic kind does not take their place: Gated DeltaNet's on q, k and v; Mamba-2's on c, b
/// and x, whose parts are those of q, k and v.
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

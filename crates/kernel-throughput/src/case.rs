//! One convolution: everything that decides what is computed, apart from the numbers.

use serde::Deserialize;

/// Where the taps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, tag = "kind")]
pub enum Op {
    /// The same taps for every token.
    Static,
    /// A filter per token and head.
    HeadWise {
        /// Channels that share a filter; divides d.
        head_size: usize,
    },
    /// Taps z U.
    LowRank {
        /// R.
        rank: usize,
    },
}

/// An element type; sums are f32 in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// The upper half of a single.
    Bf16,
    /// IEEE half.
    F16,
}

impl Dtype {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The nearest value of this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Bf16 => half::bf16::from_f32(value).to_f32(),
            Self::F16 => half::f16::from_f32(value).to_f32(),
        }
    }

    /// How far a result may be from the f64 reference on the same rounded inputs, ‖out - ref‖ / ‖ref‖.
    pub fn tolerance(self) -> f64 {
        match self {
            Self::F32 => 1e-5,
            Self::F16 => 1e-3,
            Self::Bf16 => 4e-3,
        }
    }
}

/// One convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Where the taps come from.
    pub op: Op,
    /// Whether static taps are added; a static filter has them anyway.
    pub static_w: bool,
    /// y = act(conv(x)) + x.
    pub residual: bool,
    /// act = SiLU.
    pub silu: bool,
    /// Sequences of equal length; 1 with `cu_seqlens`.
    pub batch: usize,
    /// Tokens of each; of all with `cu_seqlens`.
    pub len: usize,
    /// Channels.
    pub d: usize,
    /// Taps.
    pub width: usize,
    /// Borders of packed sequences.
    pub cu_seqlens: Option<Vec<usize>>,
    /// Whether there is an initial state, and a final state with a gradient.
    pub state: bool,
    /// Convolutions in one launch, side by side in one buffer (q, k, v).
    pub streams: usize,
    /// Foreign columns before and after the operands' own in each row.
    pub gap: usize,
    /// Element type.
    pub dtype: Dtype,
}

impl Case {
    /// Tokens in all.
    pub fn rows(&self) -> usize {
        self.batch * self.len
    }

    /// Columns of the tokens' own taps or codes: H W, R, or none.
    pub fn columns(&self) -> usize {
        match self.op {
            Op::Static => 0,
            Op::HeadWise { head_size } => self.d / head_size * self.width,
            Op::LowRank { rank } => rank,
        }
    }

    /// Rows of U.
    pub fn rank(&self) -> usize {
        if let Op::LowRank { rank } = self.op { rank } else { 0 }
    }

    /// Whether there are static taps.
    pub fn has_static(&self) -> bool {
        self.static_w || self.op == Op::Static
    }

    /// First and last + 1 token of every sequence.
    pub fn sequences(&self) -> Vec<(usize, usize)> {
        match &self.cu_seqlens {
            Some(cu) => cu.windows(2).map(|w| (w[0], w[1])).collect(),
            None => (0..self.batch).map(|b| (b * self.len, (b + 1) * self.len)).collect(),
        }
    }

    /// Elements of the state of one stream; none with one tap.
    pub fn state_len(&self) -> usize {
        if self.state { self.sequences().len() * (self.width - 1) * self.d } else { 0 }
    }

    /// Multiplications of the f64 reference, forward, of all streams.
    pub fn cost(&self) -> usize {
        self.streams * self.rows() * self.d * self.width * (1 + self.rank())
    }

    /// The fewest bytes of one stream, each operand read once and each result written once: forward, backward.
    pub fn bytes(&self) -> (u64, u64) {
        let x = (self.rows() * self.d * self.dtype.bytes()) as u64;
        let taps = (self.rows() * self.columns() * self.dtype.bytes()) as u64;
        (2 * x + taps, 3 * x + 2 * taps)
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.op {
            Op::Static => write!(f, "static")?,
            Op::HeadWise { head_size } => write!(f, "head-wise {head_size}")?,
            Op::LowRank { rank } => write!(f, "low-rank {rank}")?,
        }
        write!(f, " {} B={} T={} D={} W={}", self.dtype.name(), self.batch, self.len, self.d, self.width)?;
        let sequences = self.cu_seqlens.as_ref().map_or(0, |cu| cu.len() - 1);
        for (is, word) in [
            (self.static_w, "static_w"),
            (self.residual, "residual"),
            (self.silu, "silu"),
            (self.state, "state"),
            (sequences > 0, "packed"),
            (self.streams > 1, "streams"),
        ] {
            if is {
                write!(f, " {word}")?;
            }
        }
        if sequences > 0 {
            write!(f, " {sequences} sequences")?;
        }
        if self.gap > 0 { write!(f, " gap {}", self.gap) } else { Ok(()) }
    }
}

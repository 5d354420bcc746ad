//! A row of table 2.

use serde::Deserialize;

use crate::case::{Case, Dtype, Op};
use crate::values::splitmix;

/// A row's configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Where the taps come from.
    pub filter: Op,
    /// Static taps beside dynamic ones.
    #[serde(default)]
    pub static_w: bool,
    /// y = conv(x) + x.
    #[serde(default)]
    pub residual: bool,
    /// B.
    pub batch: usize,
    /// T.
    pub len: usize,
    /// D.
    pub d: usize,
    /// W.
    pub width: usize,
    /// The B T tokens packed as this many sequences of unequal length; 0: B sequences of T.
    #[serde(default)]
    pub sequences: usize,
    /// One token of each of B sequences, with a state.
    #[serde(default)]
    pub decode: bool,
    /// Timings of which the median is taken.
    pub repetitions: usize,
}

impl Row {
    /// Refuses what cannot be measured.
    ///
    /// # Errors
    /// What is wrong and the remedy.
    pub fn check(&self) -> Result<(), String> {
        let range = |name: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}: use 1 to {max}")) }
        };
        range("batch", self.batch, 1 << 20)?;
        range("len", self.len, 1 << 24)?;
        range("d", self.d, 1 << 20)?;
        range("width", self.width, 8)?;
        range("repetitions", self.repetitions, 1000)?;
        match self.filter {
            Op::Static => {}
            Op::HeadWise { head_size } => {
                range("head_size", head_size, self.d)?;
                if !self.d.is_multiple_of(head_size) {
                    return Err(format!("d = {}, head_size = {head_size}: use a head size that divides d", self.d));
                }
            }
            Op::LowRank { rank } => range("rank", rank, 128)?,
        }
        if self.static_w && self.filter == Op::Static {
            return Err("static_w on a static filter: it has them anyway".into());
        }
        if self.decode && (self.len != 1 || self.sequences > 0) {
            return Err("decode: use len = 1 and no sequences".into());
        }
        if self.sequences > self.batch * self.len {
            return Err(format!("sequences = {}: use at most batch * len", self.sequences));
        }
        Ok(())
    }

    /// The case that is timed.
    pub fn case(&self, dtype: Dtype) -> Case {
        let packed = self.sequences > 0;
        let tokens = self.batch * self.len;
        let (batch, len) = if packed { (1, tokens) } else { (self.batch, self.len) };
        let cu_seqlens = packed.then(|| borders(tokens, self.sequences));
        self.sized(batch, len, cu_seqlens, dtype)
    }

    /// A case of the same op, options and channels with few tokens, to be compared with the reference.
    pub fn gate(&self, dtype: Dtype) -> Case {
        if self.decode {
            return self.sized(self.batch.min(5), 6, None, dtype);
        }
        let cu_seqlens = (self.sequences > 0).then(|| vec![0, 1, 40, 40, 134]);
        let (batch, len) = if self.sequences > 0 { (1, 134) } else { (2, 67) };
        self.sized(batch, len, cu_seqlens, dtype)
    }

    fn sized(&self, batch: usize, len: usize, cu_seqlens: Option<Vec<usize>>, dtype: Dtype) -> Case {
        Case {
            op: self.filter,
            static_w: self.static_w,
            residual: self.residual,
            silu: false,
            batch,
            len,
            d: self.d,
            width: self.width,
            cu_seqlens,
            state: self.decode && self.width > 1,
            streams: 1,
            gap: 0,
            dtype,
        }
    }

    /// The fewest bytes: forward, and forward with backward. A decode step also reads the taps' generators and reads and
    /// writes the state.
    pub fn bytes(&self, dtype: Dtype) -> (u64, Option<u64>) {
        let case = self.case(dtype);
        let (forward, backward) = case.bytes();
        if !self.decode {
            return (forward, Some(forward + backward));
        }
        let generators = case.rank() * self.width * self.d + usize::from(case.has_static()) * self.width * self.d;
        let state = 2 * self.batch * (self.width - 1) * self.d;
        (forward + ((generators + state) * dtype.bytes()) as u64, None)
    }
}

/// Borders of `sequences` pseudo-random pieces of `tokens`.
fn borders(tokens: usize, sequences: usize) -> Vec<usize> {
    let mut cu: Vec<usize> = (1..sequences as u64).map(|i| splitmix(i) as usize % tokens).collect();
    cu.extend([0, tokens]);
    cu.sort_unstable();
    cu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        let base = "batch = 4\nlen = 4096\nd = 2048\nwidth = 4\nrepetitions = 30\n";
        toml::from_str(&format!("{base}{text}")).unwrap()
    }

    #[test]
    fn bytes_are_those_of_the_formulas() {
        let n = 4 * 4096 * 2048;
        let (forward, both) = row("filter = { kind = 'head-wise', head_size = 16 }").bytes(Dtype::Bf16);
        assert_eq!((forward, both), (n * 9 / 2, Some(n * 9 / 2 + n * 7)));
        let (forward, _) = row("filter = { kind = 'low-rank', rank = 16 }").bytes(Dtype::Bf16);
        assert_eq!(forward, n * 4 + 4 * 4096 * 16 * 2);
        let mut decode = row("filter = { kind = 'static' }\ndecode = true");
        decode.len = 1;
        assert_eq!(decode.bytes(Dtype::F32), ((2 * 4 + 4 + 2 * 4 * 3) * 2048 * 4, None));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        assert_eq!(row("filter = { kind = 'head-wise', head_size = 32 }").check(), Ok(()));
        for (text, part) in [
            ("filter = { kind = 'head-wise', head_size = 3 }", "divides d"),
            ("filter = { kind = 'low-rank', rank = 129 }", "use 1 to 128"),
            ("filter = { kind = 'static' }\ndecode = true", "use len = 1"),
            ("filter = { kind = 'static' }\nstatic_w = true", "anyway"),
        ] {
            assert!(row(text).check().unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn packed_borders_cover_all_tokens() {
        let case = row("filter = { kind = 'static' }\nsequences = 24").case(Dtype::F32);
        let cu = case.cu_seqlens.unwrap();
        assert_eq!((cu.len(), cu[0], cu[24]), (25, 0, 4 * 4096));
        assert!(cu.is_sorted());
    }
}

//! A short convolution after a linear layer, its taps generated from that layer's block input.
//!
//! `y <- y + conv(y)`; `y <- silu(conv(y))` where a linear RNN has one of its own. Generators start at zero and the static taps at
//! `U(-1/sqrt(W), 1/sqrt(W))`, so at step 0 every dynamic variant equals the static one.

use backend::{Filter, Init, Result, Tape, Var};

use crate::config::{Conv, ConvKind, Place};

impl Conv {
    /// Whether the linear at `place` is followed by a convolution.
    pub fn is_on(&self, place: Place) -> bool {
        self.kind != ConvKind::None && self.on.contains(&place)
    }

    /// Convolves `y`, the output of the linear at `place`, where this configuration says so. `input` is what the
    /// linear was applied to, and what dynamic taps are generated from.
    ///
    /// # Errors
    /// [`backend::Error::Shape`] if head size, rank or width do not fit.
    pub fn record(
        &self,
        tape: &mut Tape,
        prefix: &str,
        place: Place,
        y: Var,
        input: Var,
        init_std: f32,
    ) -> Result<Var> {
        if !self.is_on(place) {
            return Ok(y);
        }
        let filter = self.filter(tape, &format!("{prefix}.{}", place.name()), self.kind, y, input, init_std)?;
        tape.short_conv(y, filter, self.width, true, false)
    }

    /// `silu(conv(y))`, with static taps unless this configuration puts a dynamic kind in their `place`.
    ///
    /// # Errors
    /// As [`Conv::record`].
    pub(crate) fn built_in(
        &self,
        tape: &mut Tape,
        name: &str,
        place: Place,
        y: Var,
        input: Var,
        init_std: f32,
    ) -> Result<Var> {
        let kind = if self.is_on(place) { self.kind } else { ConvKind::Static };
        let filter = self.filter(tape, name, kind, y, input, init_std)?;
        tape.short_conv(y, filter, self.width, false, true)
    }

    /// The taps of a convolution of `y` that is not of kind none.
    fn filter(
        &self,
        tape: &mut Tape,
        linear: &str,
        kind: ConvKind,
        y: Var,
        input: Var,
        init_std: f32,
    ) -> Result<Filter> {
        let (width, d, d_in) = (self.width, tape.cols(y), tape.cols(input));
        let name = |part: &str| format!("{linear}.conv.{part}");
        let static_taps = |tape: &mut Tape| {
            let bound = 1.0 / (width as f32).sqrt();
            tape.param(name("static_w"), &[width, d], Init::Uniform { bound }, false)
        };
        Ok(match kind {
            ConvKind::None | ConvKind::Static => Filter::Static { w: static_taps(tape)? },
            ConvKind::HeadWise => {
                if self.head_size == 0 || !d.is_multiple_of(self.head_size) {
                    let what = format!("head_size {} does not divide {d} channels", self.head_size);
                    let remedy = "choose a conv.head_size that divides the layer's width";
                    return Err(backend::Error::Shape { op: "short_conv", what, remedy });
                }
                let taps = d / self.head_size * width;
                let w = tape.param(name("weight"), &[taps, d_in], Init::Zeros, true)?;
                let weight = tape.linear(input, w, None, None)?;
                let static_w = if self.bias { Some(static_taps(tape)?) } else { None };
                Filter::HeadWise { weight, head_size: self.head_size, static_w }
            }
            ConvKind::LowRank => {
                let a = tape.param(name("a"), &[self.rank, d_in], Init::Normal { std: init_std }, true)?;
                let z = tape.linear(input, a, None, None)?;
                let u = tape.param(name("u"), &[self.rank, width * d], Init::Zeros, true)?;
                let static_w = if self.bias { Some(static_taps(tape)?) } else { None };
                Filter::LowRank { z, u, static_w }
            }
        })
    }
}

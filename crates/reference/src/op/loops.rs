//! The loops of the custom ops, on plain slices.
//!
//! Every kind of filter is a linear map from what it is made of to the D taps of one token and one offset: [`Filter::taps`]
//! applies the map, [`Filter::adjoint`] its transpose, and the convolution itself is written once.

use dfdx::dtypes::Dtype;

/// B rows of T tokens of D channels, W taps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) len: usize,
    pub(super) channels: usize,
    pub(super) width: usize,
}

/// What taps are made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filter {
    /// `[w]`, w `[W, D]`.
    Static,
    /// `[weight]`, weight `[B, T, H, W]`.
    HeadWise { heads: usize },
    /// `[z, u]`, z `[B, T, R]`, u `[R, W, D]`.
    LowRank { rank: usize },
}

impl Sizes {
    /// Those of x, and a width.
    pub(super) fn of(x: &impl dfdx::shapes::Shape<Concrete = [usize; 3]>, width: usize) -> Self {
        let [batch, len, channels] = x.concrete();
        Self { batch, len, channels, width }
    }

    /// Calls `at(n, w, n - w)` for every token n and tap w whose token `n - w` is in n's row.
    fn each(self, mut at: impl FnMut(usize, usize, usize)) {
        for n in 0..self.batch * self.len {
            for w in 0..self.width.min(n % self.len + 1) {
                at(n, w, n - w);
            }
        }
    }

    /// Channels of token n.
    fn row<T>(self, x: &[T], n: usize) -> &[T] {
        &x[n * self.channels..][..self.channels]
    }

    fn row_mut<T>(self, x: &mut [T], n: usize) -> &mut [T] {
        &mut x[n * self.channels..][..self.channels]
    }
}

impl Filter {
    /// Taps `[D]` of token n at offset w.
    fn taps<E: Dtype>(self, s: Sizes, parts: &[Vec<E>], n: usize, w: usize, taps: &mut [E]) {
        match self {
            Filter::Static => taps.copy_from_slice(s.row(&parts[0], w)),
            Filter::HeadWise { heads } => {
                for (h, taps) in taps.chunks_exact_mut(s.channels / heads).enumerate() {
                    taps.fill(parts[0][(n * heads + h) * s.width + w]);
                }
            }
            Filter::LowRank { rank } => {
                taps.fill(E::default());
                for r in 0..rank {
                    add_scaled(taps, parts[0][n * rank + r], s.row(&parts[1], r * s.width + w));
                }
            }
        }
    }

    /// Adds to the gradients of the parts what the gradient `dtaps` of [`Filter::taps`] makes of them.
    fn adjoint<E: Dtype>(self, s: Sizes, parts: &[Vec<E>], n: usize, w: usize, dtaps: &[E], dparts: &mut [Vec<E>]) {
        match self {
            Filter::Static => add_scaled(s.row_mut(&mut dparts[0], w), E::ONE, dtaps),
            Filter::HeadWise { heads } => {
                for (h, dtaps) in dtaps.chunks_exact(s.channels / heads).enumerate() {
                    let dweight = &mut dparts[0][(n * heads + h) * s.width + w];
                    dtaps.iter().for_each(|d| *dweight += *d);
                }
            }
            Filter::LowRank { rank } => {
                for r in 0..rank {
                    let row = r * s.width + w;
                    dparts[0][n * rank + r] += dot(s.row(&parts[1], row), dtaps);
                    add_scaled(s.row_mut(&mut dparts[1], row), parts[0][n * rank + r], dtaps);
                }
            }
        }
    }
}

/// `y[n] = sum_w taps[n,w] x[n-w]`.
pub(super) fn forward<E: Dtype>(s: Sizes, filter: Filter, x: &[E], parts: &[Vec<E>]) -> Vec<E> {
    let mut y = vec![E::default(); x.len()];
    let mut taps = vec![E::default(); s.channels];
    s.each(|n, w, m| {
        filter.taps(s, parts, n, w, &mut taps);
        add_product(s.row_mut(&mut y, n), &taps, s.row(x, m));
    });
    y
}

/// Gradients of x and of each part: `dx[n-w] += taps[n,w] dy[n]`, `dtaps[n,w] = x[n-w] dy[n]`.
pub(super) fn backward<E: Dtype>(
    s: Sizes,
    filter: Filter,
    x: &[E],
    parts: &[Vec<E>],
    dy: &[E],
) -> (Vec<E>, Vec<Vec<E>>) {
    let mut dx = vec![E::default(); x.len()];
    let mut dparts: Vec<_> = parts.iter().map(|part| vec![E::default(); part.len()]).collect();
    let (mut taps, mut dtaps) = (vec![E::default(); s.channels], vec![E::default(); s.channels]);
    s.each(|n, w, m| {
        filter.taps(s, parts, n, w, &mut taps);
        add_product(s.row_mut(&mut dx, m), &taps, s.row(dy, n));
        dtaps.fill(E::default());
        add_product(&mut dtaps, s.row(x, m), s.row(dy, n));
        filter.adjoint(s, parts, n, w, &dtaps, &mut dparts);
    });
    (dx, dparts)
}

fn add_scaled<E: Dtype>(sum: &mut [E], scale: E, a: &[E]) {
    sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += scale * *a);
}

fn add_product<E: Dtype>(sum: &mut [E], a: &[E], b: &[E]) {
    sum.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += *a * *b);
}

/// In eight partial sums, which the compiler can add side by side.
fn dot<E: Dtype>(a: &[E], b: &[E]) -> E {
    let mut lanes = [E::default(); 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        add_product(&mut lanes[..a.len()], a, b);
    }
    lanes.into_iter().fold(E::default(), |sum, lane| sum + lane)
}

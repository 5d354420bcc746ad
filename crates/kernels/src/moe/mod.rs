//! Mixture of experts: a softmax router, top-k choice, and SwiGLU experts that lose no token.
//!
//! ```text
//! p[n]    = softmax(logits[n])                               over all E experts
//! e[n, j] = the j-th largest of p[n, e] (+ bias[e])          j < k; of equals the lowest e first
//! w[n, j] = p[n, e[n, j]]                                    (/ their sum over j)
//! y[n]    = sum_j w[n, j] down_e (silu(gate_e x[n]) up_e x[n])     e = e[n, j]
//! aux     = aux_weight E / (k N) sum_e count[e] mean_n p[n, e]  +  z_weight mean_n lse[n]^2
//! ```
//!
//! Shapes: x, y `[N, D]`; logits `[N, E]`; gate, up `[E F, D]` and down `[E D, F]`, expert after expert, each
//! `[outputs, inputs]`. count\[e\] is the number of (token, choice) pairs of expert e, k N in all whatever the router
//! says; lse the log of the softmax's denominator.
//!
//! Pairs are sorted by expert, in the order of tokens. Each expert's rows of x are gathered and go through its three
//! products in blocks of 256, one task per block; a token's outputs are then added in the order of its choices. 6 D F
//! FLOP per pair forward and 12 backward.
//!
//! The gradient is that of `<y, dy> + aux`: through the weights w, the aux loss (count is a constant) and the z-loss
//! to the logits. `bias` only takes part in the choice and has no gradient: see [`rebalance`].
//!
//! Sources: Shazeer et al. 2017 (routing), Fedus et al. 2021 (aux loss), Zoph et al. 2022 (z-loss), Wang et al. 2024
//! (balancing by a bias), arXiv 2606.03825 section 6.

mod args;
mod backward;
mod experts;
mod forward;
mod route;
#[cfg(test)]
mod tests;

pub use args::{Options, Saved, Shape, Weight, Weights};
pub use backward::{backward_input, backward_weight};
pub use forward::forward;
pub use route::rebalance;

//! Drawing a token from logits.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Draws from `softmax(logits / temperature)` over the `top_k` largest logits.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_k: usize,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A temperature of 0 always takes the largest logit, the first of equals; a `top_k` of 0 leaves out none.
    pub fn new(temperature: f64, top_k: usize, seed: u64) -> Self {
        Self { temperature, top_k, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A token; none if there are no logits or one is not finite.
    pub fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        if logits.is_empty() || logits.iter().any(|l| !l.is_finite()) {
            return None;
        }
        let keep = match self.top_k {
            _ if self.temperature == 0.0 => 1,
            0 => logits.len(),
            k => k.min(logits.len()),
        };
        // Largest first, of equals the first: an order that no two tokens share, so that what is kept is certain.
        let order = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        if keep < tokens.len() {
            tokens.select_nth_unstable_by(keep - 1, order);
            tokens.truncate(keep);
        }
        tokens.sort_unstable_by(order);
        if keep == 1 {
            return Some(tokens[0]);
        }
        let largest = f64::from(logits[tokens[0] as usize]);
        let weight = |&token: &u32| ((f64::from(logits[token as usize]) - largest) / self.temperature).exp();
        let total: f64 = tokens.iter().map(weight).sum();
        // Uniform in [0, 1), 53 bits.
        let unit = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = unit * total;
        let drawn = tokens.iter().find(|token| {
            left -= weight(token);
            left < 0.0
        });
        // Rounding may leave a little after the last.
        drawn.or(tokens.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let logits = [0.5, 2.0, -1.0, 2.0];
        assert_eq!(Sampler::new(0.0, 0, 0).draw(&logits), Some(1));
        assert_eq!(Sampler::new(1.0, 1, 0).draw(&logits), Some(1));
    }

    #[test]
    fn frequencies_are_the_softmax_over_what_is_kept() {
        let logits: [f32; 5] = [1.0, 0.0, 2.0, -1.0, 0.0];
        let count = |temperature: f64, top_k: usize| {
            let mut sampler = Sampler::new(temperature, top_k, 3);
            let mut count = [0.0; 5];
            for _ in 0..20_000 {
                count[sampler.draw(&logits).unwrap() as usize] += 1.0 / 20_000.0;
            }
            count
        };
        for (temperature, top_k, kept) in
            [(1.0, 0, &[0, 1, 2, 3, 4][..]), (0.5, 3, &[0, 1, 2]), (2.0, 9, &[0, 1, 2, 3, 4])]
        {
            let weight = |i: usize| (f64::from(logits[i]) / temperature).exp();
            let total: f64 = kept.iter().map(|&i| weight(i)).sum();
            for (i, share) in count(temperature, top_k).into_iter().enumerate() {
                let want = if kept.contains(&i) { weight(i) / total } else { 0.0 };
                // Three and a half standard deviations of a share of 20,000.
                let allowed = 3.5 * (want * (1.0 - want) / 20_000.0).sqrt();
                assert!((share - want).abs() <= allowed, "{temperature} {top_k}: token {i} {share} {want}");
            }
        }
    }

    #[test]
    fn a_seed_fixes_the_draws() {
        let draws = |seed| {
            let mut sampler = Sampler::new(1.0, 0, seed);
            (0..50).map(|_| sampler.draw(&[0.1, 0.2, 0.3, 0.4]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn nothing_is_drawn_from_what_is_not_finite() {
        let mut sampler = Sampler::new(0.0, 0, 0);
        for logits in [&[][..], &[0.0, f32::NAN], &[f32::INFINITY, 0.0]] {
            assert_eq!(sampler.draw(logits), None);
        }
    }
}

//! The query part that the tasks with keys of several tokens share.

use rand::RngExt;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;

use crate::Example;

/// Which of `pairs` pairs `queries` queries ask for: shuffled passes, so no pair comes a second time before every pair
/// has come once.
pub(crate) fn shuffled_passes(rng: &mut ChaCha8Rng, pairs: usize, queries: usize) -> Vec<usize> {
    let mut asked = Vec::with_capacity(queries + pairs);
    while asked.len() < queries {
        let pass = asked.len();
        asked.extend(0..pairs);
        asked[pass..].shuffle(rng);
    }
    asked.truncate(queries);
    asked
}

/// Appends `queries`, each with its label on its last token, among fillers from `0..fillers`, so that `out` has `end`
/// positions. The queries keep their order; which places are theirs is uniform.
pub(crate) fn scatter(rng: &mut ChaCha8Rng, queries: &[(&[u32], u32)], fillers: u32, end: usize, out: &mut Example) {
    let tokens: usize = queries.iter().map(|(key, _)| key.len()).sum();
    let mut places = vec![None; end - out.ids.len() - tokens + queries.len()];
    let mut chosen = index::sample(rng, places.len(), queries.len()).into_vec();
    chosen.sort_unstable();
    for (place, query) in chosen.into_iter().zip(queries) {
        places[place] = Some(query);
    }
    for place in places {
        let Some(&(key, label)) = place else {
            out.push(rng.random_range(0..fillers));
            continue;
        };
        for &token in key {
            out.push(token);
        }
        let last = out.targets.len() - 1;
        out.targets[last] = label;
    }
}

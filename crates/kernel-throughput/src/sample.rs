//! The cases of a check: every pair of levels of any two factors occurs in some case (pairwise sampling).

use std::collections::BTreeSet;

use crate::case::{Case, Dtype, Op};
use crate::values::splitmix;

/// Factors and how many levels each has: op, width, tokens, channels, type, gap, static_w, residual, SiLU, state, packed,
/// streams.
const LEVELS: [usize; 12] = [OPS.len(), 8, LENGTHS.len(), CHANNELS.len(), 3, 3, 2, 2, 2, 2, 2, 2];

/// 0: static; head sizes, 0 for D; ranks.
const OPS: [(u8, usize); 21] = [
    (0, 0),
    (1, 1),
    (1, 2),
    (1, 3),
    (1, 4),
    (1, 8),
    (1, 12),
    (1, 16),
    (1, 32),
    (1, 40),
    (1, 64),
    (1, 96),
    (1, 128),
    (1, 0),
    (2, 1),
    (2, 4),
    (2, 15),
    (2, 16),
    (2, 17),
    (2, 64),
    (2, 128),
];
const LENGTHS: [usize; 6] = [1, 2, 3, 63, 1000, 4096];
const CHANNELS: [usize; 5] = [8, 96, 1000, 2048, 37];
/// The most multiplications of a case's reference, so that one takes seconds.
const MOST: usize = 150_000_000;

type Levels = [usize; LEVELS.len()];

/// Cases that cover every pair of levels. The same list on every machine.
pub fn sample() -> Vec<Case> {
    let mut open: BTreeSet<(usize, usize, usize, usize)> = BTreeSet::new();
    for a in 0..LEVELS.len() {
        for b in a + 1..LEVELS.len() {
            open.extend((0..LEVELS[a]).flat_map(|i| (0..LEVELS[b]).map(move |j| (a, i, b, j))));
        }
    }
    let (mut cases, mut counter) = (Vec::new(), 0);
    while let Some(&(a, i, b, j)) = open.first() {
        // Of some random draws that cover the first open pair, the one that covers most.
        let draw = |number: u64| -> Levels {
            let mut levels = [0; LEVELS.len()];
            for (f, level) in levels.iter_mut().enumerate() {
                *level = splitmix(number * 64 + f as u64) as usize % LEVELS[f];
            }
            (levels[a], levels[b]) = (i, j);
            levels
        };
        let gain = |levels: &Levels| pairs(levels).filter(|pair| open.contains(pair)).count();
        let drawn = (counter..counter + 60).map(draw);
        counter += 60;
        let Some(best) = drawn.max_by_key(gain) else { break };
        pairs(&best).for_each(|pair| {
            open.remove(&pair);
        });
        cases.push(case(&best, cases.len() as u64));
    }
    cases
}

fn pairs(levels: &Levels) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let of = |a: usize| (a + 1..LEVELS.len()).map(move |b| (a, b));
    (0..LEVELS.len()).flat_map(of).map(|(a, b)| (a, levels[a], b, levels[b]))
}

/// The case of some levels, made to fit: a head size divides D, and what would take long has fewer sequences or tokens.
fn case(levels: &Levels, number: u64) -> Case {
    let [op, width, len, d, dtype, gap, static_w, residual, silu, state, packed, streams] = *levels;
    let d = CHANNELS[d];
    let op = match OPS[op] {
        (0, _) => Op::Static,
        (1, 0) => Op::HeadWise { head_size: d },
        (1, wanted) => Op::HeadWise { head_size: (1..=wanted).rev().find(|s| d.is_multiple_of(*s)).unwrap_or(1) },
        (_, rank) => Op::LowRank { rank },
    };
    let width = width + 1;
    let mut case = Case {
        op,
        static_w: static_w == 1 && op != Op::Static,
        residual: residual == 1,
        silu: silu == 1,
        batch: 1 + number as usize % 3,
        len: LENGTHS[len],
        d,
        width,
        cu_seqlens: None,
        state: state == 1 && width > 1,
        streams: 1 + 2 * streams,
        gap: [0, 8, 1][gap],
        dtype: [Dtype::F32, Dtype::Bf16, Dtype::F16][dtype],
    };
    while case.cost() > MOST {
        match (case.batch, case.streams) {
            (1, 1) => case.len = case.len / 2 + 1,
            (1, _) => case.streams -= 1,
            _ => case.batch = 1,
        }
    }
    if packed == 1 {
        // About as many tokens, in pieces of any length, empty ones among them.
        let mut cu = vec![0];
        let mut left = case.rows();
        for piece in (0..).map(|i| [0, 1, 2, 5, 31, 32, 33, 64, 100, 517][splitmix(number * 97 + i) as usize % 10]) {
            let piece = piece.min(left);
            left -= piece;
            cu.push(cu[cu.len() - 1] + piece);
            if left == 0 {
                break;
            }
        }
        (case.batch, case.len, case.cu_seqlens) = (1, cu[cu.len() - 1], Some(cu));
    }
    case
}

/// Cases of a few tokens and odd sizes, quick enough for a run under compute-sanitizer.
pub fn small() -> Vec<Case> {
    let fits = |case: &Case| case.rows() <= 200 && case.d <= 96 && case.cost() < 3_000_000;
    let mut seen = BTreeSet::new();
    let all = sample().into_iter().filter(fits);
    all.filter(|case| seen.insert(format!("{:?} {}", case.op, case.dtype.name()))).collect()
}

/// Cases to be decoded token by token.
pub fn decoded() -> Vec<Case> {
    let ops = [Op::Static, Op::HeadWise { head_size: 4 }, Op::HeadWise { head_size: 1 }, Op::LowRank { rank: 16 }];
    let mut cases = Vec::new();
    for (i, op) in ops.into_iter().enumerate() {
        for (j, batch) in [1, 5, 64].into_iter().enumerate() {
            cases.push(Case {
                op,
                static_w: (i + j) % 2 == 1 && op != Op::Static,
                residual: j == 1,
                silu: j == 2,
                batch,
                len: 6,
                d: [96, 1000, 2048][(i + j) % 3],
                width: [4, 3, 8][j],
                cu_seqlens: None,
                state: true,
                streams: 1,
                gap: 0,
                dtype: [Dtype::F32, Dtype::Bf16, Dtype::F16][(i + 2 * j) % 3],
            });
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_meets_every_type_and_width() {
        let cases = sample();
        assert!(cases.len() < 260, "{}", cases.len());
        for op in [Op::Static, Op::HeadWise { head_size: 1 }, Op::LowRank { rank: 16 }] {
            let of: Vec<_> = cases.iter().filter(|c| c.op == op).collect();
            let widths: BTreeSet<_> = of.iter().map(|c| c.width).collect();
            let types: BTreeSet<_> = of.iter().map(|c| c.dtype.name()).collect();
            assert_eq!((widths.len(), types.len()), (8, 3), "{op:?}");
        }
        assert!(cases.iter().all(|c| c.cost() <= MOST));
        assert!(cases.iter().any(|c| c.streams == 3 && c.gap == 8));
        assert!(small().len() >= 20);
    }
}

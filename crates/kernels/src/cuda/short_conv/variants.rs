//! The variants that a compile check covers: every kernel over kinds, types, widths and options.

use super::super::compile::Defines;
use super::args::{Options, Shape};
use super::headwise::{self, Layout};
use super::low_rank::{self, Tile};
use super::low_rank_hopper as hopper;
use super::params::{Kind, Op};
use super::{state, swiglu};

/// Shared memory of the smallest device that tiles are chosen for (sm_89), and of the largest.
const SHARED: [usize; 2] = [100 * 1024, 226 * 1024];

/// One thing to compile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// The source file.
    pub file: &'static str,
    /// Its defines.
    pub defines: Defines,
}

/// Every kernel with a sample of its variants in which each value of each option, and each path of the launches, occurs.
/// Those of the warpgroup kernels compile for sm_90a only.
pub fn variants() -> Vec<Variant> {
    let mut all = vec![Variant { file: "plan.cu", defines: Defines::new(&[]) }];
    let kinds = [
        Kind::Static,
        Kind::HeadWise { head_size: 1 },
        Kind::HeadWise { head_size: 4 },
        Kind::HeadWise { head_size: 32 },
        Kind::HeadWise { head_size: 24 },
        Kind::LowRank { rank: 4 },
        Kind::LowRank { rank: 16 },
        Kind::LowRank { rank: 128 },
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        for (j, (code, element)) in [(0, 4), (1, 2), (2, 2)].into_iter().enumerate() {
            // Options in turn, so that each meets each kind and type; the other widths with one type of each kind.
            let more = (2..8).filter(|width| *width != 4 && (i + width) % 3 == j);
            for (k, width) in [4, 1, 8].into_iter().chain(more).enumerate() {
                let turn = i + 3 * j + k;
                let static_w = kind == Kind::Static || turn % 2 == 0;
                let options = Options { residual: turn % 2 == 0, silu: turn % 3 == 0 };
                let shape = Shape { streams: 1, batch: 2, len: 4096, d: 1920, width };
                let state = width > 1 && turn % 3 == 1;
                add(&mut all, &Op { shape, options, kind, code, element, packed: turn % 4 == 1, state, static_w });
            }
        }
    }
    // Those that kernels/NOTES.md times, and the same with static_w and a residual.
    let timed = [
        Kind::Static,
        Kind::HeadWise { head_size: 1 },
        Kind::HeadWise { head_size: 4 },
        Kind::HeadWise { head_size: 16 },
        Kind::HeadWise { head_size: 32 },
        Kind::HeadWise { head_size: 64 },
        Kind::LowRank { rank: 8 },
        Kind::LowRank { rank: 15 },
        Kind::LowRank { rank: 16 },
    ];
    for (kind, more) in timed.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let shape = Shape { streams: 1, batch: 4, len: 4096, d: 2048, width: 4 };
        let options = Options { residual: more, silu: false };
        let static_w = more || kind == Kind::Static;
        add(&mut all, &Op { shape, options, kind, code: 1, element: 2, packed: false, state: false, static_w });
    }
    all.sort();
    all.dedup();
    all
}

fn add(all: &mut Vec<Variant>, op: &Op) {
    all.push(Variant { file: state::FILE, defines: state::defines(op) });
    all.push(Variant { file: "sums.cu", defines: op.defines(&[]) });
    if op.rank() == 0 {
        for backward in [false, true] {
            for align in [16, op.element] {
                all.push(Variant {
                    file: headwise::FILE,
                    defines: Layout::new(op, backward, align, align).defines(op),
                });
            }
        }
        return;
    }
    for (limit, aligned) in SHARED.into_iter().zip([false, true]) {
        let gradient = op.options.silu && aligned;
        let z_aligned = aligned && op.rank().is_multiple_of(8);
        let forward = Tile::forward(op, limit).forward_defines(op, aligned, z_aligned, gradient);
        all.push(Variant { file: low_rank::FORWARD, defines: forward });
        all.push(Variant {
            file: low_rank::BACKWARD,
            defines: Tile::backward(op, limit).backward_defines(op, aligned),
        });
        if hopper::takes(op, hopper::ARCH, true) {
            let z_aligned = aligned && op.rank() == hopper::RANKS;
            let forward = hopper::forward_defines(op, z_aligned, gradient);
            all.push(Variant { file: hopper::FORWARD, defines: forward });
            all.push(Variant { file: hopper::BACKWARD, defines: hopper::backward_defines(op, z_aligned) });
            let two = Op { shape: Shape { streams: 2, ..op.shape }, ..*op };
            let passes = [false, true].into_iter().filter(|_| swiglu::takes(&two, hopper::ARCH, true));
            all.extend(passes.map(|gradient| {
                let defines = swiglu::defines(&two, gradient);
                Variant { file: swiglu::FILE, defines }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_occurs() {
        let all = variants();
        for file in [headwise::FILE, low_rank::FORWARD, low_rank::BACKWARD, state::FILE] {
            let of: Vec<_> = all.iter().filter(|v| v.file == file).collect();
            for (name, values) in
                [("DTYPE", 3), ("W", 8), ("PACKED", 2), ("STATE", 2), ("STATIC", 2), ("RESIDUAL", 2), ("SILU", 2)]
            {
                let found: std::collections::BTreeSet<_> = of.iter().filter_map(|v| v.defines.get(name)).collect();
                assert_eq!(found.len(), values, "{file} {name}: {found:?}");
            }
        }
        let heads: std::collections::BTreeSet<_> = all.iter().filter_map(|v| v.defines.get("HEAD_SUM")).collect();
        assert_eq!(heads.len(), 3);
    }
}

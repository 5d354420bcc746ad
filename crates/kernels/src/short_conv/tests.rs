//! What only the inside can vary: the vector instructions.

use pulp::Arch;

use super::plan::Plan;
use super::{Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape};
use crate::Sequences;

fn values(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| (((i + seed) * 7919 + i * i * 31) % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn archs() -> Vec<Arch> {
    let mut archs = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
    archs
}

/// Every result of one call, as bits.
fn run(arch: Arch, d: usize, width: usize, options: Options, kind: usize) -> Vec<u32> {
    let shape = Shape { seqs: Sequences::Packed { cu_seqlens: &[0, 20, 37] }, d, width };
    let (x, dy, static_w, rank) = (values(1, 37 * d), values(2, 37 * d), values(3, width * d), 5);
    let head_size = if d.is_multiple_of(16) { 16 } else { d };
    let columns = if kind == 2 { rank } else { d / head_size * width };
    let (rows, u) = (values(4, 37 * columns), values(5, rank * width * d));
    let dynamic = Rows::packed(&rows, columns);
    let filter = match kind {
        0 => Filter::Static { w: &static_w },
        1 => Filter::HeadWise { weight: dynamic, head_size, static_w: Some(&static_w) },
        _ => Filter::LowRank { z: dynamic, u: &u, rank, static_w: Some(&static_w) },
    };
    let input = Input { x: Rows::packed(&x, d), filter, initial_state: None };
    let mut plan = Plan::new(shape, options, &input);
    plan.arch = arch;

    let (mut y, mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; static_w.len()]);
    let (mut drows, mut du) = (vec![0.0; rows.len()], vec![0.0; u.len()]);
    super::forward::forward(&plan, Output { y: RowsMut::packed(&mut y, d), final_state: None });
    let dynamic = RowsMut::packed(&mut drows, columns);
    let filter = match kind {
        0 => FilterGrad::Static { dw: &mut dw },
        1 => FilterGrad::HeadWise { dweight: dynamic, dstatic_w: Some(&mut dw) },
        _ => FilterGrad::LowRank { dz: dynamic, du: &mut du, dstatic_w: Some(&mut dw) },
    };
    let output = OutputGrad { dy: Rows::packed(&dy, d), dfinal_state: None };
    let grad = InputGrad { dx: RowsMut::packed(&mut dx, d), filter, dinitial_state: None };
    super::backward::backward(&plan, output, grad);
    [y, dx, dw, drows, du].concat().into_iter().map(f32::to_bits).collect()
}

#[test]
fn bits_do_not_depend_on_the_vector_instructions() {
    for (i, (d, width)) in [(64, 4), (96, 4), (96, 3), (33, 4), (7, 8), (16, 1)].into_iter().enumerate() {
        for kind in 0..3 {
            let options = Options { residual: i % 2 == 0, silu: (i + kind) % 2 == 0 };
            let results: Vec<_> = archs().into_iter().map(|arch| run(arch, d, width, options, kind)).collect();
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "d={d} width={width} kind={kind}");
        }
    }
}

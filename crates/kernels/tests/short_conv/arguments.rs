//! Malformed arguments: the message names the op, the argument, the values and the remedy.

use kernels::Sequences;
use kernels::short_conv::{Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape};
use kernels::short_conv::{backward, forward, step};

/// The error of a forward of x `[2, 3, 4]`, W = 2, with one thing changed.
fn forward_error(change: impl FnOnce(&mut Shape, &mut Input)) -> String {
    let (x, w) = ([0.0; 24], [0.0; 8]);
    let mut shape = Shape { seqs: Sequences::Equal { batch: 2, len: 3 }, d: 4, width: 2 };
    let filter = Filter::Static { w: &w };
    let mut input = Input { x: Rows::packed(&x, 4), filter, initial_state: None };
    change(&mut shape, &mut input);
    let mut y = [0.0; 24];
    let output = Output { y: RowsMut::packed(&mut y, 4), final_state: None };
    forward(shape, Options::default(), &input, output).expect_err("an error").to_string()
}

#[test]
fn forward_refuses() {
    static ZEROS: [f32; 1000] = [0.0; 1000];
    let weight = Rows::packed(&ZEROS, 4);
    let cases = [
        (
            forward_error(|shape, _| shape.width = 9),
            "short_conv::forward: width = 9 is out of range 1 to 8; use a narrower filter",
        ),
        (
            forward_error(|shape, _| shape.seqs = Sequences::Equal { batch: 2, len: 0 }),
            "short_conv::forward: len = 0 is out of range 1..; give every dimension at least one element",
        ),
        (
            forward_error(|shape, _| shape.seqs = Sequences::Equal { batch: usize::MAX, len: 3 }),
            "short_conv::forward: batch = 18446744073709551615 times len = 3 overflows; pass smaller dimensions",
        ),
        (
            forward_error(|shape, _| shape.seqs = Sequences::Equal { batch: 2, len: 4 }),
            "short_conv::forward: x has 24 elements, expected 32 for shape [B=2, T=4, D=4, W=2]",
        ),
        (
            forward_error(|_, input| input.x.stride = 3),
            "short_conv::forward: x has rows of 4 elements with a stride of 3; pass a stride of at least the row width",
        ),
        (
            forward_error(|_, input| input.x.stride = usize::MAX),
            "short_conv::forward: the size [5, 18446744073709551615] overflows for shape [B=2, T=3, D=4, W=2]; \
             pass smaller dimensions",
        ),
        (
            forward_error(|_, input| input.filter = Filter::HeadWise { weight, head_size: 3, static_w: None }),
            "short_conv::forward: head_size = 3 does not divide d = 4; use a head size that divides d",
        ),
        (
            forward_error(|_, input| input.filter = Filter::HeadWise { weight, head_size: 0, static_w: None }),
            "short_conv::forward: head_size = 0 is out of range 1 to 4; use a head size that divides d",
        ),
        (
            forward_error(|_, input| {
                input.filter = Filter::LowRank { z: weight, u: &ZEROS, rank: 129, static_w: None }
            }),
            "short_conv::forward: rank = 129 is out of range 1 to 128; use a lower rank, or taps computed outside with \
             Filter::HeadWise",
        ),
        (
            forward_error(|_, input| input.filter = Filter::LowRank { z: weight, u: &ZEROS, rank: 2, static_w: None }),
            "short_conv::forward: u has 1000 elements, expected 16 for shape [B=2, T=3, D=4, W=2]",
        ),
        (
            forward_error(|shape, _| shape.seqs = Sequences::Packed { cu_seqlens: &[0, 4, 4, 7] }),
            "short_conv::forward: x has 24 elements, expected 28 for shape [S=3, N=7, D=4, W=2]",
        ),
        (
            forward_error(|shape, _| shape.seqs = Sequences::Packed { cu_seqlens: &[0, 4, 3, 6] }),
            "short_conv::forward: cu_seqlens goes from 4 to 3 at entry 2; list the offsets in ascending order",
        ),
        (
            forward_error(|shape, _| shape.seqs = Sequences::Packed { cu_seqlens: &[1, 6] }),
            "short_conv::forward: cu_seqlens runs from 1 to 6; start it at 0 and end it at the number \
             of rows",
        ),
        (
            forward_error(|_, input| input.initial_state = Some(&ZEROS)),
            "short_conv::forward: initial_state has 1000 elements, expected 8 for shape [B=2, T=3, D=4, W=2]",
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
}

#[test]
fn backward_refuses_a_gradient_that_does_not_fit_the_filter() {
    let (x, w, z) = ([0.0; 6], [0.0; 4], [0.0; 3]);
    let shape = Shape { seqs: Sequences::Equal { batch: 1, len: 3 }, d: 2, width: 2 };
    let error = |filter, grad| {
        let input = Input { x: Rows::packed(&x, 2), filter, initial_state: None };
        let mut dx = [0.0; 6];
        let grad = InputGrad { dx: RowsMut::packed(&mut dx, 2), filter: grad, dinitial_state: None };
        let output = OutputGrad { dy: Rows::packed(&x, 2), dfinal_state: None };
        backward(shape, Options::default(), &input, output, grad).expect_err("an error").to_string()
    };
    let low_rank = Filter::LowRank { z: Rows::packed(&z, 1), u: &w, rank: 1, static_w: Some(&w) };
    let (mut dz, mut du, mut dw) = ([0.0; 3], [0.0; 4], [0.0; 4]);
    assert_eq!(
        error(low_rank, FilterGrad::Static { dw: &mut dw }),
        "short_conv::backward: the filter and its gradient are of different kinds; \
         pass the FilterGrad variant of the Filter's name"
    );
    assert_eq!(
        error(low_rank, FilterGrad::LowRank { dz: RowsMut::packed(&mut dz, 1), du: &mut du, dstatic_w: None }),
        "short_conv::backward: static_w given: true, dstatic_w given: false; \
         pass dstatic_w exactly where the filter has static_w"
    );
}

#[test]
fn step_refuses_more_than_one_token() {
    let (x, w) = ([0.0; 6], [0.0; 4]);
    let (mut state, mut y) = ([0.0; 2], [0.0; 6]);
    let error = |len, state: &mut [f32], y: &mut [f32]| {
        let shape = Shape { seqs: Sequences::Equal { batch: 1, len }, d: 2, width: 2 };
        let (x, y) = (Rows::packed(&x, 2), RowsMut::packed(y, 2));
        step(shape, Options::default(), x, Filter::Static { w: &w }, state, y).expect_err("an error").to_string()
    };
    assert_eq!(
        error(3, &mut state, &mut y),
        "short_conv::step: shape [B=1, T=3, D=2, W=2]; a step takes one token per sequence: Equal with len = 1"
    );
    assert_eq!(
        error(1, &mut state[..1], &mut y),
        "short_conv::step: state has 1 elements, expected 2 for shape [B=1, T=1, D=2, W=2]"
    );
    assert_eq!(
        error(1, &mut state, &mut y[..1]),
        "short_conv::step: y has 1 elements, expected 2 for shape [B=1, T=1, D=2, W=2]"
    );
}

//! Times by part of a mixture, beside the library's dense products of as many operations.

use kernels::cuda::dense::{self, Mixture};
use kernels::cuda::graph::{Graph, Moment};
use kernels::cuda::matmul::{Matmul, Operand};
use kernels::cuda::{CudaResult, Device, Dtype, Memory, Tensor};
use kernels::moe::{Options, Shape};

use super::drawn;

const RUNS: usize = 20;

/// Mean milliseconds of what `run` queues, as part of a graph; none if it is to run `once`.
fn timed(device: &Device, once: bool, run: impl Fn() -> CudaResult<()>) -> CudaResult<f64> {
    run()?;
    if once {
        return Ok(f64::NAN);
    }
    let graph = Graph::record(device, || (0..RUNS).try_for_each(|_| run()))?;
    graph.launch()?;
    let start = Moment::now(device)?;
    graph.launch()?;
    let end = Moment::now(device)?;
    device.synchronize()?;
    Ok(end.since(&start)? / RUNS as f64)
}

fn matrix(device: &Device, rows: usize, cols: usize, dtype: Dtype, scale: f32) -> CudaResult<Tensor> {
    let memory = Memory::new(device, rows * cols * dtype.bytes())?;
    let all = Tensor::new(&memory, 0, rows, cols, cols, dtype)?;
    // A pattern of a few million numbers, again and again.
    let values = drawn((rows * cols).min(1 << 22), 1, scale);
    let narrow: Vec<half::bf16> = values.iter().map(|&v| half::bf16::from_f32(v)).collect();
    for from in (0..rows * cols).step_by(values.len()) {
        let len = values.len().min(rows * cols - from);
        let part = Tensor::new(&memory, from * dtype.bytes(), 1, len, len, dtype)?;
        match dtype {
            Dtype::Bf16 => part.write(device, &narrow[..len])?,
            _ => part.write(device, &values[..len])?,
        }
    }
    Ok(all)
}

pub(crate) fn time(device: &Device, once: bool) -> CudaResult<()> {
    let matmul = Matmul::new(device)?;
    println!("bf16, microseconds (TFLOP/s of the products); dense: the library's products of the same operations");
    for [tokens, d, experts, top_k, ffn] in
        [[16384, 256, 16, 2, 176], [16384, 1536, 128, 8, 256], [16384, 1024, 16, 2, 2816]]
    {
        let s = Shape { tokens, d, experts, top_k, ffn };
        let options = Options { renormalize: true, aux_weight: 0.01, z_weight: 0.001 };
        let dtype = Dtype::Bf16;
        let of = |rows, cols, dtype| matrix(device, rows, cols, dtype, 0.1);
        let slots = Mixture::slots(s);
        let row = |len| of(1, len, Dtype::F32);
        let (x, y) = (of(tokens, d, dtype)?, of(tokens, d, dtype)?);
        let (logits, dlogits) = (matrix(device, tokens, experts, dtype, 2.0)?, of(tokens, experts, dtype)?);
        let w = [of(experts * ffn, d, dtype)?, of(experts * ffn, d, dtype)?, of(experts * d, ffn, dtype)?];
        let dw = [row(experts * ffn * d)?, row(experts * ffn * d)?, row(experts * ffn * d)?];
        let (both, hidden, out) = (of(slots, 2 * ffn, dtype)?, of(slots, ffn, dtype)?, of(slots, d, dtype)?);
        let (routing, parts) = (row(Mixture::words(s))?, row(Mixture::route_parts(s).max(Mixture::weight_parts(s)))?);
        let share = row(1)?;
        let outcome = Tensor::new(row(experts + 1)?.memory(), 0, 1, experts + 1, experts + 1, Dtype::U32)?;
        let m = Mixture { shape: s, options, routing: &routing };
        let w = w.each_ref();
        let route = timed(device, once, || dense::moe_route(device, m, &logits, None, &parts, &outcome))?;
        let forward = timed(device, once, || dense::moe_experts(device, m, &x, w, Some(&both), (&hidden, &out), &y))?;
        let back =
            timed(device, once, || dense::moe_backward(device, m, &x, w, &both, (&hidden, &parts, &out), (&y, false)))?;
        let weights = timed(device, once, || {
            dense::moe_weights_backward(device, m, (&x, &x), (&both, &hidden), dw.each_ref(), [false; 3])
        })?;
        let route_back = timed(device, once, || {
            dense::moe_route_backward(device, m, &logits, (&parts, &outcome, &share), &dlogits)
        })?;

        // As one expert that all pairs go to.
        let pairs = tokens * top_k;
        let (rows, wide, narrow) = (of(pairs, d, dtype)?, of(pairs, 2 * ffn, dtype)?, of(pairs, ffn, dtype)?);
        let (inward, outward) = (of(2 * ffn, d, dtype)?, of(d, ffn, dtype)?);
        let (dinward, doutward) = (of(2 * ffn, d, Dtype::F32)?, of(d, ffn, Dtype::F32)?);
        let product = |a: Operand<'_>, b: Operand<'_>, c: &Tensor| matmul.run(device, a, b, c, None, None);
        let (plain, turned) = (Operand::plain, Operand::transposed);
        let dense_forward = timed(device, once, || {
            product(plain(&rows), turned(&inward), &wide)?;
            product(plain(&narrow), turned(&outward), &rows)
        })?;
        let dense_back = timed(device, once, || {
            product(plain(&rows), plain(&outward), &narrow)?;
            product(plain(&wide), plain(&inward), &rows)
        })?;
        let dense_weights = timed(device, once, || {
            product(turned(&wide), plain(&rows), &dinward)?;
            product(turned(&rows), plain(&narrow), &doutward)
        })?;
        println!("N {tokens}, D {d}, {top_k} of {experts} experts of {ffn}");
        let flop = 6.0 * (pairs * d * ffn) as f64;
        let speed = |ms: f64| flop / ms / 1e9;
        println!("  route {:.1}, route back {:.1}", route * 1e3, route_back * 1e3);
        for (name, own, dense) in
            [("forward", forward, dense_forward), ("back", back, dense_back), ("weights", weights, dense_weights)]
        {
            let (own_speed, dense_speed) = (speed(own), speed(dense));
            println!(
                "  {name} {:.1} ({own_speed:.0}), dense {:.1} ({dense_speed:.0}), {:.0} % of its speed",
                own * 1e3,
                dense * 1e3,
                100.0 * own_speed / dense_speed
            );
        }
    }
    Ok(())
}

//! Trains dynamic short convolutions as ops of a plain dfdx program, on a task that no static one can solve.
//!
//! Every token says how far back to look: with m[t] in 0..3 given as a one-hot code, the target is `y[t] = x[t-m[t]]`.
//! A static filter is the same at every token and stops at the best mixture of the three, a loss near 2/3. The dynamic
//! ones generate their taps from the code, by a matrix per head or through a low rank, and learn to copy.
//!
//! `cargo run -p reference --example dynamic_conv`

use dfdx::prelude::*;
use reference::op::{Error, head_wise_conv, low_rank_conv, static_conv};

const ROWS: usize = 8;
const LEN: usize = 32;
const CHANNELS: usize = 8;
const HEADS: usize = 2;
const WIDTH: usize = 3;
const RANK: usize = 3;
const STEPS: usize = 300;
const LEARNING_RATE: f32 = 2.0;

type Matrix<T = NoneTape> = Tensor<(usize, usize), f32, Cpu, T>;
type Values<T = NoneTape> = Tensor<(usize, usize, usize), f32, Cpu, T>;

struct Task {
    x: Values,
    code: Values,
    target: Values,
}

fn draw(dev: &Cpu) -> Task {
    let x = dev.sample_normal_like(&(ROWS, LEN, CHANNELS)).as_vec();
    let back: Vec<usize> = (0..ROWS * LEN).map(|_| (dev.random_u64() % WIDTH as u64) as usize).collect();
    let (mut code, mut target) = (vec![0.0; ROWS * LEN * WIDTH], vec![0.0; x.len()]);
    for (n, &m) in back.iter().enumerate() {
        code[n * WIDTH + m] = 1.0;
        if m <= n % LEN {
            target[n * CHANNELS..][..CHANNELS].copy_from_slice(&x[(n - m) * CHANNELS..][..CHANNELS]);
        }
    }
    let values = |v: Vec<f32>, columns| dev.tensor_from_vec(v, (ROWS, LEN, columns));
    Task { x: values(x, CHANNELS), code: values(code, WIDTH), target: values(target, CHANNELS) }
}

/// Plain gradient descent on the mean square error; the last loss.
fn train(
    name: &str,
    task: &Task,
    mut params: Vec<Matrix>,
    model: impl Fn(&[Matrix]) -> Result<Values<OwnedTape<f32, Cpu>>, Error>,
) -> Result<f32, Error> {
    let mut last = f32::NAN;
    for step in 0..=STEPS {
        let loss = (model(&params)? - task.target.clone()).square().mean();
        last = loss.array();
        if step % 100 == 0 {
            println!("{name:<10} step {step:>3}  loss {last:.4}");
        }
        let gradients = loss.backward();
        for p in &mut params {
            *p = p.clone() - gradients.get(p) * LEARNING_RATE;
        }
    }
    Ok(last)
}

fn main() -> Result<(), Error> {
    let dev = Cpu::seed_from_u64(0);
    let task = draw(&dev);
    let (x, code) = (&task.x, &task.code);
    let zeros = |rows, columns| -> Matrix { dev.zeros_like(&(rows, columns)) };

    let fixed = train("static", &task, vec![zeros(WIDTH, CHANNELS)], |p| static_conv(x.leaky_trace(), p[0].clone()))?;
    let head_wise = train("head-wise", &task, vec![zeros(WIDTH, HEADS * WIDTH)], |p| {
        let weight = code.leaky_trace().matmul(p[0].clone()).reshape_like(&(ROWS, LEN, HEADS, WIDTH));
        head_wise_conv(x.leaky_trace(), weight)
    })?;
    // The generator starts at zero, as the paper's does; the codes do not, or nothing would ever move.
    let a = dev.sample_normal_like(&(WIDTH, RANK));
    let low_rank = train("low-rank", &task, vec![a, zeros(RANK, WIDTH * CHANNELS)], |p| {
        let z = code.leaky_trace().matmul(p[0].clone());
        low_rank_conv(x.leaky_trace(), z, p[1].clone())
    })?;
    println!("final loss: static {fixed:.2}, head-wise {head_wise:.0e}, low-rank {low_rank:.0e}");
    Ok(())
}

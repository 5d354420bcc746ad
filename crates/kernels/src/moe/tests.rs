use super::*;
use crate::testing::*;
use crate::{Error, Store};

/// The formulas in plain loops, f64, token by token; also the choices made.
fn reference(s: Shape, o: Options, v: [&[f64]; 5], bias: Option<&[f32]>) -> (Vec<f64>, f64, Vec<usize>) {
    let Shape { tokens, d, experts, top_k, ffn } = s;
    let [x, logits, gate, up, down] = v;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (mut y, mut choices, mut z) = (vec![0.0; tokens * d], Vec::new(), 0.0);
    let (mut count, mut mean) = (vec![0.0; experts], vec![0.0; experts]);
    for n in 0..tokens {
        let row = &logits[n * experts..][..experts];
        let total: f64 = row.iter().map(|l| l.exp()).sum();
        let p: Vec<f64> = row.iter().map(|l| l.exp() / total).collect();
        z += total.ln().powi(2) / tokens as f64;
        let score = |e: usize| p[e] + bias.map_or(0.0, |b| f64::from(b[e]));
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        let chosen = &order[..top_k];
        let sum: f64 = if o.renormalize { chosen.iter().map(|&e| p[e]).sum() } else { 1.0 };
        for &e in chosen {
            let x = &x[n * d..][..d];
            let hidden: Vec<f64> = (0..ffn)
                .map(|f| {
                    let row = (e * ffn + f) * d;
                    let g = dot(&gate[row..][..d], x);
                    g / (1.0 + (-g).exp()) * dot(&up[row..][..d], x)
                })
                .collect();
            for c in 0..d {
                y[n * d + c] += p[e] / sum * dot(&down[(e * d + c) * ffn..][..ffn], &hidden);
            }
            count[e] += 1.0;
        }
        mean.iter_mut().zip(&p).for_each(|(m, p)| *m += p / tokens as f64);
        choices.extend(chosen);
    }
    let balance = experts as f64 / (top_k * tokens) as f64 * dot(&count, &mean);
    (y, f64::from(o.aux_weight) * balance + f64::from(o.z_weight) * z, choices)
}

struct Problem {
    s: Shape,
    o: Options,
    /// x, logits, gate, up, down.
    inputs: [Vec<f32>; 5],
    bias: Option<Vec<f32>>,
    dy: Vec<f32>,
}

impl Problem {
    fn new(tokens: usize, [d, experts, top_k, ffn]: [usize; 4], o: Options, bias: bool) -> Self {
        let s = Shape { tokens, d, experts, top_k, ffn };
        let logits = random(tokens * experts, 2).iter().map(|v| 2.0 * v).collect();
        let weight = |seed| random(experts * ffn * d, seed);
        let bias = bias.then(|| random(experts, 7).iter().map(|v| 0.3 * v).collect());
        let inputs = [random(tokens * d, 1), logits, weight(3), weight(4), weight(5)];
        Self { s, o, inputs, bias, dy: random(tokens * d, 6) }
    }

    fn weights(&self) -> Weights<'_> {
        Weights { gate: &self.inputs[2], up: &self.inputs[3], down: &self.inputs[4] }
    }

    fn forward(&self, saved: &mut Saved) -> Vec<f32> {
        let mut y = poisoned(self.dy.len());
        let [x, logits, ..] = &self.inputs;
        forward(self.s, self.o, x, logits, self.bias.as_deref(), self.weights(), &mut y, saved).unwrap();
        y
    }

    /// Gradients of x, logits, gate, up, down.
    fn backward(&self, saved: &mut Saved) -> Vec<Vec<f32>> {
        let (mut dx, mut dlogits) = (poisoned(self.dy.len()), poisoned(self.inputs[1].len()));
        backward_input(self.s, self.o, self.weights(), saved, &self.dy, &mut dx, &mut dlogits).unwrap();
        let mut grads = vec![dx, dlogits];
        for weight in [Weight::Gate, Weight::Up, Weight::Down] {
            let mut dw = poisoned(self.inputs[2].len());
            backward_weight(self.s, saved, weight, &mut dw, Store::Overwrite).unwrap();
            let once = dw.clone();
            backward_weight(self.s, saved, weight, &mut dw, Store::Accumulate).unwrap();
            assert_close("accumulated", &dw, &wide(&once).iter().map(|v| 2.0 * v).collect::<Vec<_>>());
            grads.push(once);
        }
        grads
    }
}

const PLAIN: Options = Options { renormalize: false, aux_weight: 0.0, z_weight: 0.0 };
const ALL: Options = Options { renormalize: true, aux_weight: 0.3, z_weight: 0.1 };

#[test]
fn forward_choices_losses_and_gradients() {
    let auxiliary = Options { renormalize: false, ..ALL };
    for (tokens, sizes, o, bias) in [
        (1, [1, 1, 1, 1], PLAIN, false),
        (1, [3, 4, 2, 5], ALL, false),
        (7, [4, 3, 1, 2], auxiliary, false),
        (9, [5, 6, 2, 3], PLAIN, false),
        (9, [5, 6, 3, 3], ALL, true),
        (6, [4, 3, 3, 2], auxiliary, true),
    ] {
        let p = Problem::new(tokens, sizes, o, bias);
        let inputs = p.inputs.each_ref().map(|v| wide(v));
        let (want, aux, choices) = reference(p.s, o, inputs.each_ref().map(|v| &v[..]), p.bias.as_deref());
        let mut saved = Saved::default();
        let y = p.forward(&mut saved);
        assert_close("y", &y, &want);
        assert!((f64::from(saved.aux()) - aux).abs() <= 1e-5 * aux, "{} {aux}", saved.aux());
        assert_eq!(saved.choices.iter().map(|&e| e as usize).collect::<Vec<_>>(), choices);

        let names = ["x", "logits", "gate", "up", "down"];
        for (i, got) in p.backward(&mut saved).iter().enumerate() {
            let objective = |moved: &[f64]| {
                let mut v = inputs.each_ref().map(|v| &v[..]);
                v[i] = moved;
                let (y, aux, _) = reference(p.s, o, v, p.bias.as_deref());
                inner(&y, &p.dy) + aux
            };
            assert_close(names[i], got, &gradient(&p.inputs[i], objective));
        }
    }
}

/// Long enough that an expert has several blocks and weights are transposed.
#[test]
fn many_tokens() {
    let p = Problem::new(700, [24, 3, 2, 17], ALL, false);
    let inputs = p.inputs.each_ref().map(|v| wide(v));
    let (want, ..) = reference(p.s, p.o, inputs.each_ref().map(|v| &v[..]), None);
    let mut saved = Saved::default();
    assert_close("y", &p.forward(&mut saved), &want);
    assert!(saved.load().max().unwrap() > 256);
    // The gradient along one direction, for want of time for all of them.
    for (i, got) in p.backward(&mut saved).iter().enumerate() {
        let direction = random(got.len(), 9);
        let along = |t: &[f64]| {
            let moved: Vec<f64> = inputs[i].iter().zip(&direction).map(|(v, &u)| v + t[0] * f64::from(u)).collect();
            let mut v = inputs.each_ref().map(|v| &v[..]);
            v[i] = &moved;
            let (y, aux, _) = reference(p.s, p.o, v, None);
            inner(&y, &p.dy) + aux
        };
        let slope = gradient(&[0.0], along)[0];
        let scale = wide(got).iter().map(|v| v * v).sum::<f64>().sqrt();
        assert!((inner(&wide(got), &direction) - slope).abs() <= 1e-4 * scale, "input {i}");
    }
}

#[test]
fn no_token_is_lost() {
    let mut p = Problem::new(300, [4, 8, 3, 2], PLAIN, false);
    let mut check = |logits: Vec<f32>, what: &str| {
        p.inputs[1] = logits;
        let mut saved = Saved::default();
        p.forward(&mut saved);
        let load: Vec<usize> = saved.load().collect();
        assert_eq!(load.iter().sum::<usize>(), 3 * 300, "{what}");
        for chosen in saved.choices.chunks(3) {
            assert!(chosen[0] != chosen[1] && chosen[0] != chosen[2] && chosen[1] != chosen[2], "{what}: {chosen:?}");
        }
        load
    };
    check(random(300 * 8, 3), "random");
    let ties = check(vec![0.5; 300 * 8], "ties");
    assert_eq!(ties, [300, 300, 300, 0, 0, 0, 0, 0]);
    check(vec![f32::NAN; 300 * 8], "nan");
    let far = (0..300 * 8).map(|i| if i % 8 == 6 { 1e30 } else { -1e30 }).collect();
    assert_eq!(check(far, "one expert takes all"), [300, 300, 0, 0, 0, 0, 300, 0]);
}

/// A router that always prefers one expert: the bias evens the load out without any gradient.
#[test]
fn a_bias_evens_the_load() {
    let mut p = Problem::new(512, [2, 4, 1, 2], PLAIN, true);
    p.inputs[1] = random(512 * 4, 3).iter().enumerate().map(|(i, v)| v + if i % 4 == 2 { 1.0 } else { 0.0 }).collect();
    p.bias = Some(vec![0.0; 4]);
    let spread = |load: &[usize]| load.iter().max().unwrap() - load.iter().min().unwrap();
    let mut loads = Vec::new();
    for _ in 0..200 {
        let mut saved = Saved::default();
        p.forward(&mut saved);
        loads.push(saved.load().collect::<Vec<_>>());
        let excess: Vec<f32> = saved.load().map(|n| n as f32 - 128.0).collect();
        rebalance(0.005, &excess, p.bias.as_mut().unwrap()).unwrap();
    }
    let (first, last) = (&loads[0], &loads[199]);
    assert!(spread(first) > 150 && spread(last) < 20, "{first:?} {last:?}");
    assert!(p.bias.unwrap().iter().sum::<f32>().abs() < 1e-5);
}

#[test]
fn rebalancing_by_hand() {
    let mut bias = [0.5, 0.0, -0.5, 0.0];
    rebalance(0.25, &[3.0, -2.0, -1.0, 0.0], &mut bias).unwrap();
    // Moved by -1/4, 1/4, 1/4, 0, and 1/16 taken away.
    assert_eq!(bias, [0.1875, 0.1875, -0.3125, -0.0625]);
    assert!(matches!(rebalance(0.1, &[0.0], &mut bias), Err(Error::Size { .. })));
}

#[test]
fn same_bits_at_any_thread_count() {
    let p = Problem::new(1500, [40, 5, 2, 24], ALL, true);
    assert_same_bits_at_any_thread_count(|| {
        let mut saved = Saved::default();
        let mut all = vec![p.forward(&mut saved), vec![saved.aux()]];
        all.extend(p.backward(&mut saved));
        all
    });
}

/// A smaller pass after a larger one finds nothing of it.
#[test]
fn saved_buffers_are_reused() {
    let (large, small) = (Problem::new(90, [8, 4, 3, 6], ALL, false), Problem::new(5, [3, 6, 2, 4], ALL, true));
    let run = |p: &Problem, saved: &mut Saved| (p.forward(saved), p.backward(saved));
    let mut saved = Saved::default();
    run(&large, &mut saved);
    assert_eq!(run(&small, &mut saved), run(&small, &mut Saved::default()));
}

#[test]
fn what_does_not_fit_is_refused() {
    let p = Problem::new(4, [3, 4, 2, 5], PLAIN, false);
    let [x, logits, ..] = &p.inputs;
    let run = |s: Shape, x: &[f32], bias: Option<&[f32]>| {
        forward(s, PLAIN, x, logits, bias, p.weights(), &mut [0.0; 12], &mut Saved::default())
    };
    let error = run(Shape { top_k: 5, ..p.s }, x, None).unwrap_err().to_string();
    assert_eq!(error, "moe: top_k = 5 is out of range 1..=4; choose at most as many experts as there are");
    let error = run(p.s, &x[1..], None).unwrap_err().to_string();
    assert_eq!(error, "moe: x has 11 elements, expected 12 for shape [tokens=4, columns=3]");
    assert!(matches!(run(Shape { ffn: 4, ..p.s }, x, None), Err(Error::Size { name: "gate", .. })));
    assert!(matches!(run(p.s, x, Some(&[0.0; 3])), Err(Error::Size { name: "bias", .. })));
    let mut dx = [0.0; 12];
    let unsaved = backward_input(p.s, PLAIN, p.weights(), &mut Saved::default(), &p.dy, &mut dx, &mut [0.0; 16]);
    assert!(matches!(unsaved, Err(Error::Size { name: "saved probabilities", .. })));
}

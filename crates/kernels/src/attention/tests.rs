use super::*;
use crate::Error;
use crate::testing::*;

/// q, k, v, d_o and a shape.
struct Case<'a> {
    s: Shape<'a>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    d_o: Vec<f32>,
}

fn case(seqs: Sequences, heads: usize, kv_heads: usize, head_size: usize) -> Case {
    let s = Shape { seqs, heads, kv_heads, head_size };
    let (q_len, k_len) = (seqs.rows() * heads * head_size, seqs.rows() * kv_heads * head_size);
    // Scores of a few units either way, so that the softmax is neither flat nor one-hot.
    let q = random(q_len, 1).iter().map(|v| 4.0 * v).collect();
    Case { s, q, k: random(k_len, 2), v: random(k_len, 3), d_o: random(q_len, 4) }
}

fn run_forward(c: &Case) -> (Vec<f32>, Vec<f32>) {
    let (mut o, mut lse) = (poisoned(c.q.len()), poisoned(c.s.seqs.rows() * c.s.heads));
    forward(&c.s, &c.q, &c.k, &c.v, &mut o, &mut lse).unwrap();
    (o, lse)
}

fn run_backward(c: &Case, o: &[f32], lse: &[f32]) -> [Vec<f32>; 3] {
    let mut grads = [c.q.len(), c.k.len(), c.v.len()].map(poisoned);
    let [dq, dk, dv] = &mut grads;
    backward(&c.s, &Saved { q: &c.q, k: &c.k, v: &c.v, o, lse }, &c.d_o, dq, dk, dv).unwrap();
    grads
}

/// Calls `f` with each (sequence, head, query): the element where the query's row begins, those where its keys' rows
/// begin, and its index in lse.
fn for_each_query(s: &Shape, mut f: impl FnMut(usize, &[usize], usize)) {
    let (q_width, k_width) = (s.heads * s.head_size, s.kv_heads * s.head_size);
    for rows in s.seqs.spans() {
        for head in 0..s.heads {
            let k_column = head * s.kv_heads / s.heads * s.head_size;
            let keys: Vec<usize> = rows.clone().map(|row| row * k_width + k_column).collect();
            for t in 0..rows.len() {
                let query = (rows.start + t) * q_width + head * s.head_size;
                f(query, &keys[..=t], rows.start * s.heads + head * rows.len() + t);
            }
        }
    }
}

/// Softmax of a query's scores, and the log of its denominator.
fn probabilities(s: &Shape, q: &[f64], k: &[f64], query: usize, keys: &[usize]) -> (Vec<f64>, f64) {
    let scale = 1.0 / (s.head_size as f64).sqrt();
    let score = |&key: &usize| (0..s.head_size).map(|d| q[query + d] * k[key + d]).sum::<f64>() * scale;
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let lse = scores.iter().map(|v| v.exp()).sum::<f64>().ln();
    (scores.iter().map(|v| (v - lse).exp()).collect(), lse)
}

fn reference_forward(s: &Shape, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; s.seqs.rows() * s.heads]);
    for_each_query(s, |query, keys, index| {
        let (p, log) = probabilities(s, q, k, query, keys);
        lse[index] = log;
        for (p, key) in p.iter().zip(keys) {
            (0..s.head_size).for_each(|d| o[query + d] += p * v[key + d]);
        }
    });
    (o, lse)
}

fn reference_backward(s: &Shape, q: &[f64], k: &[f64], v: &[f64], d_o: &[f64]) -> [Vec<f64>; 3] {
    let scale = 1.0 / (s.head_size as f64).sqrt();
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for_each_query(s, |query, keys, _| {
        let (p, _) = probabilities(s, q, k, query, keys);
        let dp: Vec<f64> = keys.iter().map(|key| (0..s.head_size).map(|d| d_o[query + d] * v[key + d]).sum()).collect();
        let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for ((p, dp), key) in p.iter().zip(dp).zip(keys) {
            let ds = p * (dp - delta) * scale;
            for d in 0..s.head_size {
                dq[query + d] += ds * k[key + d];
                dk[key + d] += ds * q[query + d];
                dv[key + d] += p * d_o[query + d];
            }
        }
    });
    [dq, dk, dv]
}

fn check(c: &Case) {
    let (q, k, v) = (wide(&c.q), wide(&c.k), wide(&c.v));
    let (o, lse) = run_forward(c);
    let (o_want, lse_want) = reference_forward(&c.s, &q, &k, &v);
    assert_close(&format!("o {:?}", c.s), &o, &o_want);
    assert_close(&format!("lse {:?}", c.s), &lse, &lse_want);
    let want = reference_backward(&c.s, &q, &k, &v, &wide(&c.d_o));
    for ((name, got), want) in ["dq", "dk", "dv"].iter().zip(run_backward(c, &o, &lse)).zip(&want) {
        if c.s.seqs.longest() > 1 || *name == "dv" {
            assert_close(&format!("{name} {:?}", c.s), &got, want);
        }
    }
}

#[test]
fn lengths_around_panels_and_tiles() {
    for len in [1, 2, 15, 16, 17, 63, 64, 65, 130, 513, 600] {
        check(&case(Sequences::Equal { batch: 1, len }, 1, 1, 8));
    }
}

#[test]
fn head_sizes_even_and_odd() {
    for head_size in [1, 3, 16, 33, 64, 130] {
        check(&case(Sequences::Equal { batch: 2, len: 70 }, 2, 2, head_size));
    }
}

#[test]
fn key_heads_shared_by_query_heads() {
    check(&case(Sequences::Equal { batch: 2, len: 75 }, 6, 2, 5));
    check(&case(Sequences::Equal { batch: 1, len: 20 }, 4, 1, 16));
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    check(&case(Sequences::Packed { cu_seqlens: &[0, 1, 18, 100, 103] }, 2, 1, 12));
}

#[test]
fn the_reference_gradients_are_its_finite_differences() {
    let c = case(Sequences::Equal { batch: 1, len: 7 }, 2, 1, 3);
    let (q, k, v) = (wide(&c.q), wide(&c.k), wide(&c.v));
    let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let [dq, dk, dv] = reference_backward(&c.s, &q, &k, &v, &wide(&c.d_o));
    let loss = |q: &[f64], k: &[f64], v: &[f64]| inner(&reference_forward(&c.s, q, k, v).0, &c.d_o);
    assert_close("dq", &narrow(&dq), &gradient(&c.q, |q| loss(q, &k, &v)));
    assert_close("dk", &narrow(&dk), &gradient(&c.k, |k| loss(&q, k, &v)));
    assert_close("dv", &narrow(&dv), &gradient(&c.v, |v| loss(&q, &k, v)));
}

#[test]
fn later_keys_change_nothing_and_get_nothing_from_earlier_queries() {
    let (len, cut) = (100, 70);
    let mut c = case(Sequences::Equal { batch: 1, len }, 2, 2, 8);
    let width = c.s.heads * c.s.head_size;
    let (before, _) = run_forward(&c);
    c.k[cut * width..].iter_mut().for_each(|v| *v *= -3.0);
    c.v[cut * width..].iter_mut().for_each(|v| *v += 1.0);
    c.d_o[cut * width..].fill(0.0);
    let (after, lse) = run_forward(&c);
    assert_eq!(before[..cut * width], after[..cut * width]);
    assert_ne!(before[cut * width..], after[cut * width..]);
    let [_, dk, dv] = run_backward(&c, &after, &lse);
    assert!(dk[cut * width..].iter().chain(&dv[cut * width..]).all(|&v| v == 0.0));
}

#[test]
fn far_scores_overflow_nothing() {
    let mut c = case(Sequences::Equal { batch: 1, len: 40 }, 1, 1, 4);
    c.q.iter_mut().for_each(|v| *v *= 1e3);
    let (o, lse) = run_forward(&c);
    let grads = run_backward(&c, &o, &lse);
    assert!(o.iter().chain(&lse).chain(grads.iter().flatten()).all(|v| v.is_finite()));
}

#[test]
fn same_bits_at_any_thread_count() {
    for c in [
        case(Sequences::Equal { batch: 3, len: 150 }, 2, 1, 16),
        case(Sequences::Packed { cu_seqlens: &[0, 3, 90, 700] }, 2, 2, 8),
    ] {
        assert_same_bits_at_any_thread_count(|| {
            let (o, lse) = run_forward(&c);
            let grads = run_backward(&c, &o, &lse);
            [o, lse].into_iter().chain(grads).collect()
        });
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let mut c = case(Sequences::Equal { batch: 1, len: 4 }, 2, 2, 4);
    c.q.pop();
    let (mut o, mut lse) = (poisoned(32), poisoned(8));
    let error = forward(&c.s, &c.q, &c.k, &c.v, &mut o, &mut lse).unwrap_err();
    let want = "attention: q has 31 elements, expected 32 for shape [rows=4, heads=2, head_size=4]";
    assert_eq!(error.to_string(), want);
    c.q.push(0.0);
    assert!(matches!(forward(&c.s, &c.q, &c.k, &c.v, &mut o, &mut lse[1..]), Err(Error::Size { name: "lse", .. })));
    let s = Shape { kv_heads: 3, ..c.s };
    assert!(matches!(forward(&s, &c.q, &c.k, &c.v, &mut o, &mut lse), Err(Error::Divides { .. })));
}

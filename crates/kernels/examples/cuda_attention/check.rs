//! Every tensor against the CPU op, over lengths, head sizes, types and layouts.

use cudarc::driver::{CudaSlice, DeviceRepr};
use half::{bf16, f16};
use kernels::attention as cpu;
use kernels::cuda::attention::{self, Input, InputGrad, Output, OutputGrad, Rows, RowsMut, Shape};
use kernels::cuda::short_conv::Element;
use kernels::cuda::{CudaResult, Device};
use kernels::{Sequences, rope};

/// An element as the CPU op's, and the largest relative error of a tensor in it.
pub(crate) trait Real: Element + DeviceRepr + Default + PartialEq {
    /// Its name.
    const NAME: &'static str;
    /// Of o and lse, and of the gradients.
    const BOUND: [f64; 2];
    /// Rounds.
    fn from(v: f32) -> Self;
    /// Widens.
    fn to(self) -> f32;
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const BOUND: [f64; 2] = [1e-5, 1e-5];
    fn from(v: f32) -> Self {
        v
    }
    fn to(self) -> f32 {
        self
    }
}

// p, ds and o are rounded once each to 8 bits, 1.7e-3 rms, before the product that sums them; the result once more.
impl Real for bf16 {
    const NAME: &'static str = "bf16";
    const BOUND: [f64; 2] = [4e-3, 4e-3];
    fn from(v: f32) -> Self {
        Self::from_f32(v)
    }
    fn to(self) -> f32 {
        self.to_f32()
    }
}

impl Real for f16 {
    const NAME: &'static str = "f16";
    const BOUND: [f64; 2] = [5e-4, 5e-4];
    fn from(v: f32) -> Self {
        Self::from_f32(v)
    }
    fn to(self) -> f32 {
        self.to_f32()
    }
}

/// One call: sequences by length; `pad` further columns after q, k and v in rows of one buffer.
struct Case {
    lens: &'static [usize],
    packed: bool,
    heads: [usize; 2],
    head_size: usize,
    pad: usize,
}

/// Numbers between -2 and 2, of unit variance or so, the same for a seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 1.73
    }

    fn fill<T: Real>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::from(self.next())).collect()
    }
}

/// What one run wrote.
#[derive(PartialEq)]
struct Wrote {
    o: Vec<u32>,
    lse: Vec<u32>,
    grad: Vec<u32>,
}

/// Runs all cases of at most so many tokens; whether all passed.
pub(crate) fn all(device: &Device, tokens: usize) -> CudaResult<bool> {
    println!("relative error            o      lse       dq       dk       dv  dq turned, dk  again");
    let one = |lens, head_size| Case { lens, packed: false, heads: [2, 2], head_size, pad: 0 };
    let (mut cases, lens): (Vec<Case>, [&[usize]; 7]) =
        (Vec::new(), [&[1], &[63], &[64], &[65, 65], &[1000], &[4096], &[321, 321, 321]]);
    for head_size in [64, 128, 32, 16, 8] {
        cases.extend(lens.map(|lens| one(lens, head_size)));
        let mixed: &[usize] = &[1, 63, 64, 1000, 129, 3, 200];
        cases.push(Case { lens: mixed, packed: true, heads: [3, 3], head_size, pad: 0 });
        cases.push(Case { lens: mixed, packed: true, heads: [4, 2], head_size, pad: 8 });
        cases.push(Case { lens: &[300, 300], packed: false, heads: [6, 2], head_size, pad: 24 });
    }
    cases.retain(|case| case.lens.iter().sum::<usize>() <= tokens);
    let mut ok = true;
    for case in &cases {
        ok &= run::<bf16>(device, case)?;
    }
    // Rows that are not 16-byte aligned, other head sizes and types: the kernels without tensor cores.
    let others = [
        Case { lens: &[1, 63, 64, 200], packed: true, heads: [4, 2], head_size: 64, pad: 3 },
        Case { lens: &[130, 130], packed: false, heads: [2, 1], head_size: 24, pad: 0 },
        Case { lens: &[130, 130], packed: false, heads: [1, 1], head_size: 8, pad: 1 },
    ];
    for case in &others {
        ok &= run::<bf16>(device, case)? & run::<f16>(device, case)?;
    }
    for case in cases.iter().chain(&others) {
        ok &= run::<f32>(device, case)?;
    }
    println!("{}", if ok { "all within bounds" } else { "FAILED" });
    Ok(ok)
}

fn run<T: Real>(device: &Device, case: &Case) -> CudaResult<bool> {
    let &Case { lens, packed, heads: [heads, kv_heads], head_size, pad } = case;
    let rows: usize = lens.iter().sum();
    let (batch, len) = if packed { (1, rows) } else { (lens.len(), lens[0]) };
    let shape = Shape { batch, len, heads, kv_heads, head_size };
    let (q_width, k_width) = (heads * head_size, kv_heads * head_size);
    let stride = q_width + 2 * k_width + pad;
    let mut draw = Draw(rows as u64 * 1000 + head_size as u64 * 7 + pad as u64);
    let (qkv, d_o) = (draw.fill::<T>(rows * stride), draw.fill::<T>(rows * q_width));
    let offsets: Vec<i32> =
        std::iter::once(0).chain(lens.iter().scan(0, |n, l| Some((*n += *l as i32, *n).1))).collect();

    let (qkv_there, d_o_there, cu) = (device.upload(&qkv)?, device.upload(&d_o)?, device.upload(&offsets)?);
    let table = rope::Table::new(len, head_size, 1e4)?;
    let angles = device.upload(&table.cos().iter().zip(table.sin()).flat_map(|(c, s)| [*c, *s]).collect::<Vec<_>>())?;
    let again = |angles| device_run(device, shape, packed.then_some(&cu), &qkv_there, &d_o_there, stride, angles);
    let (first, second) = (again(None)?, again(None)?);
    let (turned, turned_again) = (again(Some(&angles))?, again(Some(&angles))?);

    // The CPU op on the same numbers, rows side by side.
    let columns = |from: &[T], stride: usize, first: usize, width: usize| -> Vec<f32> {
        (0..rows).flat_map(|r| from[r * stride + first..][..width].iter().map(|v| v.to())).collect()
    };
    let (q, k) = (columns(&qkv, stride, 0, q_width), columns(&qkv, stride, q_width, k_width));
    let (v, d_o) = (columns(&qkv, stride, q_width + k_width, k_width), columns(&d_o, q_width, 0, q_width));
    let cu_seqlens: Vec<usize> = offsets.iter().map(|v| *v as usize).collect();
    let s = cpu::Shape { seqs: Sequences::Packed { cu_seqlens: &cu_seqlens }, heads, kv_heads, head_size };
    let (mut o, mut lse) = (vec![0.0; q.len()], vec![0.0; heads * rows]);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    cpu::forward(&s, &q, &k, &v, &mut o, &mut lse)?;
    let saved = cpu::Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
    cpu::backward(&s, &saved, &d_o, &mut dq, &mut dk, &mut dv)?;
    let (mut dq_back, mut dk_back) = (dq.clone(), dk.clone());
    rope::backward(s.seqs, 0, &table, &dq, heads, &mut dq_back)?;
    rope::backward(s.seqs, 0, &table, &dk, kv_heads, &mut dk_back)?;
    let mut by_head = vec![0.0; heads * rows];
    for (i, &len) in lens.iter().enumerate() {
        let start = cu_seqlens[i];
        for h in 0..heads {
            by_head[h * rows + start..][..len].copy_from_slice(&lse[heads * start + h * len..][..len]);
        }
    }

    let bits = |v: &[u32]| -> Vec<f32> { v.iter().map(|b| f32::from_bits(*b)).collect() };
    let (grad, grad_turned) = (bits(&first.grad), bits(&turned.grad));
    let part = |grad: &[f32], first, width| -> Vec<f32> {
        (0..rows).flat_map(|r| grad[r * stride + first..][..width].to_vec()).collect()
    };
    let longest = lens.iter().copied().max().unwrap_or(1);
    let errors = [
        error(&bits(&first.o), &o, longest),
        error(&bits(&first.lse), &by_head, longest),
        error(&part(&grad, 0, q_width), &dq, longest),
        error(&part(&grad, q_width, k_width), &dk, longest),
        error(&part(&grad, q_width + k_width, k_width), &dv, longest),
        error(&part(&grad_turned, 0, q_width), &dq_back, longest),
        error(&part(&grad_turned, q_width, k_width), &dk_back, longest),
    ];
    let untouched = (0..rows).all(|r| grad[r * stride + stride - pad..][..pad].iter().all(|v| v.is_nan()));
    let same = first == second && turned == turned_again;
    let bound = |i: usize| T::BOUND[usize::from(i > 1)];
    let ok = same && untouched && errors.iter().enumerate().all(|(i, e)| *e <= bound(i));
    let layout = if packed { "packed" } else { "" };
    println!(
        "{:4} {head_size:3} T {:4} x{} {heads}/{kv_heads} {layout:6} {} {} {}",
        T::NAME,
        longest,
        lens.len(),
        errors.map(|e| format!("{e:8.1e}")).join(" "),
        if same { "same" } else { "DIFFERS" },
        if ok {
            ""
        } else if untouched {
            "FAILED"
        } else {
            "FAILED: wrote between rows"
        }
    );
    Ok(ok)
}

/// |a - b| / |b|; b at least a tenth of what sums over `len` keys are, so that noise does not count where gradients cancel.
fn error(a: &[f32], b: &[f32], len: usize) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let floor = 0.1 * (b.len() as f64 / len as f64).sqrt();
    let off = norm(&mut a.iter().zip(b).map(|(x, y)| f64::from(*x) - f64::from(*y)));
    // A NaN stays one, and is within no bound.
    off / norm(&mut b.iter().map(|v| f64::from(*v))).max(floor)
}

fn device_run<T: Real>(
    device: &Device,
    shape: Shape,
    cu: Option<&CudaSlice<i32>>,
    qkv: &CudaSlice<T>,
    d_o: &CudaSlice<T>,
    stride: usize,
    angles: Option<&CudaSlice<f32>>,
) -> CudaResult<Wrote> {
    let (q_width, k_width) = (shape.heads * shape.head_size, shape.kv_heads * shape.head_size);
    let poison = |len| device.upload(&vec![T::from(f32::NAN); len]);
    let (mut o, mut grad) = (poison(shape.rows() * q_width)?, poison(shape.rows() * stride)?);
    let mut lse = device.upload(&vec![f32::NAN; shape.heads * shape.rows()])?;
    let input = || Input {
        q: Rows { data: qkv.as_view(), stride },
        k: Rows { data: qkv.slice(q_width..), stride },
        v: Rows { data: qkv.slice(q_width + k_width..), stride },
        cu_seqlens: cu.map(|c| c.as_view()),
    };
    let output = Output { o: RowsMut { data: o.as_view_mut(), stride: q_width }, lse: lse.as_view_mut() };
    attention::forward(device, shape, &input(), output)?;
    let output = OutputGrad {
        o: Rows { data: o.as_view(), stride: q_width },
        lse: lse.as_view(),
        d_o: Rows { data: d_o.as_view(), stride: q_width },
    };
    let fused = InputGrad::Fused { data: grad.as_view_mut(), stride, dq: 0, dk: q_width, dv: q_width + k_width };
    attention::backward(device, shape, &input(), output, fused, angles.map(|a| a.as_view()).as_ref())?;
    device.synchronize()?;
    let bits = |v: Vec<T>| v.into_iter().map(|v| v.to().to_bits()).collect();
    Ok(Wrote {
        o: bits(device.download(&o)?),
        lse: device.download(&lse)?.into_iter().map(f32::to_bits).collect(),
        grad: bits(device.download(&grad)?),
    })
}

//! A random problem, our answers to it and the comparison of answers.

use kernels::Sequences;
use kernels::short_conv::{
    self, Filter, FilterGrad, Input, InputGrad, Options, Output, OutputGrad, Rows, RowsMut, Shape,
};

/// The kind of filter and its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Static,
    /// Head size.
    HeadWise(usize),
    /// Rank.
    LowRank(usize),
}

/// What a problem is made of.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) batch: usize,
    pub(crate) len: usize,
    pub(crate) d: usize,
    pub(crate) width: usize,
    pub(crate) kind: Kind,
    pub(crate) with_static: bool,
    pub(crate) options: Options,
    pub(crate) cu_seqlens: Option<Vec<usize>>,
    /// An initial state is given.
    pub(crate) initial: bool,
    /// A gradient of the final state is given.
    pub(crate) dfinal: bool,
    /// Elements between the rows of x, weight, z, y and their gradients.
    pub(crate) gap: usize,
    pub(crate) seed: u64,
}

impl Spec {
    pub(crate) fn new(kind: Kind, batch: usize, len: usize, d: usize, width: usize) -> Self {
        Self {
            batch,
            len,
            d,
            width,
            kind,
            with_static: true,
            options: Options::default(),
            cu_seqlens: None,
            initial: true,
            dfinal: true,
            gap: 0,
            seed: 1,
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.batch * self.len
    }

    pub(crate) fn shape(&self) -> Shape<'_> {
        let seqs = match &self.cu_seqlens {
            Some(cu_seqlens) => Sequences::Packed { cu_seqlens },
            None => Sequences::Equal { batch: self.batch, len: self.len },
        };
        Shape { seqs, d: self.d, width: self.width }
    }

    /// Bounds of the sequences among the tokens.
    pub(crate) fn bounds(&self) -> Vec<usize> {
        self.cu_seqlens.clone().unwrap_or_else(|| (0..=self.batch).map(|b| b * self.len).collect())
    }

    pub(crate) fn state_len(&self) -> usize {
        (self.bounds().len() - 1) * (self.width - 1) * self.d
    }

    /// Columns of a row of weight or z.
    pub(crate) fn columns(&self) -> usize {
        match self.kind {
            Kind::Static => 0,
            Kind::HeadWise(size) => self.d / size * self.width,
            Kind::LowRank(rank) => rank,
        }
    }
}

/// Named tensors without gaps, of one call or one reference.
pub(crate) type Tensors<T> = Vec<(&'static str, Vec<T>)>;

pub(crate) fn find<'a, T>(tensors: &'a Tensors<T>, name: &str) -> &'a [T] {
    &tensors.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no tensor {name}")).1
}

/// Uniform in -1..1 from a counter (splitmix64).
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let value = |i: u64| {
        let mut v = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        v = (v ^ v >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        v = (v ^ v >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((v ^ v >> 31) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len as u64).map(value).collect()
}

/// The operands of a spec, without gaps: x, dy and, where the spec has them, w, weight, z, u, static_w, initial_state,
/// dfinal_state.
pub(crate) fn operands(spec: &Spec) -> Tensors<f32> {
    let (n, taps) = (spec.tokens(), spec.width * spec.d);
    let mut list = vec![("x", n * spec.d), ("dy", n * spec.d)];
    match spec.kind {
        Kind::Static => list.push(("w", taps)),
        Kind::HeadWise(_) => list.push(("weight", n * spec.columns())),
        Kind::LowRank(rank) => list.extend([("z", n * rank), ("u", rank * taps)]),
    }
    if spec.with_static && spec.kind != Kind::Static {
        list.push(("static_w", taps));
    }
    if spec.initial {
        list.push(("initial_state", spec.state_len()));
    }
    if spec.dfinal {
        list.push(("dfinal_state", spec.state_len()));
    }
    let make = |(i, (name, len)): (usize, (&'static str, usize))| (name, random(spec.seed * 16 + i as u64, len));
    list.into_iter().enumerate().map(make).collect()
}

/// `rows` with `gap` NaNs after each row but the last.
fn spread(rows: &[f32], columns: usize, gap: usize) -> Vec<f32> {
    let mut out = vec![];
    for row in rows.chunks_exact(columns) {
        out.extend_from_slice(row);
        out.extend(std::iter::repeat_n(f32::NAN, gap));
    }
    out.truncate(out.len() - gap);
    out
}

/// The rows of a buffer with gaps; what stood in the gaps must still be NaN.
fn gathered(data: &[f32], columns: usize, gap: usize) -> Vec<f32> {
    let mut out = vec![];
    for row in data.chunks(columns + gap) {
        out.extend_from_slice(&row[..columns]);
        assert!(row[columns..].iter().all(|v| v.is_nan()), "wrote between the rows");
    }
    out
}

/// Runs `forward` and `backward` on outputs poisoned with NaN.
pub(crate) fn ours(spec: &Spec, operands: &Tensors<f32>) -> kernels::Result<Tensors<f32>> {
    let (shape, options, n, d) = (spec.shape(), spec.options, spec.tokens(), spec.d);
    let optional = |name: &str| operands.iter().find(|(n, _)| *n == name).map(|(_, v)| &v[..]);
    let get = |name: &str| find(operands, name);
    let stride = |columns| columns + spec.gap;
    let with_gaps = |name: &str, columns| spread(get(name), columns, spec.gap);
    let nan_rows = |columns: usize| vec![f32::NAN; n * stride(columns) - spec.gap];
    let (x, dy) = (with_gaps("x", d), with_gaps("dy", d));
    let columns = spec.columns();
    let static_w = optional("static_w");
    let dynamic = match spec.kind {
        Kind::Static => vec![],
        Kind::HeadWise(_) => with_gaps("weight", columns),
        Kind::LowRank(_) => with_gaps("z", columns),
    };
    let rows = Rows { data: &dynamic, stride: stride(columns) };
    let filter = match spec.kind {
        Kind::Static => Filter::Static { w: get("w") },
        Kind::HeadWise(head_size) => Filter::HeadWise { weight: rows, head_size, static_w },
        Kind::LowRank(rank) => Filter::LowRank { z: rows, u: get("u"), rank, static_w },
    };
    let input = Input { x: Rows { data: &x, stride: stride(d) }, filter, initial_state: optional("initial_state") };

    let (mut y, mut final_state) = (nan_rows(d), vec![f32::NAN; spec.state_len()]);
    let output = Output { y: RowsMut { data: &mut y, stride: stride(d) }, final_state: Some(&mut final_state) };
    short_conv::forward(shape, options, &input, output)?;

    let taps = shape.width * d;
    let (mut dx, mut ddynamic, mut dinitial) = (nan_rows(d), vec![], vec![f32::NAN; spec.state_len()]);
    let mut dw = vec![f32::NAN; if spec.kind == Kind::Static || static_w.is_some() { taps } else { 0 }];
    let mut du = vec![];
    if spec.kind != Kind::Static {
        ddynamic = nan_rows(columns);
    }
    if let Kind::LowRank(rank) = spec.kind {
        du = vec![f32::NAN; rank * taps];
    }
    let drows = RowsMut { data: &mut ddynamic, stride: stride(columns) };
    let dstatic_w = static_w.is_some().then_some(&mut dw[..]);
    let filter = match spec.kind {
        Kind::Static => FilterGrad::Static { dw: &mut dw },
        Kind::HeadWise(_) => FilterGrad::HeadWise { dweight: drows, dstatic_w },
        Kind::LowRank(_) => FilterGrad::LowRank { dz: drows, du: &mut du, dstatic_w },
    };
    let output_grad = OutputGrad { dy: Rows { data: &dy, stride: stride(d) }, dfinal_state: optional("dfinal_state") };
    let dx_rows = RowsMut { data: &mut dx, stride: stride(d) };
    let grad = InputGrad { dx: dx_rows, filter, dinitial_state: Some(&mut dinitial) };
    short_conv::backward(shape, options, &input, output_grad, grad)?;

    let mut tensors = vec![
        ("y", gathered(&y, d, spec.gap)),
        ("final_state", final_state),
        ("dx", gathered(&dx, d, spec.gap)),
        ("dinitial_state", dinitial),
    ];
    match spec.kind {
        Kind::Static => tensors.push(("dw", dw.clone())),
        Kind::HeadWise(_) => tensors.push(("dweight", gathered(&ddynamic, columns, spec.gap))),
        Kind::LowRank(_) => tensors.extend([("dz", gathered(&ddynamic, columns, spec.gap)), ("du", du)]),
    }
    if static_w.is_some() {
        tensors.push(("dstatic_w", dw));
    }
    Ok(tensors)
}

/// |a - b| / |b| of each tensor, at most `limit`.
pub(crate) fn check_close(spec: &Spec, ours: &Tensors<f32>, reference: &Tensors<f64>, limit: f64) {
    assert_eq!(ours.len(), reference.len(), "{spec:?}");
    for (name, b) in reference {
        let a = find(ours, name);
        assert_eq!(a.len(), b.len(), "{name} of {spec:?}");
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - b));
        let size = norm(&mut b.iter().copied());
        assert!(difference <= limit * size, "{name}: |a - b| = {difference:.2e}, |b| = {size:.2e} of {spec:?}");
    }
}

/// The same bits in every tensor.
pub(crate) fn check_same(spec: &Spec, a: &Tensors<f32>, b: &Tensors<f32>) {
    for ((name, a), (_, b)) in a.iter().zip(b) {
        let same = a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
        assert!(same, "{name} differs for {spec:?}");
    }
}

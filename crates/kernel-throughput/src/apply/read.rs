//! A safetensors file's tensors as the op's operands.

use safetensors::SafeTensors;
use safetensors::tensor::Dtype as Stored;

use super::{Error, Kind, Options};
use crate::case::{Case, Dtype, Op};
use crate::values::Operands;

/// A shape and its values.
type Tensor = (Vec<usize>, Vec<f32>);

/// A tensor in f32, or none.
pub(super) fn tensor(file: &SafeTensors, name: &'static str, dtype: Dtype) -> Result<Option<Tensor>, Error> {
    let Ok(view) = file.tensor(name) else { return Ok(None) };
    let pairs = || view.data().chunks_exact(2).map(|b| [b[0], b[1]]);
    let values: Vec<f32> = match view.dtype() {
        Stored::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Stored::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        Stored::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        other => return Err(Error::Tensor { name, what: format!("type {other:?}: store it as F32, BF16 or F16") }),
    };
    Ok(Some((view.shape().to_vec(), values.into_iter().map(|v| dtype.round(v)).collect())))
}

fn offsets(file: &SafeTensors) -> Result<Option<Vec<usize>>, Error> {
    let Ok(view) = file.tensor("cu_seqlens") else { return Ok(None) };
    let wide: Vec<i64> = match view.dtype() {
        Stored::I32 => {
            view.data().chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
        Stored::I64 => {
            let eight = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            view.data().chunks_exact(8).map(eight).collect()
        }
        other => {
            let what = format!("type {other:?}: store it as I32 or I64");
            return Err(Error::Tensor { name: "cu_seqlens", what });
        }
    };
    Ok(Some(wide.into_iter().map(|at| usize::try_from(at).unwrap_or(usize::MAX)).collect()))
}

/// The case and its operands.
pub(super) fn read(file: &SafeTensors, options: Options) -> Result<(Case, Operands), Error> {
    let get = |name| tensor(file, name, options.dtype);
    let need = |name| get(name)?.ok_or_else(|| Error::Tensor { name, what: "missing: this op reads it".into() });
    let bad = |name, shape: &[usize], layout: &str| {
        Err(Error::Tensor { name, what: format!("shape {shape:?}: store it as {layout}") })
    };
    let (shape, x) = need("x")?;
    let [batch, len, d] = shape[..] else { return bad("x", &shape, "[B, T, D]") };
    let static_w = get("static_w")?;
    let (op, width, taps, u) = match options.kind {
        Kind::Static => match &static_w {
            Some((shape, _)) if shape.len() == 2 && shape[1] == d => (Op::Static, shape[0], Vec::new(), Vec::new()),
            Some((shape, _)) => return bad("static_w", shape, "[W, D]"),
            None => return Err(Error::Tensor { name: "static_w", what: "missing: this op reads it".into() }),
        },
        Kind::HeadWise => {
            let (shape, weight) = need("weight")?;
            match shape[..] {
                [b, t, heads, width] if (b, t) == (batch, len) && heads > 0 && d % heads == 0 => {
                    (Op::HeadWise { head_size: d / heads }, width, weight, Vec::new())
                }
                _ => return bad("weight", &shape, "[B, T, H, W], H a divisor of D"),
            }
        }
        Kind::LowRank => {
            let ((z_shape, z), (u_shape, u)) = (need("z")?, need("U")?);
            let [b, t, rank] = z_shape[..] else { return bad("z", &z_shape, "[B, T, R]") };
            if (b, t) != (batch, len) {
                return bad("z", &z_shape, "[B, T, R]");
            }
            match u_shape[..] {
                [r, columns] if r == rank && d > 0 && columns % d == 0 => (Op::LowRank { rank }, columns / d, z, u),
                _ => return bad("U", &u_shape, "[R, W D]"),
            }
        }
    };
    let cu_seqlens = offsets(file)?;
    if let Some(cu) = &cu_seqlens {
        let rises = cu.first() == Some(&0) && cu.is_sorted() && cu.last() == Some(&len);
        if batch != 1 || !rises {
            let what = format!("{cu:?} with x [{batch}, {len}, {d}]: use B = 1 and offsets that rise from 0 to T");
            return Err(Error::Tensor { name: "cu_seqlens", what });
        }
    }
    let case = Case {
        op,
        static_w: static_w.is_some() && op != Op::Static,
        residual: options.residual,
        silu: options.silu,
        batch,
        len,
        d,
        width,
        cu_seqlens,
        state: width > 1,
        streams: 1,
        gap: 0,
        dtype: options.dtype,
    };
    let or_zeros = |name, like: &[usize]| -> Result<Vec<f32>, Error> {
        match get(name)? {
            None => Ok(vec![0.0; like.iter().product()]),
            Some((shape, values)) if shape == like => Ok(values),
            Some((shape, _)) => Err(Error::Tensor { name, what: format!("shape {shape:?}: store it as {like:?}") }),
        }
    };
    let states = if case.state { vec![case.sequences().len(), width - 1, d] } else { vec![0] };
    let operands = Operands {
        dy: or_zeros("dy", &[batch, len, d])?,
        state: or_zeros("state", &states)?,
        dfinal: or_zeros("dfinal_state", &states)?,
        x,
        taps,
        u,
        static_w: match static_w {
            Some((shape, _)) if shape != [width, d] => return bad("static_w", &shape, "[W, D]"),
            other => other.map(|(_, values)| values).unwrap_or_default(),
        },
    };
    Ok((case, operands))
}

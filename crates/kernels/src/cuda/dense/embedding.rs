//! Launches of `kernels/embedding.cu`.

use super::{Arg, Kernel, check, check_flat, code, vector};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

const FILE: &str = "embedding.cu";

/// The tokens of a batch sorted by id; all u32. Made on the host by [`Sorted::of`], in the order that the kernel adds in.
#[derive(Debug, Clone, Copy)]
pub struct Sorted<'a> {
    /// `[N]`: rows, those of one id next to each other and ascending.
    pub order: &'a Tensor,
    /// `[N + 1]`: where each id's rows start in `order`, and where the last ones end.
    pub starts: &'a Tensor,
    /// `[N]`: the ids present, ascending.
    pub tokens: &'a Tensor,
    /// `[1]`: how many.
    pub count: &'a Tensor,
}

impl Sorted<'_> {
    /// `order`, `starts`, `tokens` and `count` of these ids.
    pub fn of(ids: &[u32]) -> (Vec<u32>, Vec<u32>, Vec<u32>, u32) {
        let order = by_id(ids);
        let (mut starts, mut tokens) = (Vec::new(), Vec::new());
        for (place, &row) in order.iter().enumerate() {
            let id = ids[row as usize];
            if tokens.last() != Some(&id) {
                starts.push(place as u32);
                tokens.push(id);
            }
        }
        let count = tokens.len() as u32;
        starts.resize(ids.len() + 1, ids.len() as u32);
        tokens.resize(ids.len(), 0);
        (order, starts, tokens, count)
    }
}

/// Rows in the order of their ids, those of one id ascending: a radix sort, since it stands between two steps.
fn by_id(ids: &[u32]) -> Vec<u32> {
    const BITS: u32 = 11;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    let mut other = vec![0; ids.len()];
    let most = ids.iter().copied().max().unwrap_or(0);
    for shift in (0..u32::BITS).step_by(BITS as usize).take_while(|&shift| most >> shift > 0) {
        let digit = |row: u32| (ids[row as usize] >> shift) as usize % (1 << BITS);
        let mut places = [0u32; 1 << BITS];
        order.iter().for_each(|&row| places[digit(row)] += 1);
        let mut sum = 0;
        for place in &mut places {
            sum += std::mem::replace(place, sum);
        }
        for &row in &order {
            let place = &mut places[digit(row)];
            other[*place as usize] = row;
            *place += 1;
        }
        std::mem::swap(&mut order, &mut other);
    }
    order
}

/// `y[n] = table[ids[n]]`. The ids lie below the table's rows.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn embedding(device: &Device, table: &Tensor, ids: &Tensor, y: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda embedding";
    check(OP, y.rows, table.cols, table.dtype, &[("y", y)])?;
    check_flat(OP, "ids", ids, y.rows, Dtype::U32)?;
    let vec = vector(&[table, y], &[y.cols]);
    let args = [table.into(), table.stride.into(), ids.into(), y.into(), y.stride.into(), y.rows.into(), y.cols.into()];
    // SAFETY: the arguments of embed_fwd, of the shapes checked above; ids were checked by the caller.
    unsafe { over(device, "embed_fwd", code(OP, y)?, vec, 0, y.rows, y.cols, args) }
}

/// Adds the rows of dy to the rows of `dtable` (f32) that their ids name; with `accumulate` off, rows of ids present are
/// overwritten. Rows of absent ids are left alone.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn embedding_backward(
    device: &Device,
    dy: &Tensor,
    sorted: Sorted<'_>,
    dtable: &Tensor,
    accumulate: bool,
) -> CudaResult<()> {
    const OP: &str = "cuda embedding backward";
    check(OP, dtable.rows, dy.cols, Dtype::F32, &[("dtable", dtable)])?;
    for (name, list, len) in [
        ("order", sorted.order, dy.rows),
        ("starts", sorted.starts, dy.rows + 1),
        ("tokens", sorted.tokens, dy.rows),
        ("count", sorted.count, 1),
    ] {
        check_flat(OP, name, list, len, Dtype::U32)?;
    }
    let vec = vector(&[dy], &[dy.cols]);
    let lanes = (dy.cols / vec).next_power_of_two().min(256);
    let defines =
        [("DTYPE", code(OP, dy)?), ("VEC", vec as i64), ("ACCUMULATE", i64::from(accumulate)), ("LANES", lanes as i64)];
    let blocks = (dy.rows, dy.cols.div_ceil(lanes * vec));
    let kernel = Kernel { file: FILE, entry: "embed_bwd", defines: &defines, blocks, threads: 256, shared: 0 };
    let args: &mut [Arg] = &mut [
        dy.into(),
        dy.stride.into(),
        sorted.order.into(),
        sorted.starts.into(),
        sorted.tokens.into(),
        sorted.count.into(),
        dtable.into(),
        dtable.stride.into(),
        dy.cols.into(),
    ];
    // SAFETY: the arguments of embed_bwd, of the shapes checked above; the lists are those of `Sorted::of`.
    unsafe { kernel.launch(device, args) }
}

/// `y[n] = x[n] + table[positions[n]]`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn positions(device: &Device, x: &Tensor, table: &Tensor, positions: &Tensor, y: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda positions";
    check(OP, x.rows, x.cols, x.dtype, &[("y", y)])?;
    check(OP, table.rows, x.cols, x.dtype, &[("table", table)])?;
    check_flat(OP, "positions", positions, x.rows, Dtype::U32)?;
    let vec = vector(&[x, table, y], &[x.cols]);
    let args = [
        x.into(),
        x.stride.into(),
        table.into(),
        table.stride.into(),
        positions.into(),
        y.into(),
        y.stride.into(),
        x.rows.into(),
        x.cols.into(),
    ];
    // SAFETY: the arguments of positions_fwd, of the shapes checked above.
    unsafe { over(device, "positions_fwd", code(OP, x)?, vec, 0, x.rows, x.cols, args) }
}

/// `dtable[t] (+)= sum of dy over the rows at position t`, f32. `cu_seqlens`: S + 1 borders, u32.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn positions_backward(
    device: &Device,
    dy: &Tensor,
    cu_seqlens: &Tensor,
    dtable: &Tensor,
    accumulate: bool,
) -> CudaResult<()> {
    const OP: &str = "cuda positions backward";
    check(OP, dtable.rows, dy.cols, Dtype::F32, &[("dtable", dtable)])?;
    check_flat(OP, "cu_seqlens", cu_seqlens, 2, Dtype::U32)?;
    let vec = vector(&[dy], &[dy.cols]);
    let args = [
        dy.into(),
        dy.stride.into(),
        cu_seqlens.into(),
        (cu_seqlens.cols - 1).into(),
        dtable.into(),
        dtable.stride.into(),
        dtable.rows.into(),
        dtable.cols.into(),
    ];
    // SAFETY: the arguments of positions_bwd, of the shapes checked above.
    unsafe { over(device, "positions_bwd", code(OP, dy)?, vec, i64::from(accumulate), dtable.rows, dtable.cols, args) }
}

/// # Safety
/// As [`Kernel::launch`].
unsafe fn over<const K: usize>(
    device: &Device,
    entry: &'static str,
    code: i64,
    vec: usize,
    accumulate: i64,
    rows: usize,
    cols: usize,
    mut args: [Arg; K],
) -> CudaResult<()> {
    let defines = [("DTYPE", code), ("VEC", vec as i64), ("ACCUMULATE", accumulate)];
    let blocks = ((rows * (cols / vec)).div_ceil(256), 1);
    let kernel = Kernel { file: FILE, entry, defines: &defines, blocks, threads: 256, shared: 0 };
    // SAFETY: by the caller.
    unsafe { kernel.launch(device, &mut args) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sorted_by_id_and_then_by_row() {
        let (order, starts, tokens, count) = Sorted::of(&[7, 2, 7, 0, 2]);
        assert_eq!((order, count), (vec![3, 1, 4, 0, 2], 3));
        assert_eq!((starts, tokens), (vec![0, 1, 3, 5, 5, 5], vec![0, 2, 7, 0, 0]));
        let ids: Vec<u32> =
            (0..5000u32).map(|i| i.wrapping_mul(2_654_435_761) % 100_352).chain([u32::MAX, 0]).collect();
        let mut sorted: Vec<u32> = (0..ids.len() as u32).collect();
        sorted.sort_by_key(|&row| ids[row as usize]);
        assert_eq!(by_id(&ids), sorted);
    }
}

// Token embedding and learned positions, forward and backward. Sums over tokens run in a fixed order: no atomics.
//
//   embedding: y[n] = table[ids[n]];  dtable[v] (+)= sum of dy[n] over the n whose id is v
//   positions: y[n] = x[n] + table[positions[n]];  dtable[t] (+)= sum over sequences of dy[start + t]
// The backward of the embedding takes the tokens sorted by id: order[N] lists the rows, segment s is order[starts[s] .. starts[s+1]]
// and holds the rows of id tokens[s]; count[0] segments. Rows of absent ids are left alone (the host zeroes first where needed).
// Entry points: embed_fwd, embed_bwd (grid.x = N segments at most, grid.y = column tiles), positions_fwd, positions_bwd.
// Defines: DTYPE, VEC, ACCUMULATE; for embed_bwd LANES = threads side by side over the columns, a power of two: the other threads of
// its block take every so many rows of the segment, since with a small vocabulary a segment is long.
#include "dense.cuh"

#ifndef LANES
#define LANES 256
#endif

extern "C" __global__ void __launch_bounds__(256) embed_fwd(const elem* table, i64 ldt, const u32* ids, elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (p.valid) *reinterpret_cast<Elems*>(y + p.row * ldy + p.col) = *reinterpret_cast<const Elems*>(table + (i64)ids[p.row] * ldt + p.col);
}

extern "C" __global__ void __launch_bounds__(256) embed_bwd(const elem* dy, i64 lddy, const u32* order, const u32* starts, const u32* tokens,
    const u32* count, float* dtable, i64 ldt, i64 cols) {
    constexpr int GROUPS = 256 / LANES;
    __shared__ float sums[GROUPS][LANES][VEC];
    if (blockIdx.x >= count[0]) return;
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const i64 col = ((i64)blockIdx.y * LANES + lane) * VEC;
    const bool inside = col < cols;
    const u32 from = starts[blockIdx.x], to = starts[blockIdx.x + 1];
    float sum[VEC];
#pragma unroll
    for (int k = 0; k < VEC; k++) sum[k] = 0.f;
#pragma unroll 4
    for (u32 i = from + group; inside && i < to; i += GROUPS) {
        float v[VEC];
        load_floats(dy + (i64)order[i] * lddy + col, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) sum[k] += v[k];
    }
    if (GROUPS > 1) {
#pragma unroll
        for (int k = 0; k < VEC; k++) sums[group][lane][k] = sum[k];
        __syncthreads();
        if (group > 0) return;
        for (int g = 1; g < GROUPS; g++)
#pragma unroll
            for (int k = 0; k < VEC; k++) sum[k] += sums[g][lane][k];
    }
    if (!inside) return;
    float* out = dtable + (i64)tokens[blockIdx.x] * ldt + col;
#pragma unroll
    for (int k = 0; k < VEC; k++) out[k] = ACCUMULATE ? out[k] + sum[k] : sum[k];
}

extern "C" __global__ void __launch_bounds__(256) positions_fwd(const elem* x, i64 ldx, const elem* table, i64 ldt, const int* positions,
    elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float v[VEC], w[VEC];
    load_floats(x + p.row * ldx + p.col, v);
    load_floats(table + (i64)positions[p.row] * ldt + p.col, w);
#pragma unroll
    for (int k = 0; k < VEC; k++) v[k] += w[k];
    store_floats(y + p.row * ldy + p.col, v);
}

// rows: of the table, all of them written.
extern "C" __global__ void __launch_bounds__(256) positions_bwd(const elem* dy, i64 lddy, const int* cu_seqlens, i64 sequences,
    float* dtable, i64 ldt, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float sum[VEC];
#pragma unroll
    for (int k = 0; k < VEC; k++) sum[k] = 0.f;
    for (i64 s = 0; s < sequences; s++) {
        const i64 start = cu_seqlens[s];
        if (start + p.row >= cu_seqlens[s + 1]) continue;
        float v[VEC];
        load_floats(dy + (start + p.row) * lddy + p.col, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) sum[k] += v[k];
    }
    float* out = dtable + p.row * ldt + p.col;
#pragma unroll
    for (int k = 0; k < VEC; k++) out[k] = ACCUMULATE ? out[k] + sum[k] : sum[k];
}

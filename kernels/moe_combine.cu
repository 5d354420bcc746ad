// A token's sum over its slots, in the order of its choices.
//
//   y[n] (+)= sum_j w[n, j] out[slots[n, j]]        WEIGHTED = 0: w = 1
// y [N, D], out [slots, D]; slots and w [N, k], fp32. Bytes: k reads of a row and one write.
// Entry point: moe_combine. Defines: DTYPE, VEC, WEIGHTED, ACCUMULATE. blockDim = 256.
#include "dense.cuh"

extern "C" __global__ void __launch_bounds__(256) moe_combine(const elem* out, i64 ldo, const u32* slots, const float* weights, elem* y, i64 ldy, i64 rows,
    i64 cols, i64 top_k) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    elem* to = y + p.row * ldy + p.col;
    float sum[VEC];
#if ACCUMULATE
    load_floats(to, sum);
#else
#pragma unroll
    for (int i = 0; i < VEC; i++) sum[i] = 0.f;
#endif
#pragma unroll 4
    for (i64 pair = p.row * top_k; pair < (p.row + 1) * top_k; pair++) {
        float v[VEC];
        load_floats(out + (i64)slots[pair] * ldo + p.col, v);
        const float w = WEIGHTED ? weights[pair] : 1.f;
#pragma unroll
        for (int i = 0; i < VEC; i++) sum[i] += w * v[i];
    }
    store_floats(to, sum);
}

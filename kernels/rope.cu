// Rotary positions in the rotate-half convention, in place or not; SIGN = -1 turns back (the backward).
//
//   (a, b) = (x[i], x[i + half]) of each head -> (a cos - b sin, a sin + b cos), angle = position theta^(-i / half)
// table: [positions][half] of (cos, sin), fp32; positions [N]: each row's place in its sequence. Bytes: read x, write y. A thread
// turns the same pairs of HEADS heads, which share the angles: heads g, g + heads / HEADS, ...
// Entry point: rope. Defines: DTYPE, VEC (divides half), SIGN, HEADS (divides heads). blockDim = 256.
#include "dense.cuh"

extern "C" __global__ void __launch_bounds__(256) rope(const elem* x, i64 ldx, elem* y, i64 ldy, const float2* table, const int* positions,
    i64 rows, i64 heads, i64 half) {
    const int groups = (int)heads / HEADS;
    const Place p = place(rows, groups * half);
    if (!p.valid) return;
    const int group = (int)p.col / (int)half, i = (int)p.col - group * (int)half;
    const i64 at = (i64)group * 2 * half + i, step = (i64)groups * 2 * half;
    float a[HEADS][VEC], b[HEADS][VEC];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        load_floats(x + p.row * ldx + at + h * step, a[h]);
        load_floats(x + p.row * ldx + at + h * step + half, b[h]);
    }
    const float2* t = table + (i64)positions[p.row] * half + i;
    float2 cs[VEC];
#pragma unroll
    for (int k = 0; k < VEC; k++) cs[k] = __ldg(t + k);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const float s = SIGN * cs[k].y, v = a[h][k];
            a[h][k] = v * cs[k].x - b[h][k] * s;
            b[h][k] = v * s + b[h][k] * cs[k].x;
        }
        store_floats(y + p.row * ldy + at + h * step, a[h]);
        store_floats(y + p.row * ldy + at + h * step + half, b[h]);
    }
}

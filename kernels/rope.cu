// Rotary positions in the rotate-half convention, in place or not; SIGN = -1 turns back (the backward).
//
//   (a, b) = (x[i], x[i + half]) of each head -> (a cos - b sin, a sin + b cos), angle = position theta^(-i / half)
// table: [positions][half] of (cos, sin), fp32; positions [N]: each row's place in its sequence. Bytes: read x, write y.
// Entry point: rope. Defines: DTYPE, VEC (divides half), SIGN. blockDim = 256.
#include "dense.cuh"

extern "C" __global__ void __launch_bounds__(256) rope(const elem* x, i64 ldx, elem* y, i64 ldy, const float2* table, const int* positions,
    i64 rows, i64 heads, i64 half) {
    const Place p = place(rows, heads * half);
    if (!p.valid) return;
    const i64 head = p.col / half, i = p.col - head * half, at = head * 2 * half + i;
    float a[VEC], b[VEC];
    load_floats(x + p.row * ldx + at, a);
    load_floats(x + p.row * ldx + at + half, b);
    const float2* t = table + (i64)positions[p.row] * half + i;
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float2 cs = t[k];
        const float s = SIGN * cs.y, v = a[k];
        a[k] = v * cs.x - b[k] * s;
        b[k] = v * s + b[k] * cs.x;
    }
    store_floats(y + p.row * ldy + at, a);
    store_floats(y + p.row * ldy + at + half, b);
}

// Rotary positions in the rotate-half convention, in place or not; SIGN = -1 turns back (the backward).
//
//   (a, b) = (x[i], x[i + half]) of each head -> (a cos - b sin, a sin + b cos), angle = position theta^(-i / half)
// table: [positions][half] of (cos, sin), fp32; positions [N]: each row's place in its sequence. Bytes: read x, write y.
// A thread turns the same VEC pairs of HEADS heads of a row, heads / HEADS apart, by angles it reads once; all of its x is asked for before
// any y is written, which may be the same memory.
// Entry point: rope. Defines: DTYPE, VEC (divides half), SIGN, HEADS (divides heads). blockDim = 256.
#include "dense.cuh"

extern "C" __global__ void __launch_bounds__(256) rope(const elem* x, i64 ldx, elem* y, i64 ldy, const float2* table, const int* positions,
    i64 rows, i64 heads, i64 half) {
    const i64 apart = heads / HEADS;
    const Place p = place(rows, apart * half);
    if (!p.valid) return;
    const i64 head = quotient(p.col, half), i = p.col - head * half, at = head * 2 * half + i;
    Vec<VEC, VEC * (int)sizeof(elem)> a[HEADS], b[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const elem* from = x + p.row * ldx + at + h * apart * 2 * half;
        a[h].load(from);
        b[h].load(from + half);
    }
    const float2* t = table + (i64)positions[p.row] * half + i;
    float c[VEC], s[VEC];
#if VEC > 1
#pragma unroll
    for (int k = 0; k < VEC; k += 2) {
        const float4 two = *reinterpret_cast<const float4*>(t + k);
        c[k] = two.x; s[k] = SIGN * two.y;
        c[k + 1] = two.z; s[k + 1] = SIGN * two.w;
    }
#else
    c[0] = t[0].x; s[0] = SIGN * t[0].y;
#endif
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float v[VEC], w[VEC];
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            const float from = to_float(a[h].e[k]), with = to_float(b[h].e[k]);
            v[k] = from * c[k] - with * s[k];
            w[k] = from * s[k] + with * c[k];
        }
        elem* to = y + p.row * ldy + at + h * apart * 2 * half;
        store_floats(to, v);
        store_floats(to + half, w);
    }
}

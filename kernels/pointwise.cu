// Element by element: SwiGLU, GELU (tanh form), sum, copy, clear, each on strided [rows, cols]; VEC elements a thread.
//
//   swiglu: y = silu(gate) up; dup = dy silu(gate), dgate = dy up silu'(gate)
//   gelu:   y = x sigmoid(2 a), a = sqrt(2/pi) (x + 0.044715 x^3)
// Entry points: swiglu_fwd, swiglu_bwd, gelu_fwd, gelu_bwd, add (y = a + b), copy, clear (y = 0). Bytes: each operand once.
// Defines: DTYPE, VEC. blockDim = 256.
#include "dense.cuh"

constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f;

extern "C" __global__ void __launch_bounds__(256) swiglu_fwd(const elem* gate, i64 ldg, const elem* up, i64 ldu, elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float g[VEC], u[VEC];
    load_floats(gate + p.row * ldg + p.col, g);
    load_floats(up + p.row * ldu + p.col, u);
#pragma unroll
    for (int k = 0; k < VEC; k++) g[k] = silu(g[k]) * u[k];
    store_floats(y + p.row * ldy + p.col, g);
}

extern "C" __global__ void __launch_bounds__(256) swiglu_bwd(const elem* gate, i64 ldg, const elem* up, i64 ldu, const elem* dy, i64 lddy,
    elem* dgate, i64 lddg, elem* dup, i64 lddu, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float g[VEC], u[VEC], d[VEC];
    load_floats(gate + p.row * ldg + p.col, g);
    load_floats(up + p.row * ldu + p.col, u);
    load_floats(dy + p.row * lddy + p.col, d);
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float s = silu(g[k]);
        g[k] = d[k] * u[k] * silu_grad(g[k]);
        u[k] = d[k] * s;
    }
    store_floats(dgate + p.row * lddg + p.col, g);
    store_floats(dup + p.row * lddu + p.col, u);
}

extern "C" __global__ void __launch_bounds__(256) gelu_fwd(const elem* x, i64 ldx, elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float v[VEC];
    load_floats(x + p.row * ldx + p.col, v);
#pragma unroll
    for (int k = 0; k < VEC; k++) v[k] *= sigmoid(2.f * ROOT * (v[k] + CUBIC * v[k] * v[k] * v[k]));
    store_floats(y + p.row * ldy + p.col, v);
}

extern "C" __global__ void __launch_bounds__(256) gelu_bwd(const elem* x, i64 ldx, const elem* dy, i64 lddy, elem* dx, i64 lddx, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float v[VEC], d[VEC];
    load_floats(x + p.row * ldx + p.col, v);
    load_floats(dy + p.row * lddy + p.col, d);
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        const float s = sigmoid(2.f * ROOT * (v[k] + CUBIC * v[k] * v[k] * v[k]));
        d[k] *= s + v[k] * s * (1.f - s) * 2.f * ROOT * (1.f + 3.f * CUBIC * v[k] * v[k]);
    }
    store_floats(dx + p.row * lddx + p.col, d);
}

extern "C" __global__ void __launch_bounds__(256) add(const elem* a, i64 lda, const elem* b, i64 ldb, elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float v[VEC], w[VEC];
    load_floats(a + p.row * lda + p.col, v);
    load_floats(b + p.row * ldb + p.col, w);
#pragma unroll
    for (int k = 0; k < VEC; k++) v[k] += w[k];
    store_floats(y + p.row * ldy + p.col, v);
}

extern "C" __global__ void __launch_bounds__(256) copy(const elem* x, i64 ldx, elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (p.valid) *reinterpret_cast<Elems*>(y + p.row * ldy + p.col) = *reinterpret_cast<const Elems*>(x + p.row * ldx + p.col);
}


extern "C" __global__ void __launch_bounds__(256) clear(elem* y, i64 ldy, i64 rows, i64 cols) {
    const Place p = place(rows, cols);
    if (!p.valid) return;
    float v[VEC];
#pragma unroll
    for (int k = 0; k < VEC; k++) v[k] = 0.f;
    store_floats(y + p.row * ldy + p.col, v);
}

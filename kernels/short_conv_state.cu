// The W-1 rows carried between calls, and the decode step. Small kernels, one thread per (sequence, channel).
//
//   conv_final_state   state_out[s, k] = input row end-(W-1)+k of sequence s (x, or the initial state when it is shorter)
//   conv_state_grad    state_out[s, k] = sum_w tap[n, w] g[n], n = start-(W-1)+k+w in the sequence, + dfinal where the row is
//                      also a final one; and dx += dfinal on the last W-1 rows. Runs after the backward kernel.
//   conv_step          one row per sequence: y, and the state moved up by one row in place
// grid.x covers seqs * D threads, grid.y = streams. Further defines KIND (0 static, 1 head-wise, 2 low-rank), RANK.
#include "common.cuh"

struct At {
    const elem *x, *weight, *u, *sw, *state;
    int s, d, start, end;
    bool valid;
};

__device__ __forceinline__ At locate(const Params& p) {
    At a;
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    a.valid = i < (i64)p.seqs * p.d_model;
    a.s = a.valid ? (int)(i / p.d_model) : 0;
    a.d = (int)(i % p.d_model);
    a.start = p.cu_seqlens ? p.cu_seqlens[a.s] : a.s * p.seq_len;
    a.end = p.cu_seqlens ? p.cu_seqlens[a.s + 1] : a.start + p.seq_len;
    a.x = p.x + blockIdx.y * p.s_x;
    a.weight = p.weight + blockIdx.y * p.s_w;
    a.u = p.u + blockIdx.y * p.s_u;
    a.sw = p.static_w + blockIdx.y * p.s_static;
    a.state = p.state ? p.state + blockIdx.y * p.s_state + (i64)a.s * (W - 1) * p.d_model : nullptr;
    return a;
}

__device__ __forceinline__ float input(const Params& p, const At& a, int row) {
    if (row >= a.start) return to_float(a.x[(i64)row * p.ldx + a.d]);
    return a.state ? to_float(a.state[(i64)(W - 1 + row - a.start) * p.d_model + a.d]) : 0.f;
}

__device__ __forceinline__ float tap(const Params& p, const At& a, int row, int w) {
    float v = 0.f;
#if KIND == 1
    v = to_float(a.weight[(i64)row * p.ldw + (i64)(a.d / p.head_size) * W + w]);
#elif KIND == 2
    for (int r = 0; r < RANK; r++) v = fmaf(to_float(a.weight[(i64)row * p.ldw + r]), to_float(a.u[((i64)r * W + w) * p.d_model + a.d]), v);
#endif
#if STATIC
    v += to_float(a.sw[(i64)w * p.d_model + a.d]);
#endif
    return v;
}

__device__ __forceinline__ float pre(const Params& p, const At& a, int row) {
    float v = 0.f;
    for (int w = 0; w < W; w++) v = fmaf(tap(p, a, row, w), input(p, a, row - w), v);
    return v;
}

extern "C" __global__ void conv_final_state(const __grid_constant__ Params p) {
    const At a = locate(p);
    if (!a.valid) return;
    elem* out = p.state_out + blockIdx.y * p.s_state + (i64)a.s * (W - 1) * p.d_model + a.d;
    for (int k = 0; k < W - 1; k++) out[(i64)k * p.d_model] = from_float(input(p, a, a.end - (W - 1) + k));
}

extern "C" __global__ void conv_state_grad(const __grid_constant__ Params p) {
    const At a = locate(p);
    if (!a.valid) return;
    const i64 base = blockIdx.y * p.s_state + (i64)a.s * (W - 1) * p.d_model + a.d;
    const elem* dy = p.dy + blockIdx.y * p.s_dy + a.d;
    elem* dx = p.y + blockIdx.y * p.s_y + a.d;
    for (int k = 0; k < W - 1; k++) {
        const int row = a.start - (W - 1) + k, as_final = row - (a.end - (W - 1));
        if (p.state_out) {
            float sum = p.dfinal && as_final >= 0 ? to_float(p.dfinal[base + (i64)as_final * p.d_model]) : 0.f;
            for (int n = a.start; n <= row + W - 1 && n < a.end; n++) {
                float g = to_float(dy[(i64)n * p.lddy]);
                if (SILU) g *= silu_grad(pre(p, a, n));
                sum = fmaf(tap(p, a, n, n - row), g, sum);
            }
            p.state_out[base + (i64)k * p.d_model] = from_float(sum);
        }
        const int last = a.end - (W - 1) + k;
        if (p.dfinal && last >= a.start) {
            elem& v = dx[(i64)last * p.ldy];
            v = from_float(to_float(v) + to_float(p.dfinal[base + (i64)k * p.d_model]));
        }
    }
}

extern "C" __global__ void conv_step(const __grid_constant__ Params p) {
    const At a = locate(p);
    if (!a.valid) return;
    elem* state = p.state_out + blockIdx.y * p.s_state + (i64)a.s * (W - 1) * p.d_model + a.d;
    const float x = to_float(a.x[(i64)a.s * p.ldx + a.d]);
    float in[W], v = 0.f;
    in[0] = x;
#pragma unroll
    for (int w = 1; w < W; w++) in[w] = to_float(state[(i64)(W - 1 - w) * p.d_model]);
#pragma unroll
    for (int w = 0; w < W; w++) v = fmaf(tap(p, a, a.s, w), in[w], v);
    if (SILU) v = silu(v);
    if (RESIDUAL) v += x;
    p.y[blockIdx.y * p.s_y + (i64)a.s * p.ldy + a.d] = from_float(v);
#pragma unroll
    for (int w = 1; w < W; w++) state[(i64)(W - 1 - w) * p.d_model] = from_float(in[w - 1]);
}

// AdamW over all parameters at once, clipped by the global norm of the gradients.
//
//   norm = sqrt(sum g^2), g *= min(1, clip / norm);  m, v: decaying means of g, g^2
//   p = (1 - lr decay) p - lr mhat / (sqrt(vhat) + eps)
// Parameters lie in one flat array of n elements (padding is 0): gradients of the first `taps` elements in fp32, of the rest (taps of
// convolutions) in the element type. [0, decayed) and [taps, taps_decayed) decay. 30 bytes a parameter (bf16), 28 (fp32).
// rule: lr, beta1, beta2, eps, decay, clip, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), in fp32 on the device.
// Entry points: square_sums (partial sums of BLOCKS blocks), total_norm (one block; norm, then the factor), adamw_update.
// Defines: DTYPE, VEC = 4, COPY = 1 writes the parameters in the element type as well.
#include "dense.cuh"

constexpr int BLOCKS = 1056;

__device__ __forceinline__ float4 gradient(const float* g, const elem* tap_g, i64 i, i64 taps) {
    if (i < taps) return *reinterpret_cast<const float4*>(g + i);
    float v[VEC];
    load_floats(tap_g + (i - taps), v);
    return make_float4(v[0], v[1], v[2], v[3]);
}

extern "C" __global__ void __launch_bounds__(256) square_sums(const float* g, const elem* tap_g, double* part, i64 n, i64 taps) {
    // Four sums, so that loads do not wait for each other; a thread's share is long at most a few thousand elements.
    float s[4] = {0.f, 0.f, 0.f, 0.f};
    for (i64 i = ((i64)blockIdx.x * 256 + threadIdx.x) * VEC; i < n; i += (i64)BLOCKS * 256 * VEC) {
        const float4 v = gradient(g, tap_g, i, taps);
        s[0] += v.x * v.x; s[1] += v.y * v.y; s[2] += v.z * v.z; s[3] += v.w * v.w;
    }
    double sum = ((double)s[0] + s[1]) + ((double)s[2] + s[3]);
#pragma unroll
    for (int m = 16; m; m /= 2) sum += __shfl_xor_sync(~0u, sum, m);
    __shared__ double of_warp[8];
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < 8; w++) sum += of_warp[w];
    part[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(32) total_norm(const double* part, const float* rule, float* out) {
    double sum = 0.;
    for (int i = threadIdx.x; i < BLOCKS; i += 32) sum += part[i];
#pragma unroll
    for (int m = 16; m; m /= 2) sum += __shfl_xor_sync(~0u, sum, m);
    if (threadIdx.x) return;
    const float norm = (float)sqrt(sum), clip = rule[5];
    out[0] = norm;
    out[1] = clip > 0.f && norm > clip ? clip / norm : 1.f;
}

extern "C" __global__ void __launch_bounds__(256) adamw_update(float* p, float* m, float* v, const float* g, const elem* tap_g, elem* copy,
    const float* rule, const float* norm, i64 n, i64 taps, i64 decayed, i64 taps_decayed) {
    const i64 i = ((i64)blockIdx.x * 256 + threadIdx.x) * VEC;
    if (i >= n || !isfinite(norm[0])) return; // a step whose gradient is not finite leaves the parameters as they were
    const float lr = rule[0], b1 = rule[1], b2 = rule[2], eps = rule[3], step = rule[6], root = rule[7], scale = norm[1];
    const bool decays = i < decayed || (i >= taps && i < taps_decayed);
    const float keep = decays ? 1.f - lr * rule[4] : 1.f;
    const float4 g4 = gradient(g, tap_g, i, taps), p4 = *reinterpret_cast<float4*>(p + i);
    const float4 m4 = *reinterpret_cast<float4*>(m + i), v4 = *reinterpret_cast<float4*>(v + i);
    float gs[4] = {g4.x, g4.y, g4.z, g4.w}, ps[4] = {p4.x, p4.y, p4.z, p4.w}, ms[4] = {m4.x, m4.y, m4.z, m4.w}, vs[4] = {v4.x, v4.y, v4.z, v4.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const float d = gs[k] * scale;
        ms[k] = b1 * ms[k] + (1.f - b1) * d;
        vs[k] = b2 * vs[k] + (1.f - b2) * (d * d);
        ps[k] = keep * ps[k] - step * ms[k] / (sqrtf(vs[k]) * root + eps);
    }
    *reinterpret_cast<float4*>(p + i) = make_float4(ps[0], ps[1], ps[2], ps[3]);
    *reinterpret_cast<float4*>(m + i) = make_float4(ms[0], ms[1], ms[2], ms[3]);
    *reinterpret_cast<float4*>(v + i) = make_float4(vs[0], vs[1], vs[2], vs[3]);
#if COPY
    store_floats(copy + i, ps);
#endif
}

// The element-typed copy alone: after parameters were loaded.
extern "C" __global__ void __launch_bounds__(256) cast_params(const float* p, elem* copy, i64 n) {
    const i64 i = ((i64)blockIdx.x * 256 + threadIdx.x) * VEC;
    if (i >= n) return;
    const float4 p4 = *reinterpret_cast<const float4*>(p + i);
    const float ps[4] = {p4.x, p4.y, p4.z, p4.w};
    store_floats(copy + i, ps);
}

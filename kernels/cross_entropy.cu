// Negative log likelihood of targets under softmax(logits); with GRAD the logits become their gradient, in place.
//
//   nll[n] = log sum_v exp(l[n, v]) - l[n, target];  dl = (softmax(l) - onehot(target)) weight;  argmax: the first of equals
// A row whose target is 0xffffffff counts for nothing. weight: one fp32 on the device, 1 / counted rows. A block owns a row; with
// CACHED it keeps the row in shared memory, so that each logit is read once. Bytes per logit, bf16: 2, with GRAD 4.
// Entry point: cross_entropy. Defines: DTYPE, VEC, THREADS (a multiple of 32), GRAD, CACHED (vocab elements of dynamic shared
// memory). grid.x = rows.
#include "dense.cuh"

constexpr float LOWEST = -3.4028235e38f;

__device__ __forceinline__ void larger(float& max, int& at, float max_b, int at_b) {
    if (max_b > max || (max_b == max && at_b < at)) { max = max_b; at = at_b; }
}

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy(elem* logits, i64 ld, const u32* targets, float* nll, u32* argmax,
    const float* weight, i64 vocab_size) {
    const int vocab = (int)vocab_size, lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    elem* row = logits + (i64)blockIdx.x * ld;
    const u32 target = targets[blockIdx.x];
    const float target_logit = target == ~0u ? 0.f : to_float(row[target]);
#if CACHED
    // Every thread reads back only what it wrote.
    extern __shared__ uint4 cache[];
    elem* held = reinterpret_cast<elem*>(cache);
    constexpr int BATCH = 4;
    for (int c = threadIdx.x * VEC; c < vocab; c += BATCH * THREADS * VEC) {
        Elems q[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) if (c + k * THREADS * VEC < vocab) q[k] = *reinterpret_cast<const Elems*>(row + c + k * THREADS * VEC);
#pragma unroll
        for (int k = 0; k < BATCH; k++) if (c + k * THREADS * VEC < vocab) *reinterpret_cast<Elems*>(held + c + k * THREADS * VEC) = q[k];
    }
#else
    const elem* held = row;
#endif
    float max = LOWEST;
    int at = 0x7fffffff;
    for (int c = threadIdx.x * VEC; c < vocab; c += THREADS * VEC) {
        float v[VEC];
        load_floats(held + c, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) if (v[k] > max) { max = v[k]; at = c + k; }
    }
#pragma unroll
    for (int m = 16; m; m /= 2) larger(max, at, __shfl_xor_sync(~0u, max, m), __shfl_xor_sync(~0u, at, m));
    __shared__ float max_of[THREADS / 32], sum_of[THREADS / 32];
    __shared__ int at_of[THREADS / 32];
    if (lane == 0) { max_of[warp] = max; at_of[warp] = at; }
    __syncthreads();
    max = max_of[0];
    at = at_of[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++) larger(max, at, max_of[w], at_of[w]);
    float sum = 0.f;
    for (int c = threadIdx.x * VEC; c < vocab; c += THREADS * VEC) {
        float v[VEC];
        load_floats(held + c, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) sum += __expf(v[k] - max);
    }
    sum = warp_sum(sum);
    if (lane == 0) sum_of[warp] = sum;
    __syncthreads();
    sum = sum_of[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++) sum += sum_of[w];
    if (threadIdx.x == 0) {
        nll[blockIdx.x] = target == ~0u ? 0.f : max - target_logit + __logf(sum);
        argmax[blockIdx.x] = (u32)at;
    }
#if GRAD
    const float w = target == ~0u ? 0.f : weight[0], scale = w / sum;
    for (int c = threadIdx.x * VEC; c < vocab; c += THREADS * VEC) {
        float v[VEC];
        load_floats(held + c, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) v[k] = w == 0.f ? 0.f : __expf(v[k] - max) * scale - ((u32)(c + k) == target ? w : 0.f);
        store_floats(row + c, v);
    }
#endif
}

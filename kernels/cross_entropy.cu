// Negative log likelihood of targets under softmax(logits); with GRAD the logits become their gradient, in place.
//
//   nll[n] = log sum_v exp(l[n, v]) - l[n, target];  dl = (softmax(l) - onehot(target)) weight;  argmax: the first of equals
// A row whose target is 0xffffffff counts for nothing. weight: one fp32 on the device, 1 / counted rows. A block owns a row and
// reads it twice, the second time from its end: what was read last is still in L2. Bytes per logit, bf16: 2, with GRAD 4 and what of 2 misses L2.
// Entry point: cross_entropy. Defines: DTYPE, VEC, THREADS (a multiple of 32), GRAD. grid.x = rows.
#include "dense.cuh"

constexpr float LOWEST = -3.4028235e38f;

// A running maximum with its place, and the sum of exponentials below it.
struct Seen { float max, sum; int at; };
__device__ __forceinline__ Seen merge(Seen a, Seen b) {
    const bool first = a.max > b.max || (a.max == b.max && a.at < b.at);
    const float max = first ? a.max : b.max;
    if (max == LOWEST) return first ? a : b;
    return {max, a.sum * __expf(a.max - max) + b.sum * __expf(b.max - max), first ? a.at : b.at};
}

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy(elem* logits, i64 ld, const u32* targets, float* nll, u32* argmax,
    const float* weight, i64 vocab) {
    elem* row = logits + (i64)blockIdx.x * ld;
    const u32 target = targets[blockIdx.x];
    Seen seen = {LOWEST, 0.f, 0x7fffffff};
    for (i64 c = threadIdx.x * VEC; c < vocab; c += THREADS * VEC) {
        float v[VEC];
        load_floats(row + c, v);
        float max = v[0];
        int at = 0;
#pragma unroll
        for (int k = 1; k < VEC; k++) if (v[k] > max) { max = v[k]; at = k; }
        if (max > seen.max) {
            seen.sum *= __expf(seen.max - max);
            seen.max = max;
            seen.at = (int)c + at;
        }
#pragma unroll
        for (int k = 0; k < VEC; k++) seen.sum += __expf(v[k] - seen.max);
    }
#pragma unroll
    for (int m = 16; m; m /= 2)
        seen = merge(seen, {__shfl_xor_sync(~0u, seen.max, m), __shfl_xor_sync(~0u, seen.sum, m), __shfl_xor_sync(~0u, seen.at, m)});
    __shared__ Seen of_warp[32];
    __shared__ float target_logit;
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x / 32] = seen;
    if (threadIdx.x == 0) target_logit = target == ~0u ? 0.f : to_float(row[target]);
    __syncthreads();
    seen = of_warp[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++) seen = merge(seen, of_warp[w]);
    if (threadIdx.x == 0) {
        nll[blockIdx.x] = target == ~0u ? 0.f : seen.max - target_logit + __logf(seen.sum);
        argmax[blockIdx.x] = (u32)seen.at;
    }
#if GRAD
    const float w = target == ~0u ? 0.f : weight[0], scale = w / seen.sum;
    const i64 first = threadIdx.x * VEC, step = THREADS * VEC, last = vocab > first ? first + (vocab - 1 - first) / step * step : -1;
    for (i64 c = last; c >= 0; c -= step) {
        float v[VEC];
        load_floats(row + c, v);
#pragma unroll
        for (int k = 0; k < VEC; k++) v[k] = w == 0.f ? 0.f : __expf(v[k] - seen.max) * scale - ((u32)c + k == target ? w : 0.f);
        store_floats(row + c, v);
    }
#endif
}

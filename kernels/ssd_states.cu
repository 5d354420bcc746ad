// Mamba-2's recurrence by chunks (ssd.cuh): what every token needs, and the states between chunks.
//
//   ssd_chunks: gates, and products [chunks, groups, CHUNK, CHUNK] = c b^T. A block per chunk and group.
//   ssd_states: what each chunk adds to the state, b^T (e^(G[last] - G) dt x); ssd_dstates: c^T (e^G dy), what it adds to the gradient of
//     the state before it. A block per chunk and head.
//   ssd_scan: in place, the state before each chunk; ssd_scan_back: the gradient by the state after it. A thread per 4 elements of a
//     sequence's state, chunk after chunk.
// Entry points: the five. Defines: ssd.cuh.
#include "ssd.cuh"

__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }

extern "C" __global__ void __launch_bounds__(THREADS, 3) ssd_chunks(const elem* b, i64 ldb, const elem* c, i64 ldc, const elem* dt, i64 lddt,
    const float* a_log, const float* dt_bias, const int4* plan, float* gates, float* products, i64 heads, i64 groups) {
    constexpr int LD = across(TILE);
    extern __shared__ float4 shared[];
    float *keys = reinterpret_cast<float*>(shared), *queries = keys + CHUNK * LD;
    const auto [chunk, group] = split(blockIdx.x, groups);
    const i64 in_group = split(heads, groups).whole;
    Rows64 r;
    if (!chunk_of(plan, chunk, r)) return;
    Sums<CHUNK, CHUNK> sums;
    sums.clear();
    for (int s0 = 0; s0 < STATE_SIZE; s0 += TILE) {
        __syncthreads();
        load_tile<LD>(b + r.row * ldb + group * STATE_SIZE, ldb, r.count, s0, keys);
        load_tile<LD>(c + r.row * ldc + group * STATE_SIZE, ldc, r.count, s0, queries);
        __syncthreads();
        sums.add<TILE>(tile<LD>(queries), tile<LD>(keys).transposed());
    }
    float* out = products + (i64)blockIdx.x * CHUNK * CHUNK;
    sums.each([&](int t, int s, float& x, float& y) { *reinterpret_cast<float2*>(out + t * CHUNK + s) = make_float2(x, y); });

    // A warp takes a head at a time, a lane two neighbouring tokens.
    const int lane = threadIdx.x & 31;
    for (i64 head = group * in_group + threadIdx.x / 32; head < (group + 1) * in_group; head += TILE_WARPS) {
        const float rate = expf(fminf(a_log[head], 60.f));
        float step[2];
        double sum[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t = 2 * lane + i;
            step[i] = t < r.count ? softplus(to_float(dt[(r.row + t) * lddt + head]) + dt_bias[head]) : 0.f;
            sum[i] = fmaxf(-rate * step[i], -1e30f);
        }
        sum[1] += sum[0];
        double before = sum[1];
#pragma unroll
        for (int n = 1; n < 32; n *= 2) {
            const double other = __shfl_up_sync(~0u, before, n);
            if (lane >= n) before += other;
        }
        before -= sum[1];
        sum[0] += before;
        sum[1] += before;
        const double last = __shfl_sync(~0u, sum[1], 31);
        float* to = gates + (chunk * heads + head) * GATES * CHUNK + 2 * lane;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const double in_bits = 1.4426950408889634 * sum[i];
            const float high = (float)in_bits;
            to[DT * CHUNK + i] = step[i];
            to[FROM_START * CHUNK + i] = expf((float)sum[i]);
            to[TO_END * CHUNK + i] = expf((float)(last - sum[i]));
            to[HIGH * CHUNK + i] = high;
            to[LOW * CHUNK + i] = (float)(in_bits - high);
        }
    }
}

// states[s, p] = sum_t keys[t, s] weight[t] values[t, p]
template <bool BACK>
__device__ __forceinline__ void chunk_states(const elem* keys, i64 ldk, const elem* values, i64 ldv, const int4* plan, const float* gates,
    float* states, i64 heads, i64 groups) {
    constexpr int M = up(TILE, 16), LDK = along(TILE), LDV = along(COLS);
    extern __shared__ float4 shared[];
    float *k = reinterpret_cast<float*>(shared), *v = k + CHUNK * LDK;
    const auto [chunk, head] = split(blockIdx.x, heads);
    const i64 group = split(head, split(heads, groups).whole).whole;
    Rows64 r;
    if (!chunk_of(plan, chunk, r)) return;
    const float* gate = gates_of(gates, chunk, heads, head);
    float* out = states + (i64)blockIdx.x * STATE_SIZE * PITCH;
    load_rows<COLS, X_VEC>(values + r.row * ldv + head * HEAD_SIZE, ldv, r.count, head_column, [&](int t, int p, float (&x)[X_VEC]) {
        const float weight = BACK ? gate[FROM_START * CHUNK + t] : gate[DT * CHUNK + t] * gate[TO_END * CHUNK + t];
#pragma unroll
        for (int k = 0; k < X_VEC; k++) x[k] = operand(weight * x[k]);
        put(v + t * LDV + p, x);
    });
    for (int s0 = 0; s0 < STATE_SIZE; s0 += TILE) {
        if (s0) __syncthreads();
        load_tile<LDK>(keys + r.row * ldk + group * STATE_SIZE, ldk, r.count, s0, k);
        __syncthreads();
        Sums<M, COLS> sums;
        sums.clear();
        sums.template add<CHUNK>(tile<LDK>(k).transposed(), tile<LDV>(v));
        sums.each([&](int s, int p, float& x, float& y) {
            if (s < TILE && s0 + s < STATE_SIZE && p < PITCH) *reinterpret_cast<float2*>(out + (s0 + s) * PITCH + p) = make_float2(x, y);
        });
    }
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) ssd_states(const elem* b, i64 ldb, const elem* x, i64 ldx, const int4* plan,
    const float* gates, float* states, i64 heads, i64 groups) {
    chunk_states<false>(b, ldb, x, ldx, plan, gates, states, heads, groups);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) ssd_dstates(const elem* c, i64 ldc, const elem* dy, i64 lddy, const int4* plan,
    const float* gates, float* states, i64 heads, i64 groups) {
    chunk_states<true>(c, ldc, dy, lddy, plan, gates, states, heads, groups);
}

template <bool BACK> __device__ __forceinline__ void scan(float* states, const float* gates, const int4* plan, i64 chunks, i64 heads) {
    // Chunks that are loaded ahead.
    constexpr int AHEAD = 8;
    const int per_head = STATE_SIZE * PITCH / 4;
    const i64 blocks = (heads * per_head + THREADS - 1) / THREADS;
    const auto [seq, block] = split(blockIdx.x, blocks);
    const i64 i = block * THREADS + threadIdx.x;
    if (i >= heads * per_head) return;
    // The sequence's first chunk: the plan is sorted, absent ones last.
    i64 first = 0, end = chunks;
    while (first < end) {
        const i64 middle = (first + end) / 2;
        const int4 q = plan[middle];
        if (q.x >= 0 && q.w < seq) first = middle + 1; else end = middle;
    }
    if (first >= chunks) return;
    const int4 q = plan[first];
    if (q.x < 0 || q.w != seq) return;
    const int count = (q.z - q.y + CHUNK - 1) / CHUNK;
    const i64 head = split(i, per_head).whole;
    float4* at = reinterpret_cast<float4*>(states) + first * heads * per_head + i;
    const float* whole = gates_of(gates, first, heads, head) + FROM_START * CHUNK + CHUNK - 1;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int n = 0; n < count; n += AHEAD) {
        float4 v[AHEAD];
        float keep[AHEAD];
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            const i64 k = BACK ? count - 1 - n - u : n + u;
            if (n + u < count) {
                v[u] = at[k * heads * per_head];
                keep[u] = whole[k * heads * GATES * CHUNK];
            }
        }
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            const i64 k = BACK ? count - 1 - n - u : n + u;
            if (n + u < count) {
                at[k * heads * per_head] = make_float4(operand(sum.x), operand(sum.y), operand(sum.z), operand(sum.w));
                sum = make_float4(keep[u] * sum.x + v[u].x, keep[u] * sum.y + v[u].y, keep[u] * sum.z + v[u].z, keep[u] * sum.w + v[u].w);
            }
        }
    }
}
extern "C" __global__ void __launch_bounds__(THREADS) ssd_scan(float* states, const float* gates, const int4* plan, i64 chunks, i64 heads) {
    scan<false>(states, gates, plan, chunks, heads);
}
extern "C" __global__ void __launch_bounds__(THREADS) ssd_scan_back(float* states, const float* gates, const int4* plan, i64 chunks, i64 heads) {
    scan<true>(states, gates, plan, chunks, heads);
}

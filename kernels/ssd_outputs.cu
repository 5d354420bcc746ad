// Mamba-2's recurrence by chunks (ssd.cuh): the outputs, from the states before each chunk.
//
//   y = e^G c S + tril(c b^T e^(G[t] - G[s]) dt[s]) x + d x
// Entry point: ssd_outputs, a block per chunk and head. Defines: ssd.cuh.
#include "ssd.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 3) ssd_outputs(const elem* x, i64 ldx, const elem* c, i64 ldc, const float* d,
    const int4* plan, const float* gates, const float* products, const float* states, elem* y, i64 ldy, i64 heads, i64 groups) {
    constexpr int LD = along(COLS), LDC = across(TILE), LDM = across(CHUNK);
    extern __shared__ float4 shared[];
    float *gate = reinterpret_cast<float*>(shared), *values = gate + GATES * CHUNK;
    // M takes the place of the tiles.
    float *queries = values + CHUNK * LD, *state = queries + CHUNK * LDC, *m = queries;
    const auto [chunk, head] = split(blockIdx.x, heads);
    const i64 group = split(head, split(heads, groups).whole).whole;
    Rows64 r;
    if (!chunk_of(plan, chunk, r)) return;
    load_gates(gates_of(gates, chunk, heads, head), gate);
    Sums<CHUNK, COLS> sums;
    sums.clear();
    const elem* rows = x + r.row * ldx + head * HEAD_SIZE;
    // A sequence's first state is 0.
    if (r.first) load_head<LD>(rows, ldx, r.count, values);
    for (int s0 = 0; s0 < STATE_SIZE && !r.first; s0 += TILE) {
        load_state<LD>(states + (i64)blockIdx.x * STATE_SIZE * PITCH, s0, state);
        load_tile<LDC>(c + r.row * ldc + group * STATE_SIZE, ldc, r.count, s0, queries);
        if (!s0) load_head<LD>(rows, ldx, r.count, values);
        wait_copies();
        __syncthreads();
        sums.add<TILE>(tile<LDC>(queries), tile<LD>(state));
        __syncthreads();
    }
    __syncthreads();
    sums.each([&](int t, int, float& v, float& w) {
        v *= gate[FROM_START * CHUNK + t];
        w *= gate[FROM_START * CHUNK + t];
    });
    const float* product = products + (chunk * groups + group) * CHUNK * CHUNK;
#pragma unroll 4
    for (int i = threadIdx.x; i < CHUNK * CHUNK / 4; i += THREADS) {
        const int t = i / (CHUNK / 4), s = i % (CHUNK / 4) * 4;
        float v[4] = {0.f, 0.f, 0.f, 0.f};
        if (s <= t) {
            const float4 q = *reinterpret_cast<const float4*>(product + t * CHUNK + s);
            const float four[4] = {q.x, q.y, q.z, q.w}, high = gate[HIGH * CHUNK + t], low = gate[LOW * CHUNK + t];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float* of = gate + s + k;
                if (s + k <= t) v[k] = operand(four[k] * decay(high, low, of[HIGH * CHUNK], of[LOW * CHUNK]) * of[DT * CHUNK]);
            }
        }
        put(m + t * LDM + s, v);
    }
    __syncthreads();
    sums.add<CHUNK>(tile<LDM>(m), tile<LD>(values));
    const float past = d[head];
    elem* out = y + r.row * ldy + head * HEAD_SIZE;
    sums.each([&](int t, int p, float& v, float& w) {
        if (t < r.count)
            store_two<X_VEC>(out + t * ldy, p, HEAD_SIZE, make_float2(v + past * values[t * LD + p], w + past * values[t * LD + p + 1]));
    });
}

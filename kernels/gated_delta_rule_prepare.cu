// The gated delta rule: what its chunks need before the states pass through them, every chunk and head on its own.
//
//   W, U and e^(G[last] - G) k; for a backward also T, A and P (one after the other in kept), e^G q and dv' = P^T do / sqrt(KEY), the
//   gradient by v' but for later chunks.
// T by substitution within blocks of 16 tokens, products between blocks.
// Entry point: delta_prepare, grid.x = slots heads. Defines: those of gated_delta_rule.cuh; BACKWARD.
// Dynamic shared memory, floats: 64 by_row(KEYS) + 64 PAIRS + 64 by_col(64), and with BACKWARD 64 max(by_row(KEYS), by_col(VALUE_PART)).
#include "gated_delta_rule.cuh"

constexpr int BLOCK = 16;
// Blocks of a multiprocessor, whose registers they share.
constexpr int BLOCKS = THREADS > 256 ? 1 : DTYPE == 0 ? 2 : 3;

// T in t, from A in a, whose part above the diagonal holds products meanwhile. A barrier before, and after.
__device__ __forceinline__ void invert(float* a, float* t) {
    for (int i = threadIdx.x; i < CHUNK * CHUNK; i += THREADS)
        if (i / CHUNK / BLOCK != i % CHUNK / BLOCK) t[i / CHUNK * PAIRS + i % CHUNK] = 0.f;
    if (threadIdx.x < CHUNK) {
        // A column of a block on the diagonal.
        const int col = threadIdx.x % BLOCK, first = threadIdx.x - col;
        const float* block = a + first * PAIRS + first;
        float x[BLOCK];
#pragma unroll
        for (int i = 0; i < BLOCK; i++) {
            x[i] = i == col ? 1.f : 0.f;
#pragma unroll
            for (int s = 0; s < i; s++) x[i] -= block[i * PAIRS + s] * x[s];
            t[(first + i) * PAIRS + threadIdx.x] = x[i];
        }
    }
    __syncthreads();
    // [[T1, 0], [-T2 A21 T1, T2]], from blocks of 16 to 32, then to 64.
    constexpr int HALF = 2 * BLOCK;
    float* const between = a + HALF;
#pragma unroll
    for (int first = 0; first < CHUNK; first += HALF)
        product<BLOCK, BLOCK, BLOCK>(tile<PAIRS>(a + (first + BLOCK) * PAIRS + first), tile<PAIRS>(t + first * PAIRS + first),
            [&](int row, int col, float2 x) { set_pair(between + row * PAIRS + first / 2 + col, x); });
    __syncthreads();
#pragma unroll
    for (int first = 0; first < CHUNK; first += HALF)
        product<BLOCK, BLOCK, BLOCK>(tile<PAIRS>(t + (first + BLOCK) * PAIRS + first + BLOCK), tile<PAIRS>(between + first / 2),
            [&](int row, int col, float2 x) { set_pair(t + (first + BLOCK + row) * PAIRS + first + col, make_float2(-x.x, -x.y)); });
    __syncthreads();
    product<HALF, HALF, HALF>(tile<PAIRS>(a + HALF * PAIRS), tile<PAIRS>(t), [&](int row, int col, float2 x) { set_pair(between + row * PAIRS + col, x); });
    __syncthreads();
    product<HALF, HALF, HALF>(tile<PAIRS>(t + HALF * PAIRS + HALF), tile<PAIRS>(between),
        [&](int row, int col, float2 x) { set_pair(t + (HALF + row) * PAIRS + col, make_float2(-x.x, -x.y)); });
    __syncthreads();
}

__device__ __forceinline__ void store_pairs(float* to, const float* from) {
    for (int i = threadIdx.x; i < CHUNK * CHUNK; i += THREADS) to[i] = from[i / CHUNK * PAIRS + i % CHUNK];
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) delta_prepare(DELTA_INPUTS, const elem* d_o, i64 lddo, float* w, float* u,
    float* k_end, float* whole, float* kept, float* q_start, float* dv) {
    const i64 slot = blockIdx.x / (u32)heads, head = blockIdx.x - slot * heads;
    const Chunk chunk = chunk_in(cu, seqs, len, slot);
    if (chunk.count == 0) return;
    constexpr int ROW = by_row(KEYS), VALUE_LD = by_col(VALUE_PART);
    extern __shared__ float4 shared[];
    float* const keys = reinterpret_cast<float*>(shared);
    float* const t = keys + CHUNK * ROW;
    // A, then P.
    float* const pairs = t + CHUNK * PAIRS;
    float* const queries = pairs + CHUNK * by_col(CHUNK);
    float* const values = BACKWARD ? queries : pairs;
    __shared__ Gates gates;
    __shared__ float norm_k[CHUNK], norm_q[CHUNK];

    gates.read(a + chunk.row * lda + head, lda, b + chunk.row * ldb + head, ldb, a_log[head], dt_bias[head], chunk.count);
    const elem *k_rows = k + chunk.row * ldk + head * KEY, *q_rows = q + chunk.row * ldq + head * KEY;
    inverse_norms(norm_k, k_rows, ldk, chunk.count);
    if (BACKWARD) inverse_norms(norm_q, q_rows, ldq, chunk.count);
    __syncthreads();
    load_rows<KEYS, ROW>(keys, k_rows, ldk, chunk.count, KEY, [&](int t) { return norm_k[t]; });
    if (BACKWARD) load_rows<KEYS, ROW>(queries, q_rows, ldq, chunk.count, KEY, [&](int t) { return norm_q[t]; });
    if (threadIdx.x == 0) whole[blockIdx.x] = gates.whole();
    __syncthreads();
    product<CHUNK, CHUNK, KEYS>(tile<ROW>(keys), tile<ROW>(keys).transposed(), [&](int row, int col, float2 x) {
        const float x0 = col < row ? gates.beta[row] * x.x * gates.between(row, col) : 0.f;
        const float x1 = col + 1 < row ? gates.beta[row] * x.y * gates.between(row, col + 1) : 0.f;
        set_pair(pairs + row * PAIRS + col, make_float2(x0, x1));
    });
    __syncthreads();
    invert(pairs, t);

    const i64 at = blockIdx.x;
    if (BACKWARD) {
        float* const to = kept + at * 3 * CHUNK * CHUNK;
        store_pairs(to, t);
        store_pairs(to + CHUNK * CHUNK, pairs);
        __syncthreads();
        product<CHUNK, CHUNK, KEYS>(tile<ROW>(queries), tile<ROW>(keys).transposed(), [&](int row, int col, float2 x) {
            const float x0 = col <= row ? x.x * gates.between(row, col) : 0.f;
            const float x1 = col + 1 <= row ? x.y * gates.between(row, col + 1) : 0.f;
            set_pair(pairs + row * PAIRS + col, make_float2(x0, x1));
        });
        __syncthreads();
        store_pairs(to + 2 * CHUNK * CHUNK, pairs);
    }
    for (int i = threadIdx.x; i < CHUNK * KEYS; i += THREADS) {
        const int row = i / KEYS, col = i % KEYS;
        const float key = keys[row * ROW + col];
        k_end[at * CHUNK * KEYS + i] = gates.to_end[row] * key;
        keys[row * ROW + col] = gates.beta[row] * gates.from_start[row] * key;
        if (BACKWARD) q_start[at * CHUNK * KEYS + i] = gates.from_start[row] * queries[row * ROW + col];
    }
    __syncthreads();
    product<CHUNK, KEYS, CHUNK>(tile<PAIRS>(t), tile<ROW>(keys), [&](int row, int col, float2 x) { set_pair(w + (at * CHUNK + row) * KEYS + col, x); });
    const float scale = 1.f / sqrtf((float)KEY);
    for (int first = 0; first < VALUES; first += VALUE_PART) {
        const i64 from = head * VALUE + first;
        load_rows<VALUE_PART, VALUE_LD>(values, v + chunk.row * ldv + from, ldv, chunk.count, VALUE - first, [&](int t) { return gates.beta[t]; });
        __syncthreads();
        product<CHUNK, VALUE_PART, CHUNK>(tile<PAIRS>(t), tile<VALUE_LD>(values),
            [&](int row, int col, float2 x) { set_pair(u + (at * CHUNK + row) * VALUES + first + col, x); });
        __syncthreads();
        if (BACKWARD) {
            load_rows<VALUE_PART, VALUE_LD>(values, d_o + chunk.row * lddo + from, lddo, chunk.count, VALUE - first, [&](int) { return scale; });
            __syncthreads();
            product<CHUNK, VALUE_PART, CHUNK>(tile<PAIRS>(pairs).transposed(), tile<VALUE_LD>(values),
                [&](int row, int col, float2 x) { set_pair(dv + (at * CHUNK + row) * VALUES + first + col, x); });
            __syncthreads();
        }
    }
}

// The gated delta rule: o of every chunk and head from the state at its start and v'.
//
//   o = [e^G q, P] [S; v'] / sqrt(KEY): one product over keys and tokens.
// Entry point: delta_outputs, grid.x = slots heads. Defines: those of gated_delta_rule.cuh.
// Dynamic shared memory, floats: 64 by_row(KEYS + 64) + max(64 by_row(KEYS), (KEYS + 64) by_col(VALUE_PART)).
#include "gated_delta_rule.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, 1) delta_outputs(DELTA_INPUTS, const float* states, const float* written, elem* o, i64 ldo) {
    const i64 slot = blockIdx.x / (u32)heads, head = blockIdx.x - slot * heads, at = blockIdx.x;
    const Chunk chunk = chunk_in(cu, seqs, len, slot);
    if (chunk.count == 0) return;
    constexpr int BOTH = KEYS + CHUNK, ROW = by_row(BOTH), KEY_LD = by_row(KEYS), LD = by_col(VALUE_PART);
    extern __shared__ float4 shared[];
    float* const queries = reinterpret_cast<float*>(shared);
    // Keys, and after them S and v'.
    float* const right = queries + CHUNK * ROW;
    __shared__ Gates gates;
    __shared__ float norm_k[CHUNK], norm_q[CHUNK];

    gates.read(a + chunk.row * lda + head, lda, b + chunk.row * ldb + head, ldb, a_log[head], dt_bias[head], chunk.count);
    const elem *k_rows = k + chunk.row * ldk + head * KEY, *q_rows = q + chunk.row * ldq + head * KEY;
    inverse_norms(norm_k, k_rows, ldk, chunk.count);
    inverse_norms(norm_q, q_rows, ldq, chunk.count);
    __syncthreads();
    load_rows<KEYS, KEY_LD>(right, k_rows, ldk, chunk.count, KEY, [&](int t) { return norm_k[t]; });
    load_rows<KEYS, ROW>(queries, q_rows, ldq, chunk.count, KEY, [&](int t) { return norm_q[t]; });
    __syncthreads();
    const float scale = 1.f / sqrtf((float)KEY);
    product<CHUNK, CHUNK, KEYS>(tile<ROW>(queries), tile<KEY_LD>(right).transposed(), [&](int row, int col, float2 x) {
        const float x0 = col <= row ? scale * x.x * gates.between(row, col) : 0.f;
        const float x1 = col + 1 <= row ? scale * x.y * gates.between(row, col + 1) : 0.f;
        set_pair(queries + row * ROW + KEYS + col, make_float2(x0, x1));
    });
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNK * KEYS; i += THREADS) queries[i / KEYS * ROW + i % KEYS] *= scale * gates.from_start[i / KEYS];
    for (int first = 0; first < VALUES; first += VALUE_PART) {
        copy_work<KEYS, VALUE_PART, LD>(right, states + at * KEYS * VALUES + first, VALUES);
        copy_work<CHUNK, VALUE_PART, LD>(right + KEYS * LD, written + at * CHUNK * VALUES + first, VALUES);
        commit_copies();
        wait_copies<0>();
        __syncthreads();
        product<CHUNK, VALUE_PART, BOTH>(tile<ROW>(queries), tile<LD>(right), [&](int row, int col, float2 x) {
            if (row >= chunk.count) return;
            elem* const to = o + (chunk.row + row) * ldo + head * VALUE + first + col;
            if (first + col < VALUE) to[0] = from_float(x.x);
            if (first + col + 1 < VALUE) to[1] = from_float(x.y);
        });
        __syncthreads();
    }
}

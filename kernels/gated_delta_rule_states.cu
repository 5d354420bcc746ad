// The gated delta rule: states from chunk to chunk, and their gradients back. Columns of the value do not meet: a block takes SLICE of a
// head's through one sequence.
//
//   delta_states: states[slot] = S at its start, v' over U.
//   delta_state_gradients, in reverse: dstates[slot] = dS at its end, dv' += e^(G[last] - G) k dS; dS <- e^G[last] dS + (e^G q)^T do / sqrt(KEY) - W^T dv'.
// The next operands are on their way while a product runs. Grid.x = seqs heads slices.
// Defines: those of gated_delta_rule.cuh; SLICE: divides VALUES, a multiple of 16.
// Dynamic shared memory, floats: KEYS by_col(SLICE) + 2 64 by_row(KEYS) + 2 64 by_col(SLICE).
#include "gated_delta_rule.cuh"

constexpr int ROW = by_row(KEYS), LD = by_col(SLICE), SLICES = VALUES / SLICE;

// A block's part: slots of one sequence, columns of one head.
struct Part {
    i64 head, slot, start, col;
    int rows, chunks;
    __device__ __forceinline__ Part(const int* cu, i64 len, i64 heads) {
        const u32 pair = blockIdx.x / SLICES, seq = pair / (u32)heads;
        col = blockIdx.x % SLICES * SLICE;
        head = pair - seq * (u32)heads;
        slot = first_slot(cu, len, seq);
        start = cu ? cu[seq] : (i64)seq * len;
        rows = (int)(cu ? cu[seq + 1] - cu[seq] : len);
        chunks = (rows + CHUNK - 1) / CHUNK;
    }
    // Of a chunk among all slots and heads.
    __device__ __forceinline__ i64 at(i64 heads, int chunk) const { return (slot + chunk) * heads + head; }
};

__device__ __forceinline__ void store_state(float* to, const float* from) {
    for (int i = threadIdx.x; i < KEYS * (SLICE / 4); i += THREADS) {
        const int row = i / (SLICE / 4), col = i % (SLICE / 4) * 4;
        *reinterpret_cast<float4*>(to + (i64)row * VALUES + col) = *reinterpret_cast<const float4*>(from + row * LD + col);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) delta_states(const int* cu, i64 len, i64 heads, const float* w, const float* k_end,
    const float* whole, float* u, float* states) {
    const Part part(cu, len, heads);
    extern __shared__ float4 shared[];
    float* const state = reinterpret_cast<float*>(shared);
    float* const w_rows = state + KEYS * LD;
    float* const k_rows = w_rows + CHUNK * ROW;
    float* const written = k_rows + CHUNK * ROW;
    auto copy_w = [&](int chunk) {
        if (chunk < part.chunks) {
            const i64 at = part.at(heads, chunk);
            copy_work<CHUNK, KEYS, ROW>(w_rows, w + at * CHUNK * KEYS, KEYS);
            copy_work<CHUNK, SLICE, LD>(written + chunk % 2 * CHUNK * LD, u + at * CHUNK * VALUES + part.col, VALUES);
        }
        commit_copies();
    };
    auto copy_k = [&](int chunk) {
        if (chunk < part.chunks) copy_work<CHUNK, KEYS, ROW>(k_rows, k_end + part.at(heads, chunk) * CHUNK * KEYS, KEYS);
        commit_copies();
    };
    copy_w(0);
    copy_k(0);
    for (int i = threadIdx.x; i < KEYS * LD; i += THREADS) state[i] = 0.f;
    for (int chunk = 0; chunk < part.chunks; chunk++) {
        const i64 at = part.at(heads, chunk);
        float* const v = written + chunk % 2 * CHUNK * LD;
        const float decay = whole[at];
        wait_copies<1>();
        __syncthreads();
        store_state(states + at * KEYS * VALUES + part.col, state);
        product<CHUNK, SLICE, KEYS>(tile<ROW>(w_rows), tile<LD>(state), [&](int row, int col, float2 x) {
            const float2 held = *reinterpret_cast<float2*>(v + row * LD + col), left = make_float2(held.x - x.x, held.y - x.y);
            set_pair(v + row * LD + col, left);
            set_pair(u + (at * CHUNK + row) * VALUES + part.col + col, left);
        });
        __syncthreads();
        copy_w(chunk + 1);
        wait_copies<1>();
        __syncthreads();
        product<KEYS, SLICE, CHUNK>(tile<ROW>(k_rows).transposed(), tile<LD>(v), [&](int row, int col, float2 x) {
            float2* const held = reinterpret_cast<float2*>(state + row * LD + col);
            *held = make_float2(decay * held->x + x.x, decay * held->y + x.y);
        });
        __syncthreads();
        copy_k(chunk + 1);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) delta_state_gradients(const int* cu, i64 len, i64 heads, const elem* d_o, i64 lddo, const float* w,
    const float* k_end, const float* q_start, const float* whole, float* dv, float* dstates) {
    const Part part(cu, len, heads);
    extern __shared__ float4 shared[];
    float* const dstate = reinterpret_cast<float*>(shared);
    float* const w_rows = dstate + KEYS * LD;
    float* const kq_rows = w_rows + CHUNK * ROW;
    float* const dwritten = kq_rows + CHUNK * ROW;
    float* const d_o_rows = dwritten + CHUNK * LD;
    auto copy_w = [&](int chunk) {
        if (chunk >= 0) copy_work<CHUNK, KEYS, ROW>(w_rows, w + part.at(heads, chunk) * CHUNK * KEYS, KEYS);
        commit_copies();
    };
    auto copy_k = [&](int chunk) {
        if (chunk >= 0) {
            const i64 at = part.at(heads, chunk);
            copy_work<CHUNK, KEYS, ROW>(kq_rows, k_end + at * CHUNK * KEYS, KEYS);
            copy_work<CHUNK, SLICE, LD>(dwritten, dv + at * CHUNK * VALUES + part.col, VALUES);
        }
        commit_copies();
    };
    const float scale = 1.f / sqrtf((float)KEY);
    copy_w(part.chunks - 1);
    copy_k(part.chunks - 1);
    for (int i = threadIdx.x; i < KEYS * LD; i += THREADS) dstate[i] = 0.f;
    for (int chunk = part.chunks - 1; chunk >= 0; chunk--) {
        const i64 at = part.at(heads, chunk), row0 = part.start + (i64)chunk * CHUNK;
        const float decay = whole[at];
        load_rows<SLICE, LD>(d_o_rows, d_o + row0 * lddo + part.head * VALUE + part.col, lddo, min(CHUNK, part.rows - chunk * CHUNK),
            VALUE - (int)part.col, [&](int) { return scale; });
        wait_copies<0>();
        __syncthreads();
        store_state(dstates + at * KEYS * VALUES + part.col, dstate);
        product<CHUNK, SLICE, KEYS>(tile<ROW>(kq_rows), tile<LD>(dstate), [&](int row, int col, float2 x) {
            const float2 held = *reinterpret_cast<float2*>(dwritten + row * LD + col), sum = make_float2(held.x + x.x, held.y + x.y);
            set_pair(dwritten + row * LD + col, sum);
            set_pair(dv + (at * CHUNK + row) * VALUES + part.col + col, sum);
        });
        __syncthreads();
        copy_work<CHUNK, KEYS, ROW>(kq_rows, q_start + at * CHUNK * KEYS, KEYS);
        commit_copies();
        product<KEYS, SLICE, CHUNK>(tile<ROW>(w_rows).transposed(), tile<LD>(dwritten), [&](int row, int col, float2 x) {
            float2* const held = reinterpret_cast<float2*>(dstate + row * LD + col);
            *held = make_float2(decay * held->x - x.x, decay * held->y - x.y);
        });
        __syncthreads();
        copy_w(chunk - 1);
        wait_copies<1>();
        __syncthreads();
        product<KEYS, SLICE, CHUNK>(tile<ROW>(kq_rows).transposed(), tile<LD>(d_o_rows),
            [&](int row, int col, float2 x) { add_pair(dstate + row * LD + col, x); });
        __syncthreads();
        copy_k(chunk - 1);
    }
}

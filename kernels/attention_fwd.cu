// Causal attention forward on Hopper: o and lse (attention.cuh), bf16, scores and sums fp32, p rounded to bf16 for p v.
//
// A block owns ROWS queries of one head. Warpgroup 0 copies their tile and then keys and values, STREAM rows at a time, from the diagonal down;
// each other warpgroup has 64 queries and keeps scores, p and o in registers: the scores of a tile are computed while p v of the tile before
// is. FLOP: 4 HEAD a (query, key) pair and one exponential. Bytes: q, o, lse once; k, v once a block, from L2.
//
// Entry point: attention_fwd(p, map of q, of k, of v), boxes of 64 rows x SPAN columns; grid.x = tiles x heads; dynamic shared memory:
// 1024 + CONSUMERS OWN_BYTES + 2 STAGES STREAM_BYTES.
#include "attention_hopper.cuh"

static_assert(STREAM >= 64, "a warpgroup's queries end in one tile of keys, the only one that needs a mask");

// A thread's two rows of the running softmax.
struct Softmax {
    float top[2], total[2];
};

// Scores -> exponentials under the new maximum; `turn` is what sums under the old one are multiplied by.
template <bool FIRST> __device__ __forceinline__ void update(Softmax& m, float (&s)[STREAM / 2], float scale, float (&turn)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float high = FIRST ? s[2 * half] : fmaxf(m.top[half], s[2 * half]);
#pragma unroll
        for (int i = 0; i < STREAM / 8; i++) high = fmaxf(high, fmaxf(s[4 * i + 2 * half], s[4 * i + 2 * half + 1]));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
        turn[half] = FIRST ? 0.f : exp2_fast((m.top[half] - high) * scale);
        m.top[half] = high;
        const float shift = high * scale;
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < STREAM / 8; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float& v = s[4 * i + 2 * half + e];
                v = exp2_fast(fmaf(v, scale, -shift));
                sum += v;
            }
        m.total[half] = FIRST ? sum : fmaf(m.total[half], turn[half], sum);
    }
}

// Hides the keys after each query; both counted from the start of the sequence.
__device__ __forceinline__ void mask(float (&s)[STREAM / 2], int first_query, int first_key) {
    const int lane = threadIdx.x & 31;
    const int seen = first_query + (threadIdx.x / 32 & 3) * 16 + lane / 4 - first_key - 2 * (lane & 3);
#pragma unroll
    for (int i = 0; i < STREAM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (8 * i + (e & 1) > seen + (e & 2) * 4) s[4 * i + e] = -INFINITY;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_fwd(const __grid_constant__ Attention p, const __grid_constant__ TensorMap q_map,
        const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map) {
    extern __shared__ unsigned char raw[];
    __shared__ u64 barriers[1 + 4 * STAGES];
    const u32 own = (shared_address(raw) + 1023) & ~1023u, keys = own + CONSUMERS * OWN_BYTES, values = keys + STAGES * STREAM_BYTES;
    const u32 q_full = shared_address(barriers), k_full = q_full + 8, v_full = k_full + 8 * STAGES, k_free = v_full + 8 * STAGES, v_free = k_free + 8 * STAGES;
    Tile t;
    if (!tile_of_block(p, blockIdx.x, ROWS, p.heads, true, t)) return;
    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(k_full + 8 * i, 1);
            barrier_init(v_full + 8 * i, 1);
            barrier_init(k_free + 8 * i, 4 * CONSUMERS);
            barrier_init(v_free + 8 * i, 4 * CONSUMERS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    const int group = warpgroup(), last = (min(t.row0 + ROWS, t.end) - t.start - 1) / STREAM;
    if (group == 0) {
        registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            const int kv_head = t.head / (p.heads / p.kv_heads);
            barrier_expect(q_full, CONSUMERS * OWN_BYTES);
            for (int i = 0; i < CONSUMERS; i++) copy_rows<64>(own + i * OWN_BYTES, &q_map, t.head, t.row0 + 64 * i, q_full);
            Turn turn;
            for (int j = last; j >= 0; j--, turn.next()) {
                barrier_wait(k_free + 8 * turn.stage, turn.parity ^ 1);
                barrier_expect(k_full + 8 * turn.stage, STREAM_BYTES);
                copy_rows<STREAM>(keys + turn.stage * STREAM_BYTES, &k_map, kv_head, t.start + j * STREAM, k_full + 8 * turn.stage);
                barrier_wait(v_free + 8 * turn.stage, turn.parity ^ 1);
                barrier_expect(v_full + 8 * turn.stage, STREAM_BYTES);
                copy_rows<STREAM>(values + turn.stage * STREAM_BYTES, &v_map, kv_head, t.start + j * STREAM, v_full + 8 * turn.stage);
            }
        }
    } else {
        registers_up<CONSUMER_REGISTERS>();
        const bool speaks = (threadIdx.x & 31) == 0;
        const int row0 = t.row0 + 64 * (group - 1), first_query = row0 - t.start;
        const u32 q = own + (group - 1) * OWN_BYTES;
        const float scale = p.scale * LOG2E;
        Turn kt, vt;
        int j = last;
        // Tiles that only later warpgroups see; all of them where the rows are past the end.
        const int first = row0 < t.end ? (first_query + 63) / STREAM : -1;
        for (; j > first; j--, kt.next(), vt.next()) {
            barrier_wait(k_full + 8 * kt.stage, kt.parity);
            if (speaks) barrier_arrive(k_free + 8 * kt.stage);
            barrier_wait(v_full + 8 * kt.stage, kt.parity);
            if (speaks) barrier_arrive(v_free + 8 * kt.stage);
        }
        if (j < 0) return;
        float s[STREAM / 2], o[HEAD / 2], turn[2];
        u32 weights[STREAM / 4];
        Softmax m;
        clear(o);
        barrier_wait(q_full, 0);
        barrier_wait(k_full + 8 * kt.stage, kt.parity);
        products_begin();
        multiply_rows(s, q, keys + kt.stage * STREAM_BYTES);
        products_commit();
        products_wait<0>();
        pin(s);
        if (speaks) barrier_arrive(k_free + 8 * kt.stage);
        kt.next();
        mask(s, first_query, j * STREAM);
        update<true>(m, s, scale, turn);
        pack(weights, s);
        for (j--; j >= 0; j--) {
            barrier_wait(k_full + 8 * kt.stage, kt.parity);
            products_begin();
            multiply_rows(s, q, keys + kt.stage * STREAM_BYTES);
            products_commit();
            barrier_wait(v_full + 8 * vt.stage, vt.parity);
            add_product(o, weights, values + vt.stage * STREAM_BYTES);
            products_commit();
            products_wait<1>();
            pin(s);
            if (speaks) barrier_arrive(k_free + 8 * kt.stage);
            kt.next();
            update<false>(m, s, scale, turn);
            products_wait<0>();
            pin(o);
            if (speaks) barrier_arrive(v_free + 8 * vt.stage);
            vt.next();
#pragma unroll
            for (int i = 0; i < HEAD / 2; i++) o[i] *= turn[i / 2 & 1];
            pack(weights, s);
        }
        barrier_wait(v_full + 8 * vt.stage, vt.parity);
        products_begin();
        add_product(o, weights, values + vt.stage * STREAM_BYTES);
        products_commit();
        products_wait<0>();
        pin(o);
        const int valid = t.end - row0, row = (threadIdx.x / 32 & 3) * 16 + (threadIdx.x & 31) / 4;
        float factor[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = m.total[half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            factor[half] = 1.f / total;
            if ((threadIdx.x & 3) == 0 && row + 8 * half < valid)
                p.lse[(i64)t.head * p.rows + row0 + row + 8 * half] = m.top[half] * p.scale + logf(total);
        }
        store_rows(p.o + (i64)row0 * p.ldo + t.head * COLUMNS, p.ldo, valid, o, factor[0], factor[1]);
    }
}

// Causal attention backward on Hopper, the gradient of the queries: dq[t] = scale sum_s ds[t, s] k[s] (attention.cuh), bf16, sums fp32,
// ds rounded to bf16 for the last product. And delta[t] = do[t].o[t], which dq and attention_dkdv.cu read.
//
// A block owns ROWS queries of one head: q and do stay in shared memory, keys and values come STREAM rows at a time. The scores are computed
// again from lse, so no sum has two writers and dq needs no fp32 copy in memory. FLOP: 6 HEAD a (query, key) pair.
//
// Entry points: attention_delta_bf16 (256 threads, HEAD/8 lanes a row and head); attention_dq(p, map of q, of do, of k, of v), grid.x = tiles x
// heads, dynamic shared memory: 1024 + 2 CONSUMERS OWN_BYTES + 2 STAGES STREAM_BYTES.
#include "attention_hopper.cuh"

extern "C" __global__ void __launch_bounds__(256) attention_delta_bf16(const __grid_constant__ Attention p) {
    constexpr int LANES = HEAD / 8;
    const i64 pair = ((i64)blockIdx.x * 256 + threadIdx.x) / LANES, row = pair / p.heads;
    const int head = (int)(pair - row * p.heads), d = head * HEAD + threadIdx.x % LANES * 8;
    float sum = 0.f;
    if (row < p.rows) {
        Vec<8, 16> a, b;
        a.load(p.d_o + row * p.lddo + d);
        b.load(p.o + row * p.ldo + d);
#pragma unroll
        for (int i = 0; i < 8; i++) sum = fmaf(to_float(a.e[i]), to_float(b.e[i]), sum);
    }
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (row < p.rows && threadIdx.x % LANES == 0) p.delta[(i64)head * p.rows + row] = sum;
}

// No weight for the keys after a thread's first query, `seen` keys from the first of the tile.
__device__ __forceinline__ void hide(float (&s)[STREAM / 2], int seen) {
    seen -= 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < STREAM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (8 * i + (e & 1) > seen + (e & 2) * 4) s[4 * i + e] = 0.f;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_dq(const __grid_constant__ Attention p, const __grid_constant__ TensorMap q_map,
        const __grid_constant__ TensorMap do_map, const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map) {
    extern __shared__ unsigned char raw[];
    __shared__ u64 barriers[1 + 2 * STAGES];
    const u32 own = (shared_address(raw) + 1023) & ~1023u, keys = own + 2 * CONSUMERS * OWN_BYTES, values = keys + STAGES * STREAM_BYTES;
    const u32 own_full = shared_address(barriers), full = own_full + 8, free = full + 8 * STAGES;
    Tile t;
    if (!tile_of_block(p, blockIdx.x, ROWS, p.heads, true, t)) return;
    if (threadIdx.x == 0) {
        barrier_init(own_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(free + 8 * i, 4 * CONSUMERS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    const int group = warpgroup(), last = (min(t.row0 + ROWS, t.end) - t.start - 1) / STREAM;
    if (group == 0) {
        registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            const int kv_head = t.head / (p.heads / p.kv_heads);
            barrier_expect(own_full, 2 * CONSUMERS * OWN_BYTES);
            for (int i = 0; i < CONSUMERS; i++) {
                copy_rows<64>(own + 2 * i * OWN_BYTES, &q_map, t.head, t.row0 + 64 * i, own_full);
                copy_rows<64>(own + (2 * i + 1) * OWN_BYTES, &do_map, t.head, t.row0 + 64 * i, own_full);
            }
            Turn turn;
            for (int j = last; j >= 0; j--, turn.next()) {
                const u32 bar = full + 8 * turn.stage;
                barrier_wait(free + 8 * turn.stage, turn.parity ^ 1);
                barrier_expect(bar, 2 * STREAM_BYTES);
                copy_rows<STREAM>(keys + turn.stage * STREAM_BYTES, &k_map, kv_head, t.start + j * STREAM, bar);
                copy_rows<STREAM>(values + turn.stage * STREAM_BYTES, &v_map, kv_head, t.start + j * STREAM, bar);
            }
        }
    } else {
        registers_up<CONSUMER_REGISTERS>();
        const bool speaks = (threadIdx.x & 31) == 0;
        const int row0 = t.row0 + 64 * (group - 1), first_query = row0 - t.start, valid = t.end - row0;
        const int row = (threadIdx.x / 32 & 3) * 16 + (threadIdx.x & 31) / 4;
        const u32 q = own + 2 * (group - 1) * OWN_BYTES, d_o = q + OWN_BYTES;
        const float scale = p.scale * LOG2E;
        Turn turn;
        int j = last;
        const int first = row0 < t.end ? (first_query + 63) / STREAM : -1;
        for (; j > first; j--, turn.next()) {
            barrier_wait(full + 8 * turn.stage, turn.parity);
            if (speaks) barrier_arrive(free + 8 * turn.stage);
        }
        if (j < 0) return;
        float lse[2], delta[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const bool there = row + 8 * half < valid;
            const i64 at = (i64)t.head * p.rows + row0 + row + 8 * half;
            lse[half] = there ? p.lse[at] * LOG2E : INFINITY;
            delta[half] = there ? p.delta[at] : 0.f;
        }
        float s[STREAM / 2], ds[STREAM / 2], dq[HEAD / 2];
        u32 packed[STREAM / 4];
        clear(dq);
        barrier_wait(own_full, 0);
        int before = -1;  // the stage that the product into dq still reads
        for (bool diagonal = true; j >= 0; j--, turn.next(), diagonal = false) {
            const u32 k = keys + turn.stage * STREAM_BYTES, v = values + turn.stage * STREAM_BYTES;
            barrier_wait(full + 8 * turn.stage, turn.parity);
            products_begin();
            multiply_rows(s, q, k);
            products_commit();
            multiply_rows(ds, d_o, v);
            products_commit();
            products_wait<1>();
            pin(s);
            if (speaks && before >= 0) barrier_arrive(free + 8 * before);
            before = turn.stage;
#pragma unroll
            for (int i = 0; i < STREAM / 2; i++) s[i] = exp2_fast(fmaf(s[i], scale, -lse[i / 2 & 1]));
            if (diagonal) hide(s, first_query + row - j * STREAM);
            products_wait<0>();
            pin(ds);
#pragma unroll
            for (int i = 0; i < STREAM / 2; i++) ds[i] = s[i] * (ds[i] - delta[i / 2 & 1]);
            pack(packed, ds);
            products_begin();
            add_product(dq, packed, k);
            products_commit();
        }
        products_wait<0>();
        pin(dq);
        store_rows(p.dq + (i64)row0 * p.lddq + t.head * HEAD, p.lddq, valid, dq, p.scale, p.scale);
    }
}

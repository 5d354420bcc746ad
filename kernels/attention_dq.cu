// Causal attention backward on Hopper, the gradient of the queries: dq[t] = scale sum_s ds[t, s] k[s] (attention.cuh), bf16, sums fp32,
// ds rounded to bf16 for the last product. And delta[t] = do[t].o[t], which dq and attention_dkdv.cu read.
//
// A block owns ROWS queries of one head: q and do stay in shared memory, keys and values come STREAM rows at a time. The scores are computed
// again from lse, so no sum has two writers and dq needs no fp32 copy in memory. Scores of the next tile are computed while p and ds of
// this one are. FLOP: 6 HEAD a (query, key) pair and one exponential.
//
// Entry point: attention_dq(p, map of q, of do, of k, of v), grid.x = tiles x heads; dynamic shared memory:
// 1024 + 2 CONSUMERS OWN_BYTES + 2 STAGES STREAM_BYTES.
#include "attention_hopper.cuh"

// No weight for the keys after a thread's first query, `seen` keys from the first of the tile.
__device__ __forceinline__ void hide(float (&s)[STREAM / 2], int seen) {
    seen -= 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < STREAM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (8 * i + (e & 1) > seen + (e & 2) * 4) s[4 * i + e] = 0.f;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_dq(const __grid_constant__ Attention p, const __grid_constant__ TensorMap q_map,
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
            const i64 at = row0 + row + 8 * half, sums = (i64)t.head * p.rows + at;
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < COLUMNS; i += 32) {
                const int d = i + 8 * (threadIdx.x & 3);
                if (!there || d >= COLUMNS) continue;
                Vec<8, 16> a, b;
                a.load(p.d_o + at * p.lddo + t.head * COLUMNS + d);
                b.load(p.o + at * p.ldo + t.head * COLUMNS + d);
#pragma unroll
                for (int e = 0; e < 8; e++) sum = fmaf(to_float(a.e[e]), to_float(b.e[e]), sum);
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            delta[half] = sum;
            lse[half] = there ? p.lse[sums] * LOG2E : INFINITY;
            if (there && (threadIdx.x & 3) == 0) p.delta[sums] = sum;
        }
        float scores[2][STREAM / 2], ds[STREAM / 2], dq[HEAD / 2];
        u32 packed[STREAM / 4];
        clear(dq);
        // One tile: s its scores, which are being computed, as do v^T are into ds; `next` those of the tile after it, if there are `more`.
        const auto step = [&](float (&s)[STREAM / 2], float (&next)[STREAM / 2], bool begun, auto more) {
            const u32 k = keys + turn.stage * STREAM_BYTES;
            const int before = turn.stage == 0 ? STAGES - 1 : turn.stage - 1;
            Turn ahead = turn;
            ahead.next();
            // In flight, oldest first: s and dq of the tile before, in either order, and ds.
            products_wait<1>();
            pin(s);
            if (begun && speaks) barrier_arrive(free + 8 * before);
            if constexpr (more.value) {
                barrier_wait(full + 8 * ahead.stage, ahead.parity);
                products_begin();
                multiply_rows(next, q, keys + ahead.stage * STREAM_BYTES);
                products_commit();
            }
#pragma unroll
            for (int i = 0; i < STREAM / 2; i++) s[i] = exp2_fast(fmaf(s[i], scale, -lse[i / 2 & 1]));
            if ((j + 1) * STREAM > first_query + 1) hide(s, first_query + row - j * STREAM);
            products_wait<more.value>();
            pin(ds);
#pragma unroll
            for (int i = 0; i < STREAM / 2; i++) ds[i] = s[i] * (ds[i] - delta[i / 2 & 1]);
            pack(packed, ds);
            products_begin();
            add_product(dq, packed, k);
            products_commit();
            if constexpr (more.value) {
                multiply_rows(ds, d_o, values + ahead.stage * STREAM_BYTES);
                products_commit();
                turn = ahead;
            }
        };
        barrier_wait(own_full, 0);
        barrier_wait(full + 8 * turn.stage, turn.parity);
        products_begin();
        multiply_rows(scores[0], q, keys + turn.stage * STREAM_BYTES);
        products_commit();
        multiply_rows(ds, d_o, values + turn.stage * STREAM_BYTES);
        products_commit();
        for (bool begun = false;; begun = true) {
            if (j == 0) {
                step(scores[0], scores[1], begun, Flag<false>());
                break;
            }
            step(scores[0], scores[1], begun, Flag<true>());
            if (--j == 0) {
                step(scores[1], scores[0], true, Flag<false>());
                break;
            }
            step(scores[1], scores[0], true, Flag<true>());
            j--;
        }
        products_wait<0>();
        pin(dq);
        if (p.angles) turn_back(p.angles, first_query, valid, dq);
        store_rows(p.dq + (i64)row0 * p.lddq + t.head * COLUMNS, p.lddq, valid, dq, p.scale, p.scale);
    }
}

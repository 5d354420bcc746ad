// Causal attention backward on Hopper, the gradients of keys and values: dv[s] = sum_t p[t, s] do[t], dk[s] = scale sum_t ds[t, s] q[t]
// (attention.cuh), bf16, sums fp32, p and ds rounded to bf16 for these two products.
//
// A block owns ROWS keys of one key head: k and v stay in shared memory; queries and do, of every query head that shares them, come STREAM rows
// at a time with their lse and delta. Scores are computed transposed, a key a row, so that p and ds go from the registers where they arise into
// the products, and those of the next tile are computed while this one's are used. FLOP: 8 HEAD a (query, key) pair and one exponential.
//
// Entry point: attention_dkdv(p, map of k, of v, of q, of do), grid.x = tiles x kv_heads; dynamic shared memory:
// 1024 + 2 CONSUMERS OWN_BYTES + 2 STAGES STREAM_BYTES.
#include "attention_hopper.cuh"

// No weight for the queries before a thread's first key, which is `hidden` queries from the first of the tile.
__device__ __forceinline__ void hide(float (&s)[STREAM / 2], int hidden) {
    hidden -= 2 * (threadIdx.x & 3);
#pragma unroll
    for (int i = 0; i < STREAM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (8 * i + (e & 1) < hidden + (e & 2) * 4) s[4 * i + e] = 0.f;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_dkdv(const __grid_constant__ Attention p, const __grid_constant__ TensorMap k_map,
        const __grid_constant__ TensorMap v_map, const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap do_map) {
    extern __shared__ unsigned char raw[];
    __shared__ u64 barriers[1 + 2 * STAGES];
    __shared__ __align__(16) float sums[STAGES][2][STREAM];  // lse in powers of 2, delta
    const u32 own = (shared_address(raw) + 1023) & ~1023u, queries = own + 2 * CONSUMERS * OWN_BYTES, outputs = queries + STAGES * STREAM_BYTES;
    const u32 own_full = shared_address(barriers), full = own_full + 8, free = full + 8 * STAGES;
    Tile t;
    if (!tile_of_block(p, blockIdx.x, ROWS, p.kv_heads, false, t)) return;
    if (threadIdx.x == 0) {
        barrier_init(own_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 33);
            barrier_init(free + 8 * i, 4 * CONSUMERS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    // Tiles of queries, counted from the start of the sequence: those from the first key on.
    const int group = warpgroup(), share = p.heads / p.kv_heads, first = (t.row0 - t.start) / STREAM, tiles = (t.end - t.start - 1) / STREAM + 1;
    if (group == 0) {
        registers_down<PRODUCER_REGISTERS>();
        if (threadIdx.x < 32) {
            const bool speaks = threadIdx.x == 0;
            if (speaks) {
                barrier_expect(own_full, 2 * CONSUMERS * OWN_BYTES);
                for (int i = 0; i < CONSUMERS; i++) {
                    copy_rows<64>(own + 2 * i * OWN_BYTES, &k_map, t.head, t.row0 + 64 * i, own_full);
                    copy_rows<64>(own + (2 * i + 1) * OWN_BYTES, &v_map, t.head, t.row0 + 64 * i, own_full);
                }
            }
            Turn turn;
            for (int head = t.head * share; head < (t.head + 1) * share; head++)
                for (int j = first; j < tiles; j++, turn.next()) {
                    const u32 bar = full + 8 * turn.stage;
                    const int row0 = t.start + j * STREAM;
                    float lse[STREAM / 32], delta[STREAM / 32];
#pragma unroll
                    for (int i = 0; i < STREAM / 32; i++) {
                        const int row = row0 + 32 * i + threadIdx.x;
                        const i64 at = (i64)head * p.rows + row;
                        lse[i] = row < t.end ? p.lse[at] * LOG2E : INFINITY;
                        delta[i] = row < t.end ? p.delta[at] : 0.f;
                    }
                    barrier_wait(free + 8 * turn.stage, turn.parity ^ 1);
                    if (speaks) {
                        barrier_expect(bar, 2 * STREAM_BYTES);
                        copy_rows<STREAM>(queries + turn.stage * STREAM_BYTES, &q_map, head, row0, bar);
                        copy_rows<STREAM>(outputs + turn.stage * STREAM_BYTES, &do_map, head, row0, bar);
                    }
#pragma unroll
                    for (int i = 0; i < STREAM / 32; i++) {
                        sums[turn.stage][0][32 * i + threadIdx.x] = lse[i];
                        sums[turn.stage][1][32 * i + threadIdx.x] = delta[i];
                    }
                    barrier_arrive(bar);
                }
        }
    } else {
        registers_up<CONSUMER_REGISTERS>();
        const bool speaks = (threadIdx.x & 31) == 0;
        const int row0 = t.row0 + 64 * (group - 1), first_key = row0 - t.start, valid = t.end - row0, c2 = 2 * (threadIdx.x & 3);
        const int row = (threadIdx.x / 32 & 3) * 16 + (threadIdx.x & 31) / 4;
        const u32 k = own + 2 * (group - 1) * OWN_BYTES, v = k + OWN_BYTES;
        const float scale = p.scale * LOG2E;
        float scores[2][STREAM / 2], ds[STREAM / 2], dk[HEAD / 2], dv[HEAD / 2];
        u32 weights[STREAM / 4], packed[STREAM / 4];
        clear(dk);
        clear(dv);
        barrier_wait(own_full, 0);
        Turn turn;
        // One tile: s its scores, which are being computed, as do v^T are into ds; `next` those of the tile after it, if there are `more`.
        const auto step = [&](float (&s)[STREAM / 2], float (&next)[STREAM / 2], int j, auto more) {
            const u32 q = queries + turn.stage * STREAM_BYTES, d_o = outputs + turn.stage * STREAM_BYTES;
            const int before = turn.stage == 0 ? STAGES - 1 : turn.stage - 1;
            const bool begun = j * STREAM > first_key;
            Turn ahead = turn;
            ahead.next();
            // In flight, oldest first: s and dk of the tile before, in either order, and ds.
            products_wait<1>();
            pin(s);
            __syncwarp();  // after the last lane has read the sums of that stage
            if (begun && speaks) barrier_arrive(free + 8 * before);
            if constexpr (more.value) {
                barrier_wait(full + 8 * ahead.stage, ahead.parity);
                products_begin();
                multiply_rows(next, k, queries + ahead.stage * STREAM_BYTES);
                products_commit();
            }
#pragma unroll
            for (int i = 0; i < STREAM / 8; i++) {
                const float2 lse = *reinterpret_cast<const float2*>(&sums[turn.stage][0][8 * i + c2]);
#pragma unroll
                for (int e = 0; e < 4; e++) s[4 * i + e] = exp2_fast(fmaf(s[4 * i + e], scale, -(e & 1 ? lse.y : lse.x)));
            }
            if (j * STREAM < first_key + 63) hide(s, first_key + row - j * STREAM);
            pack(weights, s);
            products_begin();
            add_product(dv, weights, d_o);
            products_commit();
            products_wait<1 + more.value>();
            pin(ds);
#pragma unroll
            for (int i = 0; i < STREAM / 8; i++) {
                const float2 delta = *reinterpret_cast<const float2*>(&sums[turn.stage][1][8 * i + c2]);
#pragma unroll
                for (int e = 0; e < 4; e++) ds[4 * i + e] = s[4 * i + e] * (ds[4 * i + e] - (e & 1 ? delta.y : delta.x));
            }
            pack(packed, ds);
            products_begin();
            add_product(dk, packed, q);
            products_commit();
            if constexpr (more.value) {
                multiply_rows(ds, v, outputs + ahead.stage * STREAM_BYTES);
                products_commit();
                turn = ahead;
            }
        };
        for (int head = 0; head < share; head++) {
            int j = first;
            // Queries before this warpgroup's keys; all of them where the keys are past the end.
            for (; j < tiles && (j * STREAM + STREAM <= first_key || valid <= 0); j++, turn.next()) {
                barrier_wait(full + 8 * turn.stage, turn.parity);
                if (speaks) barrier_arrive(free + 8 * turn.stage);
            }
            if (j == tiles) continue;
            barrier_wait(full + 8 * turn.stage, turn.parity);
            products_begin();
            multiply_rows(scores[0], k, queries + turn.stage * STREAM_BYTES);
            products_commit();
            multiply_rows(ds, v, outputs + turn.stage * STREAM_BYTES);
            products_commit();
            products_wait<1>();
            while (true) {
                if (j + 1 == tiles) {
                    step(scores[0], scores[1], j, Flag<false>());
                    break;
                }
                step(scores[0], scores[1], j, Flag<true>());
                if (++j + 1 == tiles) {
                    step(scores[1], scores[0], j, Flag<false>());
                    break;
                }
                step(scores[1], scores[0], j++, Flag<true>());
            }
            products_wait<0>();
            __syncwarp();
            if (speaks) barrier_arrive(free + 8 * turn.stage);
            turn.next();
        }
        products_wait<0>();
        pin(dk);
        pin(dv);
        if (p.angles) turn_back(p.angles, first_key, valid, dk);
        store_rows(p.dk + (i64)row0 * p.lddk + t.head * COLUMNS, p.lddk, valid, dk, p.scale, p.scale);
        store_rows(p.dv + (i64)row0 * p.lddv + t.head * COLUMNS, p.lddv, valid, dv, 1.f, 1.f);
    }
}

// The experts of a mixture: SwiGLU MLPs on the tokens that chose them, forward and backward.
//
//   gate = x gate_e^T, up = x up_e^T, hidden = silu(gate) up, out = hidden down_e^T                       per slot
//   dh = dy down_e;  dgate = w dh up silu'(gate), dup = w dh silu(gate);  dx = dgate gate_e + dup up_e
//   dweight = sum_f dh hidden;  dgate_e = sum dgate^T x, dup_e = sum dup^T x, ddown_e = sum dy^T (w hidden)
// N tokens, E experts. Slots are the pairs of a token and one of its experts, sorted by expert, each expert's padded to ROWS by slots of
// no token, whose rows are zeros throughout (moe_route.cu). x and dy [N, D] are read at a slot's token; gate and up are columns
// 0 .. F and F .. 2F of `both` [slots, 2F], over which the backward writes their gradients; hidden [slots, F], out and dx [slots, D].
// Weights: gate, up [E F, D], down [E D, F]; their gradients fp32. 6 D F FLOP a slot forward, 12 backward.
//
// Entry points: moe_gate_up, moe_down, moe_back, moe_dx (a block per tile of slots and tile of columns, columns first; tiles past the last slot
// return; of the first two, with `blocks` tiles, a block takes every gridDim-th where it stays), moe_dw (a block per expert and tile of its
// gradients). Defines: DTYPE, ALIGNED, KEEP = 1 writes gate and up; columns of a tile: GATE_UP, half of them gate's, BACK of moe_back, OUT of
// the others. blockDim = 256.
#include "moe.cuh"

// A second block of a multiprocessor where its registers and its stages leave room.
#define BOUNDS(N) __launch_bounds__(256, WARPGROUPS && ALIGNED && N <= 128 ? 2 : 1)

// Gate and up are multiplied side by side: of the columns that a warp holds one half is gate's, the other up's, so that a thread holds both of a
// hidden value.
extern "C" __global__ void BOUNDS(GATE_UP) moe_gate_up(const elem* x, i64 ldx, const elem* gate, const elem* up, elem* both, i64 ldb, elem* hidden, i64 ldh,
    const u32* tokens, const u32* experts, i64 d, i64 f, i64 columns, i64 blocks) {
    i64 work = blockIdx.x;
    u32 expert = experts[work / columns];
    if (expert == NONE) return;
    const auto slots = [&] {
        return Along<ROWS>(x, (int)d, [&](int r) {
            const u32 token = tokens[work / columns * ROWS + r];
            return token == NONE ? nullptr : x + token * ldx;
        });
    };
    const auto weights = [&] {
        return Along<GATE_UP>(gate, (int)d, [&](int n) {
            constexpr int HALF = GATE_UP / 2 / SIDE_BY_SIDE;
            const i64 row = work % columns * (GATE_UP / 2) + n / (2 * HALF) * HALF + n % HALF;
            return row < f ? (n / HALF % 2 ? up : gate) + (expert * f + row) * d : nullptr;
        });
    };
    Along<ROWS> a = slots();
    Along<GATE_UP> b = weights();
    begin<GATE_UP>(a, b, (int)d);
    while (true) {
        Results<GATE_UP> results;
        multiply(results, a, b, (int)d);
        const i64 tile = work / columns, f0 = work % columns * (GATE_UP / 2);
        expert = NONE;
        if (stays(GATE_UP, 192)) {
            work += gridDim.x;
            if (work < blocks) expert = experts[work / columns];
            if (expert != NONE) {
                a = slots();
                b = weights();
                begin<GATE_UP>(a, b, (int)d);
            }
        }
        constexpr int HIDDEN = results.TILES / 2, GROUP = group<HIDDEN>();
        const i64 first = f0 + results.first() / 2;
        const int left = (int)(f - first);
#pragma unroll
        for (int i = 0; i < results.ROW_TILES; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const i64 slot = tile * ROWS + results.row(i, half);
#pragma unroll
                for (int j = 0; j < HIDDEN; j += GROUP) {
                    float g[GROUP][2], u[GROUP][2], h[GROUP][2];
#pragma unroll
                    for (int t = 0; t < GROUP; t++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            g[t][e] = results.v[i][j + t][2 * half + e];
                            u[t][e] = results.v[i][j + t + HIDDEN][2 * half + e];
                            h[t][e] = silu(g[t][e]) * u[t][e];
                        }
#if KEEP
                    store_group<GROUP>(both + slot * ldb + first, j, left, g);
                    store_group<GROUP>(both + slot * ldb + f + first, j, left, u);
#endif
                    store_group<GROUP>(hidden + slot * ldh + first, j, left, h);
                }
            }
        if (expert == NONE) return;
    }
}

// Results at slots and columns from d0.
template <int N> __device__ __forceinline__ void store_slots(const Results<N>& results, elem* out, i64 ldo, i64 tile, i64 d0, i64 width) {
    constexpr int TILES = Results<N>::TILES, GROUP = group<TILES>();
    const i64 first = d0 + results.first();
#pragma unroll
    for (int i = 0; i < results.ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < TILES; j += GROUP) {
                float v[GROUP][2];
#pragma unroll
                for (int t = 0; t < GROUP; t++)
#pragma unroll
                    for (int e = 0; e < 2; e++) v[t][e] = results.v[i][j + t][2 * half + e];
                store_group<GROUP>(out + (tile * ROWS + results.row(i, half)) * ldo + first, j, (int)(width - first), v);
            }
}

extern "C" __global__ void BOUNDS(OUT) moe_down(const elem* hidden, i64 ldh, const elem* down, elem* out, i64 ldo, const u32* experts, i64 d, i64 f,
    i64 columns, i64 blocks) {
    i64 work = blockIdx.x;
    u32 expert = experts[work / columns];
    if (expert == NONE) return;
    const auto slots = [&] { return Along<ROWS>(hidden, (int)f, [&](int r) { return hidden + (work / columns * ROWS + r) * ldh; }); };
    const auto weights = [&] {
        return Along<OUT>(down, (int)f, [&](int n) {
            const i64 row = work % columns * OUT + n;
            return row < d ? down + (expert * d + row) * f : nullptr;
        });
    };
    Along<ROWS> a = slots();
    Along<OUT> b = weights();
    begin<OUT>(a, b, (int)f);
    while (true) {
        Results<OUT> results;
        multiply(results, a, b, (int)f);
        const i64 tile = work / columns, d0 = work % columns * OUT;
        expert = NONE;
        if (stays(OUT, 256)) {
            work += gridDim.x;
            if (work < blocks) expert = experts[work / columns];
            if (expert != NONE) {
                a = slots();
                b = weights();
                begin<OUT>(a, b, (int)f);
            }
        }
        store_slots(results, out, ldo, tile, d0, d);
        if (expert == NONE) return;
    }
}

// From the gradient of the outputs to those of gate and up, in their place. parts [F / 64, slots]: what each 64 columns add to the gradient of a
// slot's weight.
extern "C" __global__ void BOUNDS(BACK) moe_back(const elem* dy, i64 lddy, const elem* down, elem* both, i64 ldb, elem* hidden, i64 ldh, float* parts,
    const u32* tokens, const float* slot_weights, const u32* experts, i64 d, i64 f, i64 slots, i64 columns) {
    const i64 tile = blockIdx.x / columns, f0 = blockIdx.x % columns * BACK;
    const u32 expert = experts[tile];
    if (expert == NONE) return;
    Along<ROWS> a(dy, (int)d, [&](int r) {
        const u32 token = tokens[tile * ROWS + r];
        return token == NONE ? nullptr : dy + token * lddy;
    });
    auto b = across<BACK>(down, (int)f0, (int)f, (int)d, [](int k) { return (u32)k; }, [&](u32 k) { return down + (expert * d + k) * f; });
    Results<BACK> results;
    begin<BACK>(a, b, (int)d);
    multiply(results, a, b, (int)d);
#if !WARPGROUPS
    // By warp of a row's columns.
    float* sums = reinterpret_cast<float*>(shared_tiles);
#endif
    constexpr int TILES = Results<BACK>::TILES, GROUP = group<TILES>();
    const i64 first = f0 + results.first();
    const int left = (int)(f - first);
#pragma unroll
    for (int i = 0; i < results.ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = results.row(i, half);
            const i64 slot = tile * ROWS + row;
            const float weight = slot_weights[slot];
            elem* gate = both + slot * ldb + first;
            float sum = 0.f;
#pragma unroll
            for (int j = 0; j < TILES; j += GROUP) {
                float2 g[GROUP], u[GROUP];
                load_group<GROUP>(gate, j, left, g);
                load_group<GROUP>(gate + f, j, left, u);
                float dg[GROUP][2], du[GROUP][2], h[GROUP][2];
#pragma unroll
                for (int t = 0; t < GROUP; t++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const float at = e ? g[t].y : g[t].x, by = e ? u[t].y : u[t].x, dh = results.v[i][j + t][2 * half + e];
                        const float s = silu(at), weighted = weight * dh;
                        sum += dh * (s * by);
                        dg[t][e] = weighted * by * silu_grad(at);
                        du[t][e] = weighted * s;
                        h[t][e] = weight * (s * by);
                    }
                store_group<GROUP>(gate, j, left, dg);
                store_group<GROUP>(gate + f, j, left, du);
                store_group<GROUP>(hidden + slot * ldh + first, j, left, h);
#if WARPGROUPS
                if ((j + GROUP) % 8) continue;
                sum += __shfl_xor_sync(~0u, sum, 1);
                sum += __shfl_xor_sync(~0u, sum, 2);
                if ((threadIdx.x & 3) == 0 && (j & ~7) * 8 < left) parts[(f0 / 64 + j / 8) * slots + slot] = sum;
                sum = 0.f;
#endif
            }
#if !WARPGROUPS
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if ((threadIdx.x & 3) == 0) sums[(int)threadIdx.x / 32 % 4 * ROWS + row] = sum;
#endif
        }
#if !WARPGROUPS
    static_assert(BACK == 64, "a part");
    __syncthreads();
    const int row = threadIdx.x;
    if (row < ROWS) parts[blockIdx.x % columns * slots + tile * ROWS + row] = (sums[row] + sums[ROWS + row]) + (sums[2 * ROWS + row] + sums[3 * ROWS + row]);
#endif
}

// Both products of a slot's dx as one: the sum runs over gate's rows and then over up's.
extern "C" __global__ void BOUNDS(OUT) moe_dx(const elem* both, i64 ldb, const elem* gate, const elem* up, elem* dx, i64 lddx, const u32* experts, i64 d, i64 f,
    i64 columns) {
    const i64 tile = blockIdx.x / columns, d0 = blockIdx.x % columns * OUT;
    const u32 expert = experts[tile];
    if (expert == NONE) return;
    Along<ROWS> a(both, (int)(2 * f), [&](int r) { return both + (tile * ROWS + r) * ldb; });
    const int rows = (int)f, width = (int)d;
    // From gate's row k - F, so to say, to up's.
    const i64 apart = up - gate - f * d;
    gate += expert * f * d;
    auto b = across<OUT>(gate, (int)d0, width, 2 * rows, [](int k) { return (u32)k; },
        [=](u32 k) { return gate + ((i64)k * width + (k < rows ? 0 : apart)); });
    Results<OUT> results;
    begin<OUT>(a, b, (int)(2 * f));
    multiply(results, a, b, (int)(2 * f));
    store_slots(results, dx, lddx, tile, d0, d);
}

// The gradients of an expert's weights, sums over its slots: [2F, D] of gate and up from `both` and x, and the transpose [F, D] of down's
// from hidden and dy. add: bits 0, 1, 2, whether each is added to what is there.
extern "C" __global__ void BOUNDS(OUT) moe_dw(const elem* both, i64 ldb, const elem* x, i64 ldx, const elem* dy, i64 lddy, const elem* hidden, i64 ldh,
    const u32* tokens, const u32* starts, float* dgate, float* dup, float* ddown, i64 add, i64 d, i64 f) {
    const int columns = (int)(d + OUT - 1) / OUT, of_both = (int)(2 * f + 127) / 128, blocks = (of_both + (int)(f + 127) / 128) * columns;
    const i64 expert = blockIdx.x / blocks;
    const int tile = blockIdx.x % blocks / columns, n0 = blockIdx.x % columns * OUT;
    const bool down = tile >= of_both;
    const int m0 = (down ? tile - of_both : tile) * 128, rows = (int)(down ? f : 2 * f);
    const i64 start = starts[expert];
    const int count = (int)(starts[expert + 1] - start);
    const elem* by_slot = (down ? hidden : both) + start * (down ? ldh : ldb);
    const elem* by_token = down ? dy : x;
    const i64 lds = down ? ldh : ldb, ldt = down ? lddy : ldx;
    auto a = across<ROWS>(by_slot, m0, rows, count, [](int k) { return (u32)k; }, [=](u32 k) { return by_slot + k * lds; });
    auto b = across<OUT>(by_token, n0, (int)d, count, [=](int k) { return tokens[start + k]; }, [=](u32 token) { return by_token + token * ldt; });
    Results<OUT> results;
    begin<OUT>(a, b, count);
    multiply(results, a, b, count);
#pragma unroll
    for (int i = 0; i < results.ROW_TILES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const i64 row = m0 + results.row(i, half);
            if (row >= rows) continue;
            const bool up = !down && row >= f;
            float* out = down ? ddown + expert * d * f + row : up ? dup + (expert * f + row - f) * d : dgate + (expert * f + row) * d;
            const i64 apart = down ? f : 1;
            const bool accumulate = add >> (down ? 2 : up ? 1 : 0) & 1;
#pragma unroll
            for (int j = 0; j < results.TILES; j++) {
                const int col = n0 + results.column(j);
                const float* v = results.v[i][j] + 2 * half;
                if (ALIGNED && !down) {
                    float2* to = reinterpret_cast<float2*>(out + col);
                    const float2 old = accumulate && col < d ? *to : make_float2(0.f, 0.f);
                    if (col < d) *to = make_float2(old.x + v[0], old.y + v[1]);
                    continue;
                }
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float* to = out + (col + e) * apart;
                    if (col + e < d) *to = accumulate ? *to + v[e] : v[e];
                }
            }
        }
}

// Shared by the kernels of Mamba-2's recurrence (RECURRENCES.md): chunks of a sequence, operands into shared memory, products kept in
// registers.
//
// Chunks are those of plan.cu, 64 tokens each; a block returns at once where the plan has none. Heads are padded with zeros to COLS
// columns in shared memory and to PITCH in states. Rows past the end of a chunk are zeros, and so is their dt: they change nothing.
// gates [chunks, heads, GATES, CHUNK]: dt after softplus, e^G, e^(G[last] - G), and G log2(e) as the sum of two floats, since differences
// of large sums would lose the decay of the tokens between. states [chunks, heads, STATE_SIZE, PITCH].
// With activations in bf16, all that products read is rounded to tf32 where it is written (`operand`), once for all who read it.
//
// Defines: DTYPE, HEAD_SIZE, STATE_SIZE, TILE (rows of a state in shared memory at a time, a multiple of 8), X_VEC and B_VEC (elements
// that lie together in x, y and their gradients, and in b, c and theirs). blockDim = THREADS.
#pragma once
#define THREADS 256
#include "tiles.cuh"

constexpr int CHUNK = 64, GATES = 5;
enum Gate { DT, FROM_START, TO_END, HIGH, LOW };

constexpr int up(int n, int m) { return (n + m - 1) / m * m; }
constexpr int COLS = up(HEAD_SIZE, 8), PITCH = up(HEAD_SIZE, 4);
// The stride of rows in shared memory that are read across (4 modulo 8), and of those that are read along (8 modulo 16): see tiles.cuh.
constexpr int across(int n) { return up(n, 8) + 4; }
constexpr int along(int n) { return up(n, 16) + 8 - (n % 16 == 8 ? 16 : 0); }

// threadIdx.x, read anew: what follows from it is not kept in registers from one use to the next.
__device__ __forceinline__ int thread() {
    int i;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(i));
    return i;
}
// i / n and what is left, of numbers that fit 32 bits.
struct Split { i64 whole, rest; };
__device__ __forceinline__ Split split(i64 i, i64 n) {
    const u32 q = (u32)i / (u32)n;
    return {q, (u32)i - q * (u32)n};
}
// A chunk's first row, its tokens, and whether it is its sequence's first.
struct Rows64 { i64 row; int count; bool first; };
__device__ __forceinline__ bool chunk_of(const int4* plan, i64 chunk, Rows64& r) {
    const int4 q = plan[chunk];
    r = {q.x, min(CHUNK, q.z - q.x), q.x == q.y};
    return q.x >= 0;
}
__device__ __forceinline__ const float* gates_of(const float* gates, i64 chunk, i64 heads, i64 head) {
    return gates + (chunk * heads + head) * GATES * CHUNK;
}
// e^(G[t] - G[s]), s <= t, of the two parts of each.
__device__ __forceinline__ float decay(float high_t, float low_t, float high_s, float low_s) {
    float v;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(v) : "f"(fminf(0.f, (high_t - high_s) + (low_t - low_s))));
    return v;
}
// A number as products with bf16 activations read it.
__device__ __forceinline__ float operand(float v) {
#if DTYPE != 0
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    v = __uint_as_float(r);
#endif
    return v;
}
__device__ __forceinline__ void load_gates(const float* from, float* to) {
    for (int i = thread(); i < GATES * CHUNK; i += THREADS) to[i] = from[i];
}

// V neighbours to shared memory.
template <int V> __device__ __forceinline__ void put(float* to, const float (&v)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int k = 0; k < V; k += 4) *reinterpret_cast<float4*>(to + k) = make_float4(v[k], v[k + 1], v[k + 2], v[k + 3]);
    } else {
#pragma unroll
        for (int k = 0; k < V; k++) to[k] = v[k];
    }
}
// store(row, col, v) for every V neighbours of [CHUNK, WIDTH], read from column at(col) where that is not negative; the others, and rows
// from `rows` on, are 0. Loops have no end that depends on the thread, so that loads of several calls are under way together.
template <int WIDTH, int V, typename At, typename Store>
__device__ __forceinline__ void load_rows(const elem* from, i64 ld, int rows, At at, Store store) {
    constexpr int PER_ROW = WIDTH / V, ALL = CHUNK * PER_ROW, BATCH = min_of(V > 1 ? 4 : 8, (ALL + THREADS - 1) / THREADS);
    static_assert(WIDTH % V == 0, "whole vectors");
#pragma unroll 1
    for (int i0 = 0; i0 < ALL; i0 += BATCH * THREADS) {
        const int first = i0 + thread();
        Vec<V, V * (int)sizeof(elem)> q[BATCH];
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            const int i = first + u * THREADS, row = i / PER_ROW, col = at(i % PER_ROW * V);
            if (row < rows && col >= 0) q[u].load(from + row * ld + col); else q[u].zero();
        }
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            const int i = first + u * THREADS, row = i / PER_ROW, col = i % PER_ROW * V;
            float v[V];
#pragma unroll
            for (int k = 0; k < V; k++) v[k] = to_float(q[u].e[k]);
            if (ALL % (BATCH * THREADS) == 0 || i < ALL) store(row, col, v);
        }
    }
}
__device__ __forceinline__ int head_column(int col) { return col < HEAD_SIZE ? col : -1; }
// A head's columns of x or its like to rows LD apart.
template <int LD> __device__ __forceinline__ void load_head(const elem* from, i64 ld, int rows, float* to) {
    load_rows<COLS, X_VEC>(from, ld, rows, head_column, [&](int t, int p, const float (&v)[X_VEC]) { put(to + t * LD + p, v); });
}
// Columns s0 to s0 + TILE of b or c to rows LD apart.
template <int LD> __device__ __forceinline__ void load_tile(const elem* from, i64 ld, int rows, int s0, float* to) {
    load_rows<TILE, B_VEC>(from, ld, rows, [&](int col) { return s0 + col < STATE_SIZE ? s0 + col : -1; },
        [&](int t, int col, const float (&v)[B_VEC]) { put(to + t * LD + col, v); });
}
// 16 bytes to shared memory, or zeros; there after wait_copies() and a barrier.
__device__ __forceinline__ void copy16(float* to, const float* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// Rows s0 to s0 + TILE of a state to rows LD apart, by copies that are waited for elsewhere.
template <int LD> __device__ __forceinline__ void load_state(const float* from, int s0, float* to) {
    constexpr int PER_ROW = COLS / 4, ALL = TILE * PER_ROW;
#pragma unroll 4
    for (int i = thread(); i < ALL; i += THREADS) {
        const int row = i / PER_ROW, col = i % PER_ROW * 4;
        const bool there = s0 + row < STATE_SIZE && col < PITCH;
        copy16(to + row * LD + col, from + (there ? (s0 + row) * PITCH + col : 0), there);
    }
}
// Two neighbours of a row of `cols`; with V > 1 both are there or none.
template <int V> __device__ __forceinline__ void store_two(elem* row, int col, int cols, float2 v) {
    if constexpr (V > 1) {
        Vec<2, 2 * (int)sizeof(elem)> q;
        const float both[2] = {v.x, v.y};
        q.set(both);
        if (col < cols) q.store(row + col);
    } else {
        if (col < cols) row[col] = from_float(v.x);
        if (col + 1 < cols) row[col + 1] = from_float(v.y);
    }
}

// What products read, in parts.
__device__ __forceinline__ void parts(float v, u32 (&part)[TILE_PARTS]) {
    if constexpr (TILE_PARTS == 1) part[0] = __float_as_uint(v); else tf32_parts(v, part);
}

// A matrix [M, N] in the registers of all warps, which products are added to. Where elements lie is as in `product` of tiles.cuh.
template <int M, int N> struct Sums {
    static_assert(M % 16 == 0 && N % 8 == 0, "pad with zeros");
    static constexpr int FRAGS = N / 8;
    // A warp's part: 16 RM rows, 8 RN columns; PER of them.
    static constexpr int RN = FRAGS % 4 == 0 ? 4 : FRAGS % 3 == 0 ? 3 : FRAGS % 5 == 0 ? 5 : FRAGS % 2 == 0 ? 2 : FRAGS <= 7 ? FRAGS : 1;
    static constexpr int RM = M % 32 == 0 && M / 32 * (FRAGS / RN) >= TILE_WARPS ? 2 : 1;
    static constexpr int ROWS = M / 16 / RM, SIDES = FRAGS / RN, SHARES = ROWS * SIDES, PER = (SHARES + TILE_WARPS - 1) / TILE_WARPS;
    float acc[PER][RM][RN][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int q = 0; q < PER; q++)
#pragma unroll
            for (int i = 0; i < RM; i++)
#pragma unroll
                for (int j = 0; j < RN; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) acc[q][i][j][e] = 0.f;
    }
    // + a b, a [M, K], b [K, N]. No barriers.
    template <int K, int AR, int AC, int BR, int BC> __device__ __forceinline__ void add(Tile<AR, AC> a, Tile<BR, BC> b) {
        static_assert(K % 8 == 0, "pad with zeros");
        const int lane = thread() & 31, g = lane >> 2, c = lane & 3;
#pragma unroll
        for (int q = 0; q < PER; q++) {
            const int part = thread() / 32 + q * TILE_WARPS;
            if (SHARES % TILE_WARPS && part >= SHARES) continue;
            const float* pa = a.at + (part / SIDES * 16 * RM + g) * AR + c * AC;
            const float* pb = b.at + c * BR + (part % SIDES * 8 * RN + g) * BC;
#pragma unroll 2
            for (int k = 0; k < K; k += 8, pa += 8 * AC, pb += 8 * BR) {
                u32 va[RM][4][TILE_PARTS];
#pragma unroll
                for (int i = 0; i < RM; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) parts(pa[(16 * i + 8 * (e & 1)) * AR + 4 * (e >> 1) * AC], va[i][e]);
#pragma unroll
                for (int j = 0; j < RN; j++) {
                    u32 vb[2][TILE_PARTS];
#pragma unroll
                    for (int e = 0; e < 2; e++) parts(pb[4 * e * BR + 8 * j * BC], vb[e]);
#pragma unroll
                    for (int i = 0; i < RM; i++) {
                        if (TILE_PARTS == 2) {
                            mma_tf32(acc[q][i][j], va[i], vb, 0, TILE_PARTS - 1);
                            mma_tf32(acc[q][i][j], va[i], vb, TILE_PARTS - 1, 0);
                        }
                        mma_tf32(acc[q][i][j], va[i], vb, 0, 0);
                    }
                }
            }
        }
    }
    // f(row, col, x, y) of the elements at col and col + 1, to read or change.
    template <typename F> __device__ __forceinline__ void each(F f) {
        const int lane = thread() & 31, g = lane >> 2, c = lane & 3;
#pragma unroll
        for (int q = 0; q < PER; q++) {
            const int part = thread() / 32 + q * TILE_WARPS;
            if (SHARES % TILE_WARPS && part >= SHARES) continue;
#pragma unroll
            for (int i = 0; i < RM; i++)
#pragma unroll
                for (int e = 0; e < 2; e++)
#pragma unroll
                    for (int j = 0; j < RN; j++)
                        f(part / SIDES * 16 * RM + 16 * i + 8 * e + g, part % SIDES * 8 * RN + 8 * j + 2 * c, acc[q][i][j][2 * e],
                            acc[q][i][j][2 * e + 1]);
        }
    }
    // out[row, side] = the sum of f over a row's columns on each of SIDES sides, each of one writer.
    template <typename F> __device__ __forceinline__ void sum_rows(float* out, F f) {
        const int lane = thread() & 31, g = lane >> 2, c = lane & 3;
#pragma unroll
        for (int q = 0; q < PER; q++) {
            const int part = thread() / 32 + q * TILE_WARPS;
            if (SHARES % TILE_WARPS && part >= SHARES) continue;
#pragma unroll
            for (int i = 0; i < RM; i++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int row = part / SIDES * 16 * RM + 16 * i + 8 * e + g;
                    float sum = 0.f;
#pragma unroll
                    for (int j = 0; j < RN; j++)
                        sum += f(row, part % SIDES * 8 * RN + 8 * j + 2 * c, acc[q][i][j][2 * e], acc[q][i][j][2 * e + 1]);
                    sum += __shfl_xor_sync(~0u, sum, 1);
                    sum += __shfl_xor_sync(~0u, sum, 2);
                    if (c == 0) out[row * SIDES + part % SIDES] = sum;
                }
        }
    }
};

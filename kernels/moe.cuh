// Grouped products of a mixture of experts: tiles of results through shared memory, in every type.
//
// A block of 256 threads makes ROWS x N results, N = 64, 128, 192 or 256, as sums over `inner` summands, STEP a stage. An operand's tile lies in
// shared memory in panels whose rows are 128 bytes: ALONG, one panel, a row per result, its elements summands; or ACROSS, panels of SPAN
// results, a row per summand. A row's 16-byte pieces are swizzled over 8 rows, as warpgroup products take them. A row may be absent: zeros.
// On sm_90a bf16 is multiplied by 2 warpgroups of 64 x N (moe_hopper.cuh), all else by 8 warps of 64 x N / 4, fp32 as three bf16 parts
// (mma.cuh). ALIGNED: addresses, strides and sizes are whole 16-byte pieces; otherwise elements are moved one by one.
#pragma once
// What the low-rank tiles of mma.cuh ask for; they are not used here.
#define W 1
#define RANK 8
#define STATIC 0
#define CW 32
#define THREADS 256
#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && DTYPE == 1
#define WARPGROUPS 1
#include "moe_hopper.cuh"
#else
#define WARPGROUPS 0
#endif

constexpr u32 NONE = ~0u;
constexpr int ROWS = 128, PER = 16 / (int)sizeof(elem), SPAN = 8 * PER, STEP = SPAN;
constexpr int PANEL_BYTES = STEP * 128, TILE_BYTES = ROWS * 128;
// Warps side by side over the columns, and how many neighbouring columns a warp's threads hold.
constexpr int SIDE_BY_SIDE = WARPGROUPS ? 1 : 4;

extern __shared__ __align__(1024) char shared_tiles[];

// Where a tile's piece is: of a row per result, or of a row per summand.
template <bool ALONG> __device__ __forceinline__ u32 place_of(int row, int piece) {
    const u32 panel = ALONG ? 0 : piece / 8 * PANEL_BYTES;
    return panel + (u32)(row * 8 + (piece % 8 ^ (row & 7))) * 16;
}

// Elements from .. from + PER of a row that ends at `end` (no row: null) to shared memory; zeros past its end.
__device__ __forceinline__ void move_piece(char* to, const elem* row, int from, int end, const elem* anywhere) {
#if ALIGNED
    const bool valid = row && from < end;
    copy16(shared_address(to), valid ? row + from : anywhere, valid);
#else
#pragma unroll 1
    for (int e = 0; e < PER; e++) reinterpret_cast<elem*>(to)[e] = row && from + e < end ? row[from + e] : from_float(0.f);
#endif
}

// A tile whose rows are COUNT results: row(i) is that of the thread's i-th.
template <int COUNT> struct Along {
    static constexpr bool ALONG = true;
    const elem* rows[COUNT / 32];
    const elem* anywhere;
    int inner;
    template <class Row> __device__ __forceinline__ Along(const elem* any, int sum, Row row) : anywhere(any), inner(sum) {
#pragma unroll
        for (int i = 0; i < COUNT / 32; i++) rows[i] = row((int)threadIdx.x / 8 + 32 * i);
    }
    __device__ __forceinline__ void load(char* tile, int k) {
        const int piece = threadIdx.x % 8, row = threadIdx.x / 8;
#pragma unroll
        for (int i = 0; i < COUNT / 32; i++) move_piece(tile + place_of<true>(row + 32 * i, piece), rows[i], k + piece * PER, inner, anywhere);
    }
};

// A tile whose rows are summands, each with the results at columns from .. from + COUNT of `width`: row(index(k)) is that of summand k, where
// its index is not NONE. Indices are read a stage ahead.
template <int COUNT, class Index, class Row> struct Across {
    static constexpr bool ALONG = false;
    static constexpr int PIECES = COUNT / PER, EACH = STEP * PIECES / 256;
    const elem* anywhere;
    int from, width, inner;
    Index index;
    Row row;
    u32 next[EACH];
    __device__ __forceinline__ Across(const elem* any, int first, int columns, int sum, Index i, Row r) : anywhere(any), from(first), width(columns), inner(sum), index(i), row(r) { find(0); }
    static __device__ __forceinline__ int summand(int i) { return ((int)threadIdx.x + 256 * i) / PIECES; }
    static __device__ __forceinline__ int piece(int i) { return ((int)threadIdx.x + 256 * i) % PIECES; }
    __device__ __forceinline__ void find(int k) {
#pragma unroll
        for (int i = 0; i < EACH; i++) next[i] = k + summand(i) < inner ? index(k + summand(i)) : NONE;
    }
    __device__ __forceinline__ void load(char* tile, int k) {
#pragma unroll
        for (int i = 0; i < EACH; i++)
            move_piece(tile + place_of<false>(summand(i), piece(i)), next[i] == NONE ? nullptr : row(next[i]), from + piece(i) * PER, width, anywhere);
        find(k + STEP);
    }
};
template <int COUNT, class Index, class Row> __device__ __forceinline__ Across<COUNT, Index, Row> across(const elem* any, int from, int width, int inner, Index index, Row row) {
    return Across<COUNT, Index, Row>(any, from, width, inner, index, row);
}

#if !WARPGROUPS
// Two neighbouring summands k, k + 1 of a result, in parts.
template <bool ALONG> __device__ __forceinline__ void pair_at(const char* tile, int result, int k, u32 (&part)[PARTS]) {
    float2 v;
    if (ALONG) v = *reinterpret_cast<const float2*>(tile + place_of<ALONG>(result, k / 4) + k % 4 * 4);
    else {
        v.x = *reinterpret_cast<const float*>(tile + place_of<ALONG>(k, result / 4) + result % 4 * 4);
        v.y = *reinterpret_cast<const float*>(tile + place_of<ALONG>(k + 1, result / 4) + result % 4 * 4);
    }
    split<PARTS>(v, part);
}

// 16 results from `first` by 16 summands from k: the A operand of m16n8k16, or the B operands of two (columns 8 apart: registers 0, 1 and 2, 3).
template <bool B, bool ALONG> __device__ __forceinline__ void fragment(const char* tile, int first, int k, u32 (&v)[PARTS][4]) {
    const int lane = threadIdx.x & 31;
#if DTYPE == 1
    // Matrices of A: results 0 and 8 of summands 0, then of summands 8; of B: summands 0 and 8 of results 0, then of results 8.
    const int inside = (lane & 7) + (lane >> 3 & 1) * 8, beyond = lane >> 4;
    if (ALONG) {
        const int row = B ? (lane & 7) + beyond * 8 : inside, piece = B ? lane >> 3 & 1 : beyond;
        ldmatrix4<false>(v[0], shared_address(tile + place_of<ALONG>(first + row, k / 8 + piece)));
    } else {
        const int row = B ? inside : (lane & 7) + beyond * 8, piece = B ? beyond : lane >> 3 & 1;
        ldmatrix4<true>(v[0], shared_address(tile + place_of<ALONG>(k + row, first / 8 + piece)));
    }
#else
    const int g = lane / 4, c = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int high_result = B ? i / 2 : i % 2, high_summand = B ? i % 2 : i / 2;
        u32 part[PARTS];
        pair_at<ALONG>(tile, first + g + 8 * high_result, k + 2 * c + 8 * high_summand, part);
#pragma unroll
        for (int q = 0; q < PARTS; q++) v[q][i] = part[q];
    }
#endif
}
#endif

// A thread's results: rows row(i, half), values 2 half and 2 half + 1 of v[i][j] at columns column(j) and the next.
template <int N> struct Results {
    static constexpr int ROW_TILES = WARPGROUPS ? 1 : 4, TILES = N / 8 / SIDE_BY_SIDE;
    float v[ROW_TILES][TILES][4];
    static __device__ __forceinline__ int row(int i, int half) {
        const int warp = threadIdx.x / 32 % 4;
        return (int)threadIdx.x / 128 * 64 + 16 * (WARPGROUPS ? warp : i) + 8 * half + (int)(threadIdx.x & 31) / 4;
    }
    // The first of the columns that the warp's threads hold, and one of them in these.
    static __device__ __forceinline__ int first() { return WARPGROUPS ? 0 : (int)threadIdx.x / 32 % 4 * (N / 4); }
    static __device__ __forceinline__ int column(int j) { return first() + 8 * j + 2 * (int)(threadIdx.x & 3); }
};

// results += a stage's tiles.
template <int N, bool ALONG_A, bool ALONG_B> __device__ __forceinline__ void multiply_stage(Results<N>& results, const char* a, const char* b, bool first) {
#if WARPGROUPS
    fence_copies();
#pragma unroll
    for (int k = 0; k < STEP; k += 16)
        warpgroup_product<N, !ALONG_A, !ALONG_B>(&results.v[0][0][0], tile_operand<ALONG_A>(shared_address(a), threadIdx.x / 128, k, PANEL_BYTES),
            tile_operand<ALONG_B>(shared_address(b), 0, k, PANEL_BYTES), !first || k > 0);
    products_commit();
#else
    const int m = (int)threadIdx.x / 128 * 64, n = Results<N>::first();
#pragma unroll(DTYPE == 1 ? STEP / 16 : 1)
    for (int k = 0; k < STEP; k += 16) {
        u32 fb[N / 64][PARTS][4];
#pragma unroll
        for (int j = 0; j < N / 64; j++) fragment<true, ALONG_B>(b, n + 16 * j, k, fb[j]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 fa[PARTS][4];
            fragment<false, ALONG_A>(a, m + 16 * i, k, fa);
#pragma unroll
            for (int j = 0; j < N / 32; j++)
#pragma unroll
                for (int p = 0; p < PARTS; p++)
#pragma unroll
                    for (int q = 0; p + q < PARTS; q++) mma16(results.v[i][j], fa[p], fb[j / 2][q][j % 2 * 2], fb[j / 2][q][j % 2 * 2 + 1]);
        }
    }
#endif
}

// Stages of a block's pipeline: as many as leave room for a second block, or one more, so that products may run into the next stage's.
constexpr int stages(int n) { return n > 128 ? 4 : 3; }

template <int N, class A, class B> __device__ __forceinline__ void load_stage(A& a, B& b, int step, int inner) {
    char* stage = shared_tiles + step % stages(N) * (TILE_BYTES + N * 128);
    if (step * STEP < inner) {
        // Weights first: the rows of a wait for their tokens.
        b.load(stage + TILE_BYTES, step * STEP);
        a.load(stage, step * STEP);
    }
    copy_commit();
}
// Asks for all stages at once, since many sums are no longer. No thread reads the stages any more.
template <int N, class A, class B> __device__ __forceinline__ void begin(A& a, B& b, int inner) {
#pragma unroll
    for (int s = 0; s < stages(N); s++) load_stage<N>(a, b, s, inner);
}

// results = sum over `inner` summands of a b, once begun; after the first stages each step is asked for two ahead. Leaves the stages free.
template <int N, class A, class B> __device__ __forceinline__ void multiply(Results<N>& results, A& a, B& b, int inner) {
    constexpr int STAGES = stages(N);
#pragma unroll
    for (int i = 0; i < Results<N>::ROW_TILES; i++)
#pragma unroll
        for (int j = 0; j < Results<N>::TILES; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) results.v[i][j][e] = 0.f;
    const int steps = (inner + STEP - 1) / STEP;
    for (int step = 0; step < steps; step++) {
        if (step >= STAGES - 2) copy_wait<1>();
        else if (step == 0) copy_wait<STAGES - 1>();
        else copy_wait<2>();
#if WARPGROUPS
        copies_visible();
#endif
        __syncthreads();
        const char* stage = shared_tiles + step % STAGES * (TILE_BYTES + N * 128);
#if WARPGROUPS
        // The stage that is loaded meanwhile was read by products that all threads have waited for.
        multiply_stage<N, A::ALONG, B::ALONG>(results, stage, stage + TILE_BYTES, step == 0);
        if (step + 2 >= STAGES) load_stage<N>(a, b, step + 2, inner);
        products_wait<STAGES - 3>();
#else
        if (step + 2 >= STAGES) load_stage<N>(a, b, step + 2, inner);
        multiply_stage<N, A::ALONG, B::ALONG>(results, stage, stage + TILE_BYTES, step == 0);
#endif
    }
#if WARPGROUPS
    products_wait<0>();
    pin<N / 2>(&results.v[0][0][0]);
#endif
    copy_wait<0>();
    __syncthreads();
}

// Whether a block goes on to further tiles, whose first stages it asks for before it writes a tile's results: where it has a multiprocessor
// alone, and registers for that.
constexpr bool stays(int n, int most) { return WARPGROUPS && n > 128 && n <= most; }

// Results are moved from and to memory by groups of GROUP tiles of 8 columns: where it is 4, the four lanes of a row turn their pairs of four
// tiles into 8 columns of one tile each, 16 bytes; otherwise two elements at once.
template <int TILES> constexpr int group() { return DTYPE == 1 && ALIGNED && TILES % 4 == 0 ? 4 : 1; }
__device__ __forceinline__ void turn(u32 (&v)[4]) {
    const int c = threadIdx.x & 3;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const u32 got = __shfl_xor_sync(~0u, c & 2 ? v[j] : v[j + 2], 2);
        if (c & 2) v[j] = got; else v[j + 2] = got;
    }
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        const u32 got = __shfl_xor_sync(~0u, c & 1 ? v[j] : v[j + 1], 1);
        if (c & 1) v[j] = got; else v[j + 1] = got;
    }
}
// Two neighbouring elements of a row that ends `left` elements from the first on.
__device__ __forceinline__ void store_two(elem* to, float a, float b, int left) {
#if ALIGNED
    if (left <= 0) return;
#if DTYPE == 1
    *reinterpret_cast<u32*>(to) = pack_bf16(a, b);
#else
    *reinterpret_cast<float2*>(to) = make_float2(a, b);
#endif
#else
    if (left > 0) to[0] = from_float(a);
    if (left > 1) to[1] = from_float(b);
#endif
}
__device__ __forceinline__ float2 load_two(const elem* from, int left) {
#if ALIGNED
    return left > 0 ? pair_float(load_pair(from)) : make_float2(0.f, 0.f);
#else
    return make_float2(left > 0 ? to_float(from[0]) : 0.f, left > 1 ? to_float(from[1]) : 0.f);
#endif
}
// The thread's pairs of tiles j .. j + GROUP of a row from its first tile on; the row ends `left` elements from there.
template <int GROUP> __device__ __forceinline__ void store_group(elem* row, int j, int left, const float (&v)[GROUP][2]) {
    const int c = threadIdx.x & 3;
    if constexpr (GROUP == 4) {
        u32 packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) packed[i] = pack_bf16(v[i][0], v[i][1]);
        turn(packed);
        const int at = 8 * (j + c);
        if (at < left) *reinterpret_cast<uint4*>(row + at) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    } else store_two(row + 8 * j + 2 * c, v[0][0], v[0][1], left - 8 * j - 2 * c);
}
template <int GROUP> __device__ __forceinline__ void load_group(const elem* row, int j, int left, float2 (&v)[GROUP]) {
    const int c = threadIdx.x & 3;
    if constexpr (GROUP == 4) {
        const int at = 8 * (j + c);
        uint4 got = make_uint4(0, 0, 0, 0);
        if (at < left) got = *reinterpret_cast<const uint4*>(row + at);
        u32 packed[4] = {got.x, got.y, got.z, got.w};
        turn(packed);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = unpack_bf16(packed[i]);
    } else v[0] = load_two(row + 8 * j + 2 * c, left - 8 * j - 2 * c);
}

// Products of matrices in shared memory, f32, by all warps of a block on tensor cores: what the chunks of a recurrence are made of.
//
// m16n8k8 in tf32, lane = 4 g + c: A rows g, g+8 and columns c, c+4; B rows c, c+4 and column g; C rows g, g+8 and columns 2c, 2c+1.
// With activations in bf16 a product is one of operands rounded to tf32 (2^-12 each); with f32 it is three, each operand the sum of two
// tf32 numbers, less the product of the two small ones (2^-22).
//
// Defines: DTYPE, THREADS.
#pragma once
#include "common.cuh"

constexpr int TILE_WARPS = THREADS / 32, TILE_PARTS = DTYPE == 0 ? 2 : 1;

// A matrix whose element (i, j) is at[i * ROW + j * COL]. Reads meet no bank twice where the stride of the index that is not summed over
// is 4 modulo 32 and that of the other 1, or the one 1 and the other 8 modulo 32.
template <int ROW, int COL> struct Tile {
    const float* at;
    __device__ __forceinline__ Tile<COL, ROW> transposed() const { return {at}; }
};
template <int ROW> __device__ __forceinline__ Tile<ROW, 1> tile(const float* at) { return {at}; }

// A number as the sum of TILE_PARTS tf32 numbers.
__device__ __forceinline__ void tf32_parts(float v, u32 (&part)[TILE_PARTS]) {
#pragma unroll
    for (int i = 0; i < TILE_PARTS; i++) {
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(part[i]) : "f"(v));
        v -= __uint_as_float(part[i]);
    }
}
__device__ __forceinline__ void mma_tf32(float (&c)[4], const u32 (&a)[4][TILE_PARTS], const u32 (&b)[2][TILE_PARTS], int i, int j) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0][i]), "r"(a[1][i]), "r"(a[2][i]), "r"(a[3][i]), "r"(b[0][j]), "r"(b[1][j]));
}

// store(row, col, v) for every pair of neighbouring columns of a b, a [M, K], b [K, N]; v is of col and col + 1. M must be a multiple of 16, N and K of 8.
// No barriers: all of a and b are there before, and what store writes is read after a barrier.
template <int M, int N, int K, int AR, int AC, int BR, int BC, typename Store>
__device__ __forceinline__ void product(Tile<AR, AC> a, Tile<BR, BC> b, Store store) {
    static_assert(M % 16 == 0 && N % 8 == 0 && K % 8 == 0, "pad with zeros");
    // A warp's part: 16 RM rows, 8 RN columns, no more of these than leave a part to every warp.
    constexpr int RN = N % 32 == 0 && M / 16 * (N / 32) >= TILE_WARPS ? 4 : N % 16 == 0 && M / 16 * (N / 16) >= TILE_WARPS ? 2 : 1, RM = M % 32 == 0 && M / 32 * (N / 8 / RN) >= TILE_WARPS ? 2 : 1;
    constexpr int ROWS = M / 16 / RM, COLS = N / 8 / RN;
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
#pragma unroll 1
    for (int part = threadIdx.x / 32; part < ROWS * COLS; part += TILE_WARPS) {
        const int row = part / COLS * 16 * RM, col = part % COLS * 8 * RN;
        float acc[RM][RN][4];
#pragma unroll
        for (int i = 0; i < RM; i++)
#pragma unroll
            for (int j = 0; j < RN; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;
        const float* pa = a.at + (row + g) * AR + c * AC;
        const float* pb = b.at + c * BR + (col + g) * BC;
#pragma unroll 2
        for (int k = 0; k < K; k += 8, pa += 8 * AC, pb += 8 * BR) {
            u32 va[RM][4][TILE_PARTS];
#pragma unroll
            for (int i = 0; i < RM; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) tf32_parts(pa[(16 * i + 8 * (e & 1)) * AR + 4 * (e >> 1) * AC], va[i][e]);
#pragma unroll
            for (int j = 0; j < RN; j++) {
                u32 vb[2][TILE_PARTS];
#pragma unroll
                for (int e = 0; e < 2; e++) tf32_parts(pb[4 * e * BR + 8 * j * BC], vb[e]);
#pragma unroll
                for (int i = 0; i < RM; i++) {
                    // The small ones first.
                    if (TILE_PARTS == 2) {
                        mma_tf32(acc[i][j], va[i], vb, 0, TILE_PARTS - 1);
                        mma_tf32(acc[i][j], va[i], vb, TILE_PARTS - 1, 0);
                    }
                    mma_tf32(acc[i][j], va[i], vb, 0, 0);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < RM; i++)
#pragma unroll
            for (int j = 0; j < RN; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    store(row + 16 * i + 8 * e + g, col + 8 * j + 2 * c, make_float2(acc[i][j][2 * e], acc[i][j][2 * e + 1]));
    }
}

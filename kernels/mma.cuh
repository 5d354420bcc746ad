// Tensor-core products on warps, and operands as sums of bf16 parts.
//
// m16n8k16, lane = 4 g + c: A holds rows g, g+8 and columns 2c, 2c+1 (+8); B columns g, rows 2c, 2c+1 (+8);
// C rows g, g+8, columns 2c, 2c+1. Which token, channel or rank an index stands for is free, if both operands agree.
//
// PARTS = bf16 numbers that stand for one input: 1 for bf16 (exact), 2 for f16 (exact), 3 for f32 (2^-24).
// A product of inputs is the sum of the part products i + j < PROD, in fp32.
#pragma once
#include "common.cuh"

constexpr int PARTS = DTYPE == 1 ? 1 : DTYPE == 2 ? 2 : 3;
constexpr int PROD = DTYPE == 0 ? 3 : 2;  // parts of g*x: a product of two bf16 is exactly the sum of two

__device__ __forceinline__ void mma16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma8(float (&c)[4], u32 a0, u32 a1, u32 b0) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b0));
}
// The same from zero.
__device__ __forceinline__ void mma16_from_zero(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}
__device__ __forceinline__ void mma8_from_zero(float (&c)[4], u32 a0, u32 a1, u32 b0) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3]) : "r"(a0), "r"(a1), "r"(b0), "f"(0.f));
}
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// N 8x8 matrices; lane 8 i + j gives the address of row j of matrix i.
template <bool TRANS> __device__ __forceinline__ void ldmatrix4(u32 (&v)[4], u32 a) {
    if (TRANS) asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(a));
    else asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(a));
}
template <bool TRANS> __device__ __forceinline__ void ldmatrix2(u32 (&v)[2], u32 a) {
    if (TRANS) asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(a));
    else asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(a));
}
__device__ __forceinline__ u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
// 16 bytes global -> shared, or zeros; completes in the thread's current group.
__device__ __forceinline__ void copy16(u32 dst, const void* src, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(dst), "l"(src), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;"); }
template <int LEFT> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(LEFT)); }

// An index that is not kept in a register through loops, nor what follows from it: a spilled register costs a trip to L2, for shared memory
// takes almost all of L1.
__device__ __forceinline__ int afresh(int v) { asm volatile("" : "+r"(v)); return v; }

__device__ __forceinline__ u32 pack_bf16(float lo, float hi) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<const u32*>(&v);
}
__device__ __forceinline__ float2 unpack_bf16(u32 v) { return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)); }

// v as the sum of COUNT packed bf16 pairs, largest first.
template <int COUNT> __device__ __forceinline__ void split(float2 v, u32 (&part)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        part[i] = pack_bf16(v.x, v.y);
        const float2 used = unpack_bf16(part[i]);
        v.x -= used.x; v.y -= used.y;
    }
}

// Two neighbouring elements: packed for bf16, widened otherwise.
#if DTYPE == 1
typedef u32 Pair;
__device__ __forceinline__ float2 pair_float(Pair v) { return unpack_bf16(v); }
// g*x exactly: the rounded product, and what rounding left with its sign turned (saves an instruction; the other operand of
// that part is turned as well).
struct Factor { u32 v, negative; };
__device__ __forceinline__ Factor factor(Pair g) { return {g, g ^ 0x80008000u}; }
__device__ __forceinline__ void pair_product(Factor g, Pair x, u32 (&part)[PROD]) {
    part[0] = fma_bf16x2(g.v, x, 0x80008000u);
    part[1] = fma_bf16x2(g.negative, x, part[0]);
}
__device__ __forceinline__ u32 turned(int part, u32 b) { return part == 1 ? b ^ 0x80008000u : b; }
#else
typedef float2 Pair;
__device__ __forceinline__ float2 pair_float(Pair v) { return v; }
typedef float2 Factor;
__device__ __forceinline__ Factor factor(Pair g) { return g; }
__device__ __forceinline__ u32 turned(int, u32 b) { return b; }
__device__ __forceinline__ void pair_product(Factor g, Pair x, u32 (&part)[PROD]) { split<PROD>(make_float2(g.x * x.x, g.y * x.y), part); }
#endif
__device__ __forceinline__ Pair load_pair(const elem* p) {
#if DTYPE == 1
    return *reinterpret_cast<const u32*>(p);
#elif DTYPE == 2
    return __half22float2(*reinterpret_cast<const __half2*>(p));
#else
    return *reinterpret_cast<const float2*>(p);
#endif
}

// Low-rank tiles. static_w is one more rank, whose z is 1, where that fits the tiles of 8 ranks; else (OUTSIDE) the W rows of static_w are
// a tile of their own, of which one_hot picks row w. RS: ranks with static_w among them, in RT tiles. U_ROWS: rows of both in shared memory.
constexpr bool OUTSIDE = STATIC && RANK % 8 == 0;
constexpr int RS = RANK + (STATIC && !OUTSIDE), RT = (RS + 7) / 8, RP = RT * 8, U_ROWS = W * RP + (OUTSIDE ? 8 : 0);
#ifndef ROLES
#define ROLES 1
#endif
constexpr int GROUPS = THREADS / 32 / ROLES, NT = CW / 8, CT = CW * GROUPS;  // channels: CW per warp, CT per block
constexpr int U_PITCH = CT + 8, Z_PITCH = RP + 8;                  // + 16 bytes: no bank conflicts in ldmatrix

// A lane of group c owns the CW/4 neighbouring channels CW/4*c ..; in column order (tile j, column 2c+e) that is channel CW/4*c + 2j + e.
__device__ __forceinline__ u32 column_of(u32 channel) {
    const u32 in_warp = channel % CW, c = in_warp / (CW / 4), j = in_warp % (CW / 4) / 2;
    return channel - in_warp + j * 8 + 2 * c + (channel & 1);
}

// Column w of a product's A is 1, all others 0: registers 0 and 1 of a lane (those of columns 8 to 15 are 0).
__device__ __forceinline__ u32 one_hot(int lane, int w) { return (afresh(lane) & 3) != w / 2 ? 0 : w % 2 ? 0x3f800000u : 0x3f80u; }

// U (static_w as rank R) of the block's channels: shared [PARTS][W][RP][U_PITCH], channels in column order, zero past R and D; static_w
// OUTSIDE in rows W * RP + w of each part.
// All of a thread's loads are issued before its first store.
__device__ __forceinline__ void fill_u(const Params& p, int d0, __nv_bfloat16* shared) {
    constexpr int PER = ALIGNED ? 8 : 2, VECS = CT / PER, ALL = U_ROWS * VECS, BATCH = ALIGNED ? 8 : 16;
    typedef Vec<PER, ALIGNED ? 16 : (int)sizeof(elem)> UVec;
    const elem* u = p.u + blockIdx.y * p.s_u;
    const elem* sw = p.static_w + blockIdx.y * p.s_static;
    for (u32 from = threadIdx.x; from < ALL; from += THREADS * BATCH) {
        UVec v[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const u32 i = from + k * THREADS, row = i / VECS, r = row % RP, w = row / RP;
            const int d = d0 + i % VECS * PER;
            v[k].zero();
            const elem* src = i >= ALL ? nullptr : r < RANK ? u + ((i64)r * W + w) * p.d_model : STATIC && r == RANK ? sw + (i64)w * p.d_model : nullptr;
            if (OUTSIDE && w == W && i < ALL) src = r < W ? sw + (i64)r * p.d_model : nullptr;
            if (!src) continue;
            if (ALIGNED) { if (d < p.d_model) v[k].load(src + d); }
            else {
#pragma unroll
                for (int e = 0; e < PER; e++) if (d + e < p.d_model) v[k].e[e] = src[d + e];
            }
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const u32 i = from + k * THREADS, row = i / VECS;
            if (i >= ALL) break;
#pragma unroll
            for (int e = 0; e < PER; e += 2) {
                u32 part[PARTS];
                if (DTYPE == 1) part[0] = *reinterpret_cast<const u32*>(v[k].e + e);
                else split<PARTS>(make_float2(to_float(v[k].e[e]), to_float(v[k].e[e + 1])), part);
#pragma unroll
                for (int q = 0; q < PARTS; q++) *reinterpret_cast<u32*>(shared + (q * U_ROWS + row) * U_PITCH + column_of(i % VECS * PER + e)) = part[q];
            }
        }
    }
}

// z as bf16 parts at (row, r) of shared [PARTS][rows][pitch].
__device__ __forceinline__ void store_z(__nv_bfloat16* shared, int rows, int pitch, int row, int r, float v) {
#pragma unroll
    for (int k = 0; k < PARTS; k++) {
        const __nv_bfloat16 b = __float2bfloat16_rn(v);
        shared[(k * rows + row) * pitch + r] = b;
        v -= __bfloat162float(b);
    }
}

// tap[j] = z U (+ static_w) of one w over all ranks, for the column tiles of a warp. za(k, q, a): the A operand of 16 ranks from 16 k, part q
// of z; u: the address of the warp's first column of U.
constexpr bool MANY_RANKS = RT > 4;  // one step of 16 ranks after the other: all at once need more registers than there are
template <int TILES, class Za> __device__ __forceinline__ void taps(float (&tap)[TILES][4], Za za, u32 u, int w) {
    constexpr u32 PART_STEP = U_ROWS * U_PITCH * 2;
    const int lane = threadIdx.x & 31;
    const u32 uw = u + w * RP * U_PITCH * 2;
    if (MANY_RANKS)
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) tap[j][e] = 0.f;
#pragma unroll(MANY_RANKS ? 1 : (RT + 1) / 2)
    for (int k = 0; k < (RT + 1) / 2; k++) {
        const bool whole = 2 * k + 1 < RT;
        u32 a16[PARTS][4];
#pragma unroll
        for (int q = 0; q < PARTS; q++) za(k, q, a16[q]);
        // Matrices of U: (rank half, column tile) = (0, j), (1, j), (0, j+1), (1, j+1).
        u32 ub[PARTS][TILES / 2][4];
#pragma unroll
        for (int q = 0; q < PARTS; q++)
#pragma unroll
            for (int j = 0; j < TILES / 2; j++)
                ldmatrix4<true>(ub[q][j], uw + q * PART_STEP + ((k * 16 + (whole ? ((lane >> 3) & 1) * 8 : 0) + (lane & 7)) * U_PITCH + (2 * j + (lane >> 4)) * 8) * 2);
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int a = 0; a < PARTS; a++)
#pragma unroll
                for (int b = 0; a + b < PARTS; b++) {
                    const u32 b0 = ub[b][j / 2][(j & 1) * 2], b1 = ub[b][j / 2][(j & 1) * 2 + 1];
                    if (!MANY_RANKS && k + a + b == 0) {
                        if (whole) mma16_from_zero(tap[j], a16[a], b0, b1); else mma8_from_zero(tap[j], a16[a][0], a16[a][1], b0);
                    } else if (whole) mma16(tap[j], a16[a], b0, b1);
                    else mma8(tap[j], a16[a][0], a16[a][1], b0);
                }
    }
    if (OUTSIDE) {
        const u32 hot = one_hot(lane, w);
#pragma unroll
        for (int q = 0; q < PARTS; q++)
#pragma unroll
            for (int j = 0; j < TILES; j += 2) {
                u32 sb[2];
                ldmatrix2<true>(sb, u + q * PART_STEP + ((W * RP + (lane & 7)) * U_PITCH + (j + (lane >> 3 & 1)) * 8) * 2);
                mma8(tap[j], hot, hot, sb[0]);
                mma8(tap[j + 1], hot, hot, sb[1]);
            }
    }
}

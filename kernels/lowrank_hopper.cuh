// sm_90a: warpgroup products, barriers in shared memory, and the low-rank tiles that use them (bf16, rank <= 16, static_w with any of them).
//
// A warpgroup product is D[64, N] += A[64, 16] B[16, N]: A in registers (each warp 16 rows, as in m16n8k16 of mma.cuh), B in shared
// memory as core matrices of 8 x 16 bytes, each 128 contiguous bytes; D in registers, row g or g+8, columns 8 j + 2c, +1.
// It runs on its own: from start_products() to its wait_products() its registers must be left alone.
#pragma once
#include "mma.cuh"

static_assert(DTYPE == 1 && RS <= 16 && W <= 4 && ALIGNED, "other shapes: short_conv_lowrank_fwd.cu, short_conv_lowrank_bwd.cu");

// Tiles of a block: ROWS tokens, BLOCK_CH channels; a row of x or dy in shared memory is 16 bytes longer: ldmatrix without bank conflicts.
constexpr int ROWS = 64, HALO = ROWS + W - 1, BLOCK_CH = 256, PITCH = BLOCK_CH + 8;
constexpr int CORE = 128, OCT = 2 * CORE;  // bytes: a core matrix, and eight channels of 16 ranks
constexpr int U_STEP = BLOCK_CH / 8 * OCT / 16;           // from one w of U to the next in 16-byte units
// U; static_w OUTSIDE (mma.cuh) as if it were w = W of it: its rank r is row r of static_w; and for each w the operand A [64, 16] that picks
// that row, column w of it 1 and all others 0: registers have no room for it.
constexpr int U_PLANES = W + OUTSIDE, PICK_STEP = 8 * OCT / 16, AT_PICK = U_PLANES * U_STEP * 16, U_BYTES = AT_PICK + (OUTSIDE ? W * PICK_STEP * 16 : 0);
// Streams whose channels share a block's, the same SIDE_CH of each: 1, or more that start at stream blockIdx.y.
#ifndef SIDES
#define SIDES 1
#endif
constexpr int SIDE_CH = BLOCK_CH / SIDES;
constexpr int Z_STEP = 48, Z_TILE = HALO * Z_STEP;                              // bytes: a row of z (16 ranks, longer as above), a tile of z

// ---- barriers in shared memory
__device__ __forceinline__ void barrier_init(u32 bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory"); }
__device__ __forceinline__ void barrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(bar) : "memory"); }
// Arrives once the copies that this thread has started are complete.
__device__ __forceinline__ void barrier_arrive_copied(u32 bar) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(bar) : "memory"); }
__device__ __forceinline__ void barrier_wait(u32 bar, u32 parity) {
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra over;\nbra again;\nover:\n}"
                 :: "r"(bar), "r"(parity) : "memory");
}
// Ordinary stores to shared memory become visible to products.
__device__ __forceinline__ void publish_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers a thread, moved between warpgroups of different roles: those of the one go to the other.
template <int N> __device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }
template <int N> __device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

// ---- products
__device__ __forceinline__ void start_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most LEFT groups run.
template <int LEFT> __device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
// Keeps reads of a product's registers behind the wait above this line, and writes before the start below it.
template <int N> __device__ __forceinline__ void hold(float (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(v[i]) :: "memory");
}
// An operand in shared memory: where its first core matrix is (16-byte units), and the byte steps between core matrices along k and along
// the other index.
__device__ __forceinline__ unsigned long long operand(u32 at, u32 k_step, u32 n_step) {
    return (unsigned long long)(n_step >> 4) << 32 | (at + (k_step >> 4 << 16));
}
// A value that all lanes share, in a uniform register.
__device__ __forceinline__ int uniform(int v) { return __shfl_sync(0xffffffffu, v, 0); }
// d[64, 32] = a b, b with n contiguous.
__device__ __forceinline__ void product_n32(float (&d)[16], const u32 (&a)[4], unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
                 "{%16,%17,%18,%19}, %20, 0, 1, 1, 1;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
                   "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// d[64, 32] += a b, a from shared memory with k contiguous, b with n contiguous.
__device__ __forceinline__ void product_n32_shared(float (&d)[16], unsigned long long a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
                 "%16, %17, 1, 1, 1, 0, 1;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
                   "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                 : "l"(a), "l"(b));
}
// d[64, 16] += SIGN a b, b with k contiguous.
template <int SIGN> __device__ __forceinline__ void product_n16(float (&d)[8], const u32 (&a)[4], unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1, %13, 1, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(SIGN));
}

// tap = z U (+ static_w) of one w for 32 channels. u0: all of U, u: the first core matrix of the channels. In flight afterwards.
__device__ __forceinline__ void start_tap(float (&tap)[16], const u32 (&za)[4], u32 u0, u32 u, int w) {
    product_n32(tap, za, operand(u + w * U_STEP, CORE, OCT));
    if (OUTSIDE) product_n32_shared(tap, operand(u0 + AT_PICK / 16 + w * PICK_STEP, CORE, OCT), operand(u + W * U_STEP, CORE, OCT));
}

// ---- which lane owns what
// A warp's 32 columns of group k are the channels 8 chunk(k, c) + 2 j + e of lane group c at column 8 j + 2c + e: eight neighbouring channels a
// lane, chunks spread so that the 16-byte reads of rows 2g and 2g+2 (32 bytes apart modulo 128) meet no bank twice.
__device__ __forceinline__ int chunk_of(int group, int c) { return (group >> 1) * 8 + (c & 1) + (c >> 1) * 4 + (group & 1) * 2; }
// Row g (+8) of a warp is token 2g (+1) of its 16: a lane's x[t-w] are its own registers for two rows.

// Of a block's channel: its stream from the block's first on, and where it is in that.
__device__ __forceinline__ int side_of(int channel) { return SIDES == 1 ? 0 : channel / SIDE_CH; }
__device__ __forceinline__ int in_side(int channel) { return SIDES == 1 ? channel : channel % SIDE_CH; }

// U (static_w as rank R, or apart): shared [U_PLANES][BLOCK_CH / 8 octs of columns][2 rank halves][8 ranks][8 columns], zero past R and D.
// By the first COUNT threads, none of whom has copies under way: publish_stores would wait for those.
template <int COUNT> __device__ __forceinline__ void fill_u_cores(const Params& p, int d0, unsigned char* shared) {
    constexpr int ALL = U_PLANES * 16 * (BLOCK_CH / 8), EACH = (ALL + COUNT - 1) / COUNT;
    const elem* u = p.u + blockIdx.y * p.s_u;
    const elem* sw = p.static_w + blockIdx.y * p.s_static;
    Vec<8, 16> v[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * COUNT, chunk = i % (BLOCK_CH / 8), r = i / (BLOCK_CH / 8) % 16, w = i / (BLOCK_CH / 8) / 16;
        const int side = side_of(chunk * 8), d = d0 + in_side(chunk * 8);
        v[k].zero();
        if (i >= ALL || d >= p.d_model) continue;
        if (OUTSIDE && w == W) {
            if (r < W) v[k].load(sw + side * p.s_static + (i64)r * p.d_model + d);
        } else if (r < RANK) v[k].load(u + side * p.s_u + ((i64)r * W + w) * p.d_model + d);
        else if (STATIC && r == RANK) v[k].load(sw + side * p.s_static + (i64)w * p.d_model + d);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = threadIdx.x + k * COUNT, chunk = i % (BLOCK_CH / 8), r = i / (BLOCK_CH / 8) % 16, w = i / (BLOCK_CH / 8) / 16;
        if (i >= ALL) break;
        // The inverse of chunk_of.
        const int group = (chunk >> 3) * 2 + (chunk >> 1 & 1), c = (chunk & 1) + (chunk >> 2 & 1) * 2;
        unsigned char* at = shared + (w * (BLOCK_CH / 8) + group * 4) * OCT + (r >> 3) * CORE + (r & 7) * 16 + c * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) *reinterpret_cast<u32*>(at + j * OCT) = *reinterpret_cast<const u32*>(v[k].e + 2 * j);
    }
    if (OUTSIDE)
        for (int i = threadIdx.x; i < W * PICK_STEP; i += COUNT) {
            const int w = i / PICK_STEP;
            const u32 one = i & 8 ? 0 : w & 1 ? 0x3f800000u : 0x3f80u;  // the second rank half is zero
            *reinterpret_cast<uint4*>(shared + AT_PICK + i * 16) = make_uint4(w < 2 ? one : 0, w < 2 ? 0 : one, 0, 0);
        }
    publish_stores();
}

// A thread's eight ranks of a token's z on each side, zero past R and the sequence; rank R of static_w is 1. They stay as they are loaded
// until they are put: to pack them is to wait for them.
struct Codes {
#if RANK == 16 && Z_ALIGNED
    uint4 v[SIDES];
#else
    unsigned short v[SIDES][8];
#endif
    __device__ __forceinline__ void request(const Params& p, int4 t, int token, int half) {
        const bool there = t.x >= 0 && t.x + token < t.z;
        const elem* row = p.weight + (SIDES == 1 ? blockIdx.y * p.s_w : 0) + (i64)(t.x + token) * p.ldw + half * 8;
#pragma unroll
        for (int side = 0; side < SIDES; side++, row += p.s_w) {
#if RANK == 16 && Z_ALIGNED
            v[side] = there ? *reinterpret_cast<const uint4*>(row) : make_uint4(0, 0, 0, 0);
#else
#pragma unroll
            for (int e = 0; e < 8; e++)
                asm volatile("{\n.reg .pred there;\nsetp.ne.u32 there, %2, 0;\nmov.u16 %0, 0;\n@there ld.global.nc.u16 %0, [%1];\n}"
                             : "=&h"(v[side][e]) : "l"(row + e), "r"((u32)(there && half * 8 + e < RANK)));
#endif
        }
    }
    __device__ __forceinline__ void put(unsigned char* at, int half, int side_bytes = 0) const {
#pragma unroll
        for (int side = 0; side < SIDES; side++) {
            uint4* to = reinterpret_cast<uint4*>(at + side * side_bytes);
#if RANK == 16 && Z_ALIGNED
            *to = v[side];
#else
            const auto rank = [&](int e) { return STATIC && half * 8 + e == RANK ? 0x3f80u : v[side][e]; };
            const auto pair = [&](int j) { return rank(2 * j) | rank(2 * j + 1) << 16; };
            *to = make_uint4(pair(0), pair(1), pair(2), pair(3));
#endif
        }
    }
};
// The z of a tile: rows of 16 ranks, Z_STEP bytes apart.
__device__ __forceinline__ int z_at(int token, int half) { return token * Z_STEP + half * 16; }
// Where a lane reads its A operand for the tokens `first` + 2g, + 2g + 1; those w further on are w * Z_STEP further.
__device__ __forceinline__ u32 z_fragment_at(u32 z, int first, int lane) { return z + z_at(first + 2 * (lane & 7) + (lane >> 3 & 1), lane >> 4); }

// A block's tiles are span, span + spans, ..: blocks that run together are at neighbouring rows.
__device__ __forceinline__ int tile_count(const Params& p, int span) { return (p.chunks - span + p.spans - 1) / p.spans; }
// Tile k of a span: {first row, sequence start, sequence end, sequence}; first < 0 = none.
__device__ __forceinline__ int4 tile_rows(const Params& p, int span, int k) {
    Rows r;
    return chunk_rows(p, span + k * p.spans, ROWS, r) ? make_int4(r.row0, r.start, r.end, r.seq) : make_int4(-1, 0, 0, 0);
}
// HALO rows of x (from W-1 before the tile) or of dy (from its first) into shared memory, by WARPS warps, a row each, 16 bytes a lane. Rows past
// the sequence, and channels past D, become zeros.
template <int WARPS, bool IS_X> __device__ __forceinline__ void fetch_rows(const Params& p, int4 t, int d0, int thread, elem* dst) {
    static_assert(BLOCK_CH == 32 * 8, "a row is 16 bytes a lane");
    const int lane = thread & 31, first = thread / 32, d = d0 + in_side(lane * 8), row0 = t.x - (IS_X ? W - 1 : 0);
    const bool valid = d < p.d_model;
    const i64 ld = IS_X ? p.ldx : p.lddy;
    const elem* from = (IS_X ? p.x + blockIdx.y * p.s_x : p.dy + blockIdx.y * p.s_dy) + side_of(lane * 8) * (IS_X ? p.s_x : p.s_dy);
    u32 to = shared_address(dst + first * PITCH + lane * 8);
    if (row0 >= t.y && row0 + HALO <= t.z) {
        const elem* src = valid ? from + (i64)(row0 + first) * ld + d : p.x;
        const i64 step = valid ? ld * WARPS : 0;
#pragma unroll
        for (int r = 0; r < HALO; r += WARPS) {
            if (r + WARPS <= HALO || r + first < HALO) copy16(to, src, valid);
            src += step;
            to += WARPS * PITCH * 2;
        }
        return;
    }
    const Rows rows = {t.x, 0, t.y, t.z, t.w};
#pragma unroll 1
    for (int r = first; r < HALO; r += WARPS) {
        const int row = row0 + r;
        const elem* src = !valid || row >= t.z ? nullptr : IS_X ? input_row(p, rows, from, row) : from + row * ld;
        copy16(to, src ? src + d : p.x, src);
        to += WARPS * PITCH * 2;
    }
}
// The eight channels of a lane in one row, as pairs.
__device__ __forceinline__ void load_eight(const elem* at, u32 (&v)[4]) {
    const uint4 q = *reinterpret_cast<const uint4*>(at);
    v[0] = q.x; v[1] = q.y; v[2] = q.z; v[3] = q.w;
}

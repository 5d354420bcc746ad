// Low-rank short convolution, backward, on sm_90a: bf16, rank <= 16, W <= 4, D in 16-byte rows. Formulas, partial sums and
// exactness as in short_conv_lowrank_bwd.cu.
//
// A block owns 256 channels and takes every `spans`-th tile of 64 rows; x, dy and z are fetched two tiles deep. Two warpgroups, 128 channels
// each, make dx and dz; two make dU, and fetch. Taps and dz are warpgroup products whose B operand, U, stays in shared memory; their A operand
// is made in registers: z (taps), P along channels (dz), P as two bf16 (mma.cuh).
//   taps: [64 tokens x 16 ranks] [16 x 32 channels];  dz: [64 x 16 channels] [16 x 16 ranks]
// dstatic_w OUTSIDE of the ranks (mma.cuh) is made with dU: P summed over tokens by a product whose B is 1 in column w.
// dU, whose B operand z changes, uses the products of warps: a warpgroup product would need a fence that waits for every copy under way.
// dz of a tile stays in registers over the 128 channels and is added over the two warpgroups in shared memory.
// Bytes per element: 6 + 4 R / D. FLOP: 10 W R on tensor cores + 4 W.
//
// Entry point: conv_lowrank_bwd. Defines: RANK, THREADS = 512, CW = 32, ALIGNED = 1, Z_ALIGNED, RES_IN.
#include "lowrank_hopper.cuh"

static_assert(THREADS == 512, "four warpgroups");
constexpr int STAGES = 2, SIDE = 256;                             // threads of a side
constexpr int STAGE_ELEMS = 2 * HALO * PITCH, DZ_TILE = 8 * 128;  // x and dy; the dz of one warpgroup
// Shared memory: U, stages, z, dz of two tiles, and dstatic_w OUTSIDE, a float4 for each thread of the dU side and 64 channels.
constexpr int AT_STAGES = U_BYTES, AT_Z = AT_STAGES + STAGES * STAGE_ELEMS * 2, AT_DZ = AT_Z + STAGES * Z_TILE;

struct Block {
    int d0, tile, span, count;   // first channel, column tile, span, tiles of rows
    u32 full, empty;             // barriers of stage 0; stage s: + 8 s
    unsigned char* smem;
    int4* ring;
    uint2* ones;                 // [W][8]: B of a product that adds into column w
    __device__ __forceinline__ elem* x(int s) const { return reinterpret_cast<elem*>(smem + AT_STAGES) + s * STAGE_ELEMS; }
    __device__ __forceinline__ elem* g(int s) const { return x(s) + HALO * PITCH; }
    __device__ __forceinline__ unsigned char* z(int s) const { return smem + AT_Z + s * Z_TILE; }
    __device__ __forceinline__ float* dz(int s) const { return reinterpret_cast<float*>(smem + AT_DZ) + s * DZ_TILE; }
    __device__ __forceinline__ u32 dstatic(int half) const { return shared_address(dz(2)) + (threadIdx.x % SIDE * 2 + half) * 16; }
};

// Rows of tile t into stage s, by the eight warps of the dU side.
__device__ __forceinline__ void fetch(const Params& p, const Block& b, int4 t, int s) {
    const int me = afresh(threadIdx.x % SIDE);
    if (t.x >= 0) {
        fetch_rows<8, true>(p, t, b.d0, me, b.x(s));
        fetch_rows<8, false>(p, t, b.d0, me, b.g(s));
    }
    barrier_arrive_copied(b.full + 8 * s);
    if (threadIdx.x == SIDE) b.ring[s] = t;
}
// Eight ranks of a token of a tile, zero past RS; rank R is 1. Packed as they come: Codes of lowrank_hopper.cuh, unpacked, would spill here.
__device__ __forceinline__ uint4 load_z(const Params& p, int4 t, int token, int half) {
    Vec<8, 16> v;
    v.zero();
    if (t.x < 0 || t.x + token >= t.z) return *reinterpret_cast<const uint4*>(v.e);
    const elem* row = p.weight + blockIdx.y * p.s_w + (i64)(t.x + token) * p.ldw + half * 8;
#if RANK == 16 && Z_ALIGNED
    v.load(row);
#else
#pragma unroll
    for (int e = 0; e < 8; e++) {
        if (half * 8 + e < RANK) v.e[e] = row[e];
        if (STATIC && half * 8 + e == RANK) v.e[e] = from_float(1.f);
    }
#endif
    return *reinterpret_cast<const uint4*>(v.e);
}
// The z of a tile: eight ranks a thread, fetched early and stored when the stage is free.
__device__ __forceinline__ uint4 fetch_z(const Params& p, int4 t) {
    const int me = afresh(threadIdx.x % SIDE);
    return me < 2 * HALO ? load_z(p, t, me >> 1, me & 1) : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void put_z(const Block& b, uint4 v, int s) {
    const int me = afresh(threadIdx.x % SIDE);
    if (me < 2 * HALO) *reinterpret_cast<uint4*>(b.z(s) + z_at(me >> 1, me & 1)) = v;
    barrier_arrive(b.full + 8 * s);
}

// P of one w for 32 channels of two tokens, as the A operands of two steps along channels: the rounded part, and the rest turned.
__device__ __forceinline__ void channel_products(const u32 (&gv)[2 + W - 1][4], const u32 (&xv)[2 + W - 1][4], int w, u32 (&high)[2][4], u32 (&rest)[2][4]) {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            u32 part[PROD];
            pair_product(factor(gv[e & 1][2 * m + (e >> 1)]), xv[W - 1 + (e & 1) - w][2 * m + (e >> 1)], part);
            high[m][e] = part[0]; rest[m][e] = part[1];
        }
}

// dx, and the dz of 128 channels, of the tile in stage s. side: which 128 channels.
__device__ __forceinline__ void input_side(const Params& p, const Block& b, int4 t, int k, int s, int side) {
    const int me = afresh(threadIdx.x % 128), lane = me & 31, warp = me / 32, g = lane >> 2, c = lane & 3;
    const int token = warp * 16 + 2 * g, count = min(ROWS, t.z - t.x);
    const u32 u = uniform(shared_address(b.smem) >> 4), z = z_fragment_at(shared_address(b.z(s)), warp * 16, lane);
    const elem *xs = b.x(s) + token * PITCH, *gs = b.g(s) + token * PITCH;
    elem* dx = p.y + blockIdx.y * p.s_y + (i64)(t.x + token) * p.ldy + b.d0;
    float dz[8];
#pragma unroll
    for (int i = 0; i < 8; i++) dz[i] = 0.f;
#pragma unroll 1
    for (int group = side * 4; group < side * 4 + 4; group++) {
        const int d = chunk_of(group, c) * 8;
        const u32 ug = u + group * 4 * (OCT >> 4);
        u32 gv[2 + W - 1][4], xv[2 + W - 1][4];
        load_eight(gs + d, gv[0]);
        load_eight(gs + PITCH + d, gv[1]);
        load_eight(xs + W * PITCH + d, xv[W]);
        float acc[16];
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float2 v = pair_float(gv[e][j]);
                acc[4 * j + 2 * e] = RESIDUAL && !RES_IN ? v.x : 0.f;
                acc[4 * j + 2 * e + 1] = RESIDUAL && !RES_IN ? v.y : 0.f;
            }
        // The taps of w+1 are started with the dz of w, and both run while the taps of w are used.
        u32 za[4];
        float tap[2][16];
        ldmatrix4<false>(za, z);
        hold(tap[0]);
        start_products();
        start_tap(tap[0], za, u, ug, 0);
        commit_products();
#pragma unroll
        for (int w = 0; w < W; w++) {
            if (w) load_eight(gs + (w + 1) * PITCH + d, gv[w + 1]);
            load_eight(xs + (W - 1 - w) * PITCH + d, xv[W - 1 - w]);
            u32 high[2][4], rest[2][4];
            channel_products(gv, xv, w, high, rest);
            u32 next[4];
            if (w + 1 < W) { ldmatrix4<false>(next, z + (w + 1) * Z_STEP); hold(tap[w + 1 & 1]); }
            hold(dz);
            start_products();
#pragma unroll
            for (int m = 0; m < 2; m++) {
                const unsigned long long ub = operand(ug + w * U_STEP + 2 * m * (OCT >> 4), OCT, CORE);
                product_n16<1>(dz, high[m], ub);
                product_n16<-1>(dz, rest[m], ub);
            }
            if (w + 1 < W) start_tap(tap[w + 1 & 1], next, u, ug, w + 1);
            commit_products();
            wait_products<1>();
            hold(tap[w & 1]);
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float2 v = pair_float(gv[e + w][j]);
                    acc[4 * j + 2 * e] = fmaf(tap[w & 1][4 * j + 2 * e], v.x, acc[4 * j + 2 * e]);
                    acc[4 * j + 2 * e + 1] = fmaf(tap[w & 1][4 * j + 2 * e + 1], v.y, acc[4 * j + 2 * e + 1]);
                }
        }
        // With one tap no later wait covers the products of dz before the next group fills their operands again.
        if (W == 1) wait_products<0>();
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (token + e >= count || b.d0 + d >= p.d_model) continue;
            float out[8];
#pragma unroll
            for (int j = 0; j < 4; j++) { out[2 * j] = acc[4 * j + 2 * e]; out[2 * j + 1] = acc[4 * j + 2 * e + 1]; }
            if (RES_IN) {
                Vec<8, 16> res;
                res.load(p.res + blockIdx.y * p.s_res + (i64)(t.x + token + e) * p.ldres + b.d0 + d);
#pragma unroll
                for (int q = 0; q < 8; q++) out[q] += to_float(res.e[q]);
            }
            Vec<8, 16> o;
            o.set(out);
            o.store(dx + e * p.ldy + d);
        }
    }
    wait_products<0>();
    hold(dz);
    // The second warpgroup hands its dz over; the first adds and writes. Named barriers 1 and 2, of alternate tiles.
    float* hand = b.dz(k & 1) + me;
    if (side == 1) {
#pragma unroll
        for (int i = 0; i < 8; i++) hand[i * 128] = dz[i];
        asm volatile("bar.arrive %0, 256;" :: "r"(1 + (k & 1)) : "memory");
        return;
    }
    asm volatile("bar.sync %0, 256;" :: "r"(1 + (k & 1)) : "memory");
#pragma unroll
    for (int e = 0; e < 2; e++) {
        if (token + e >= count) continue;
        float* row = p.part_rows + blockIdx.y * p.s_rows + ((i64)b.tile * p.rows + t.x + token + e) * 16;
#pragma unroll
        for (int n = 0; n < 2; n++)
            *reinterpret_cast<float2*>(row + n * 8 + 2 * c) =
                make_float2(dz[4 * n + 2 * e] + hand[(4 * n + 2 * e) * 128], dz[4 * n + 2 * e + 1] + hand[(4 * n + 2 * e + 1) * 128]);
    }
}

// Values that stay in shared memory between uses: beside dU registers have no room for them.
__device__ __forceinline__ void get_sums(u32 at, float (&v)[4]) {
    asm volatile("ld.volatile.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void put_sums(u32 at, const float (&v)[4]) {
    asm volatile("st.volatile.shared.v4.f32 [%4], {%0,%1,%2,%3};" :: "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(at) : "memory");
}

// dU of 128 channels, from the tile in stage s: a warp has 16 channels of each 64.
__device__ __forceinline__ void filter_side(const Block& b, int s, int side, float (&du)[2][W][2][4]) {
    const int me = afresh(threadIdx.x % 128), lane = me & 31, warp = me / 32;
    // ldmatrix: (token half, rank half) of z; (channel half, token half) of x and dy.
    const u32 zs = shared_address(b.z(s)) + z_at((lane >> 3 & 1) * 8 + (lane & 7), lane >> 4);
    const u32 at = (((lane & 7) + (lane >> 4) * 8) * PITCH + side * 128 + warp * 16 + ((lane >> 3) & 1) * 8) * 2;
    const u32 xs = shared_address(b.x(s)) + at, gs = shared_address(b.g(s)) + at;
#pragma unroll 1
    for (int kt = 0; kt < ROWS / 16; kt++) {
        u32 zb[4];
        ldmatrix4<true>(zb, zs + kt * 16 * Z_STEP);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float dstatic[4];
            if (OUTSIDE) get_sums(b.dstatic(i), dstatic);
            u32 ga[4];
            ldmatrix4<true>(ga, gs + (kt * 16 * PITCH + i * 64) * 2);
#pragma unroll
            for (int w = 0; w < W; w++) {
                u32 xa[4], pa[PROD][4];
                ldmatrix4<true>(xa, xs + ((kt * 16 + W - 1 - w) * PITCH + i * 64) * 2);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    u32 part[PROD];
                    pair_product(factor(ga[e]), xa[e], part);
                    pa[0][e] = part[0];
                    // OUTSIDE there are no registers for turned operands: the rest with its own sign.
                    pa[1][e] = OUTSIDE ? fma_bf16x2(ga[e], xa[e], part[0] ^ 0x80008000u) : part[1];
                }
#pragma unroll
                for (int a = 0; a < PROD; a++)
#pragma unroll
                    for (int n = 0; n < 2; n++) {
                        const u32 b0 = zb[2 * n], b1 = zb[2 * n + 1];
                        mma16(du[i][w][n], pa[a], OUTSIDE ? b0 : turned(a, b0), OUTSIDE ? b1 : turned(a, b1));
                    }
                if (OUTSIDE) {
                    uint2 ones;
                    asm volatile("ld.volatile.shared.v2.u32 {%0,%1}, [%2];" : "=r"(ones.x), "=r"(ones.y) : "r"(shared_address(b.ones) + (w * 8 + (lane >> 2)) * 8));
#pragma unroll
                    for (int a = 0; a < PROD; a++) mma16(dstatic, pa[a], ones.x, ones.y);
                }
            }
            if (OUTSIDE) put_sums(b.dstatic(i), dstatic);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) conv_lowrank_bwd(const __grid_constant__ Params p) {
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ int4 ring[STAGES];
    __shared__ uint2 ones[OUTSIDE ? W * 8 : 1];
    __shared__ __align__(8) unsigned long long barriers[2 * STAGES];
    Block b;
    b.span = blockIdx.x / p.col_tiles;
    b.tile = blockIdx.x % p.col_tiles;
    b.d0 = b.tile * BLOCK_CH;
    b.count = tile_count(p, b.span);
    b.full = shared_address(barriers);
    b.empty = b.full + 8 * STAGES;
    b.smem = smem;
    b.ring = ring;
    b.ones = ones;
    if (OUTSIDE && threadIdx.x < W * 8) ones[threadIdx.x] = threadIdx.x / 8 == threadIdx.x % 8 ? make_uint2(0x3f803f80u, 0x3f803f80u) : make_uint2(0, 0);
    if (threadIdx.x == 0) {
#pragma unroll
        for (int s = 0; s < STAGES; s++) { barrier_init(b.full + 8 * s, 2 * SIDE); barrier_init(b.empty + 8 * s, THREADS / 32); }
    }
    __syncthreads();
    const int warpgroup = uniform(threadIdx.x / 128), side = warpgroup & 1;
    const bool filter = warpgroup >= 2;
    const auto tile_at = [&](int k) { return k < b.count ? tile_rows(p, b.span, k) : make_int4(-1, 0, 0, 0); };
    if (!filter) {
        fill_u_cores<SIDE>(p, b.d0, smem);
        __syncthreads();
        more_registers<152>();
#pragma unroll 1
        for (int k = 0; k < b.count; k++) {
            const int s = k % STAGES;
            barrier_wait(b.full + 8 * s, k / STAGES & 1);
            const int4 t = ring[s];
            if (t.x >= 0) input_side(p, b, t, k, s, side);
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(b.empty + 8 * s);
        }
    } else {
        fewer_registers<104>();
        {
            uint4 z[STAGES];
#pragma unroll
            for (int s = 0; s < STAGES; s++) {
                const int4 t = tile_at(s);
                fetch(p, b, t, s);
                z[s] = fetch_z(p, t);
            }
#pragma unroll
            for (int s = 0; s < STAGES; s++) put_z(b, z[s], s);
        }
        __syncthreads();
        float du[2][W][2][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int w = 0; w < W; w++)
#pragma unroll
                for (int e = 0; e < 8; e++) du[i][w][e / 4][e % 4] = 0.f;
        if (OUTSIDE) { put_sums(b.dstatic(0), du[0][0][0]); put_sums(b.dstatic(1), du[0][0][0]); }
        // Counted again each time where a register for it is missing.
        const auto count = [&] { return OUTSIDE ? tile_count(p, blockIdx.x / p.col_tiles) : b.count; };
#pragma unroll 1
        for (int k = 0; k < count(); k++) {
            const int s = k % STAGES;
            barrier_wait(b.full + 8 * s, k / STAGES & 1);
            if (ring[s].x >= 0) filter_side(b, s, side, du);
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(b.empty + 8 * s);
            if (k + STAGES >= b.count) continue;
            const int4 next = tile_at(k + STAGES);
            const uint4 z = fetch_z(p, next);
            barrier_wait(b.empty + 8 * s, k / STAGES & 1);
            fetch(p, b, next, s);
            put_z(b, z, s);
        }
        // A lane holds channels g, g+8 of its warp's 16 and ranks 2c, 2c+1 of each half.
        const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3, ch0 = b.d0 + side * 128 + threadIdx.x % 128 / 32 * 16 + g;
        float* out = p.part_cols + blockIdx.y * p.s_cols + (i64)b.span * (16 + OUTSIDE) * W * p.d_model;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int w = 0; w < W; w++)
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    const int ch = ch0 + i * 64 + (e >> 1 & 1) * 8, r = (e >> 2) * 8 + 2 * c + (e & 1);
                    if (ch < p.d_model) out[((i64)r * W + w) * p.d_model + ch] = du[i][w][e / 4][e % 4];
                }
        // dstatic_w OUTSIDE likewise, as rank 16 and with w in place of ranks.
        if (OUTSIDE)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float dstatic[4];
                get_sums(b.dstatic(i), dstatic);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int ch = ch0 + i * 64 + (e >> 1) * 8, w = 2 * c + (e & 1);
                    if (ch < p.d_model && w < W) out[((i64)16 * W + w) * p.d_model + ch] = dstatic[e];
                }
            }
    }
}

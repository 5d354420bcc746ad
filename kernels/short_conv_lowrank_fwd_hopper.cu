// Low-rank short convolution, forward, on sm_90a: bf16, rank <= 16, W <= 4, D in 16-byte rows. Formula as in
// short_conv_lowrank_fwd.cu.
//
// A block owns 256 channels and takes every `spans`-th tile of 64 rows. One warpgroup fetches x and z, STAGES tiles deep; four,
// 64 channels each, make the taps of 64 tokens x 32 channels x one w by one warpgroup product, [64 x 16 ranks] [16 x 32], from U
// in shared memory, and use them where they are. Bytes per element: 4 + 2 R / D. FLOP: 2 W R (tensor cores) + 2 W.
//
// Entry point: conv_lowrank_fwd. GRAD = 1: writes dy act'(pre) instead. Defines: RANK, THREADS = 640, CW = 32, ALIGNED = 1, Z_ALIGNED, STAGES.
#include "lowrank_hopper.cuh"

static_assert(THREADS == 640, "four warpgroups and one that fetches");
constexpr int WARPS = 16, STAGE_ELEMS = HALO * PITCH;  // warps that compute
constexpr int AT_STAGES = U_BYTES, AT_Z = AT_STAGES + STAGES * STAGE_ELEMS * 2;

extern "C" __global__ void __launch_bounds__(THREADS, 1) conv_lowrank_fwd(const __grid_constant__ Params p) {
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ int4 ring[STAGES];
    __shared__ __align__(8) unsigned long long barriers[2 * STAGES];
    const int tile = blockIdx.x % p.col_tiles, span = blockIdx.x / p.col_tiles, d0 = tile * BLOCK_CH;
    const int count = tile_count(p, span);
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const auto stage = [&](int s) { return reinterpret_cast<elem*>(smem + AT_STAGES) + s * STAGE_ELEMS; };
    const auto z_of = [&](int s) { return smem + AT_Z + s * Z_TILE; };
    if (threadIdx.x == 0) {
#pragma unroll
        for (int s = 0; s < STAGES; s++) { barrier_init(full + 8 * s, 256); barrier_init(empty + 8 * s, WARPS); }
    }
    __syncthreads();
    const int warp = uniform(threadIdx.x / 32);
    if (warp >= WARPS) {
        const int me = threadIdx.x % 128;
        const auto tile_of = [&](int k) { return k < count ? tile_rows(p, span, k) : make_int4(-1, 0, 0, 0); };
        int4 t = tile_of(0);
        Codes z;
        z.request(p, t, me >> 1, me & 1);
#pragma unroll 1
        for (int k = 0, s = 0; k < count; k++, s = s + 1 == STAGES ? 0 : s + 1) {
            if (k >= STAGES) barrier_wait(empty + 8 * s, (k / STAGES & 1) ^ 1);
            if (me == 0) ring[s] = t;
            z.put(z_of(s) + z_at(me >> 1, me & 1), me & 1);
            barrier_arrive(full + 8 * s);
            // The next z ahead of this tile's rows: it would wait for those.
            const int4 next = tile_of(k + 1);
            z.request(p, next, me >> 1, me & 1);
            if (t.x >= 0) fetch_rows<4, true>(p, t, d0, me, stage(s));
            barrier_arrive_copied(full + 8 * s);
            t = next;
        }
        return;
    }
    fill_u_cores<WARPS * 32>(p, d0, smem);
    asm volatile("bar.sync 1, %0;" :: "n"(WARPS * 32) : "memory");

    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3, token = warp % 4 * 16 + 2 * g, group0 = warp / 4 * 2;
    const u32 u0 = uniform(shared_address(smem) >> 4), u = u0 + group0 * 4 * (OCT >> 4);
#pragma unroll 1
    for (int k = 0, s = 0; k < count; k++, s = s + 1 == STAGES ? 0 : s + 1) {
        barrier_wait(full + 8 * s, k / STAGES & 1);
        const int4 t = ring[s];
        if (t.x >= 0) {
            u32 za[4];
            ldmatrix4<false>(za, z_fragment_at(shared_address(z_of(s)), warp % 4 * 16, lane));
            const i64 row = t.x + token;
#pragma unroll 1
            for (int n = 0; n < 2; n++) {
                const int d = chunk_of(group0 + n, c) * 8;
                const elem* xs = stage(s) + token * PITCH + d;
                u32 xv[2 + W - 1][4];
                load_eight(xs + W * PITCH, xv[W]);
                // Taps are made one w ahead of their use.
                float tap[2][16], acc[16];
                const auto start = [&](int w) {
                    hold(tap[w & 1]);
                    start_products();
                    start_tap(tap[w & 1], za, u0, u + n * 4 * (OCT >> 4), w);
                    commit_products();
                };
                start(0);
#pragma unroll
                for (int w = 0; w < W; w++) {
                    load_eight(xs + (W - 1 - w) * PITCH, xv[W - 1 - w]);
                    if (w + 1 < W) { start(w + 1); wait_products<1>(); }
                    else wait_products<0>();
                    hold(tap[w & 1]);
#pragma unroll
                    for (int j = 0; j < 4; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            const float2 v = pair_float(xv[W - 1 + e - w][j]);
                            const int q = 4 * j + 2 * e;
                            acc[q] = w ? fmaf(tap[w & 1][q], v.x, acc[q]) : tap[w & 1][q] * v.x;
                            acc[q + 1] = w ? fmaf(tap[w & 1][q + 1], v.y, acc[q + 1]) : tap[w & 1][q + 1] * v.y;
                        }
                }
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    if (row + e >= t.z || d0 + d >= p.d_model) continue;
                    Vec<8, 16> o, dy;
                    if (GRAD) dy.load(p.dy + blockIdx.y * p.s_dy + (row + e) * p.lddy + d0 + d);
                    float out[8];
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float2 x = pair_float(xv[W - 1 + e][j]);
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            float v = acc[4 * j + 2 * e + i];
                            if (GRAD) v = to_float(dy.e[2 * j + i]) * silu_grad(v);
                            else {
                                if (SILU) v = silu(v);
                                if (RESIDUAL) v += i ? x.y : x.x;
                            }
                            out[2 * j + i] = v;
                        }
                    }
                    o.set(out);
                    o.store(p.y + blockIdx.y * p.s_y + (row + e) * p.ldy + d0 + d);
                }
            }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + 8 * s);
    }
}

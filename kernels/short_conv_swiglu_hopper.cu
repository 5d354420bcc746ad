// SwiGLU of two low-rank short convolutions on sm_90a: a = conv(gate), b = conv(up), both rounded to bf16 and kept nowhere. Shapes as in
// short_conv_lowrank_fwd_hopper.cu, without an activation of the convolutions.
//
//   forward:  h = silu(a) b
//   backward: db = dh silu(a), da = dh b silu'(a), with a and b made again
// The same values as that kernel and pointwise.cu's one after the other, bit for bit.
//
// A block owns 128 channels of gate and the same of up, side by side in its 256, and takes every `spans`-th tile of 64 rows. One warpgroup
// fetches x, z and dh, STAGES tiles deep; four make 32 channels each, first of a, then of b. Bytes per element of h: 6 forward, 10 backward.
//
// Entry point: conv_swiglu. Streams: gate, up. GRAD = 0: y = h; 1: dy = dh [N, D], y = da and db. Defines: RANK, THREADS = 640, CW = 32,
// ALIGNED = 1, SIDES = 2, STAGES.
#include "lowrank_hopper.cuh"

static_assert(THREADS == 640 && SIDES == 2 && !STATE && !SILU, "four warpgroups and one that fetches");
constexpr int WARPS = 16, STAGE_ELEMS = HALO * PITCH;  // warps that compute
constexpr int Z_SIDE = ROWS * Z_STEP, DY_PITCH = SIDE_CH + 8, DY_TILE = GRAD ? ROWS * DY_PITCH : 0;
constexpr int AT_STAGES = U_BYTES, AT_Z = AT_STAGES + STAGES * STAGE_ELEMS * 2, AT_DY = AT_Z + STAGES * 2 * Z_SIDE;
constexpr int GROUPS_SIDE = SIDE_CH / 32;  // of 32 channels

// The rows of dh, by a warpgroup, half a warp a row; zeros past the sequence and D.
__device__ __forceinline__ void fetch_dh(const Params& p, int4 t, int d0, int thread, elem* dst) {
    const int lane = thread & 15, first = thread / 16, d = d0 + lane * 8;
    const u32 to = shared_address(dst + first * DY_PITCH + lane * 8);
#pragma unroll
    for (int r = 0; r < ROWS; r += 8) {
        const int row = t.x + first + r;
        const bool valid = d < p.d_model && row < t.z;
        copy16(to + r * DY_PITCH * 2, valid ? p.dy + row * p.lddy + d : p.dy, valid);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) conv_swiglu(const __grid_constant__ Params p) {
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ int4 ring[STAGES];
    __shared__ __align__(8) unsigned long long barriers[2 * STAGES];
    const int tile = blockIdx.x % p.col_tiles, span = blockIdx.x / p.col_tiles, d0 = tile * SIDE_CH;
    const int count = tile_count(p, span);
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const auto stage = [&](int s) { return reinterpret_cast<elem*>(smem + AT_STAGES) + s * STAGE_ELEMS; };
    const auto z_of = [&](int s) { return smem + AT_Z + s * 2 * Z_SIDE; };
    const auto dh_of = [&](int s) { return reinterpret_cast<elem*>(smem + AT_DY) + s * DY_TILE; };
    if (threadIdx.x == 0) {
#pragma unroll
        for (int s = 0; s < STAGES; s++) { barrier_init(full + 8 * s, 256); barrier_init(empty + 8 * s, WARPS); }
    }
    __syncthreads();
    const int warp = uniform(threadIdx.x / 32);
    if (warp >= WARPS) {
        // 64 + 4 * 104 = 5 * 96 registers: a's outputs wait for b's.
        fewer_registers<64>();
        const int me = threadIdx.x % 128;
        const auto tile_of = [&](int k) { return k < count ? tile_rows(p, span, k) : make_int4(-1, 0, 0, 0); };
        int4 t = tile_of(0);
        Codes z;
        z.request(p, t, me >> 1, me & 1);
#pragma unroll 1
        for (int k = 0, s = 0; k < count; k++, s = s + 1 == STAGES ? 0 : s + 1) {
            if (k >= STAGES) barrier_wait(empty + 8 * s, (k / STAGES & 1) ^ 1);
            if (me == 0) ring[s] = t;
            z.put(z_of(s) + z_at(me >> 1, me & 1), me & 1, Z_SIDE);
            barrier_arrive(full + 8 * s);
            // The next z ahead of this tile's rows: it would wait for those.
            const int4 next = tile_of(k + 1);
            z.request(p, next, me >> 1, me & 1);
            if (t.x >= 0) {
                fetch_rows<4, true>(p, t, d0, me, stage(s));
                if (GRAD) fetch_dh(p, t, d0, me, dh_of(s));
            }
            barrier_arrive_copied(full + 8 * s);
            t = next;
        }
        return;
    }
    more_registers<104>();
    fill_u_cores<WARPS * 32>(p, d0, smem);
    asm volatile("bar.sync 1, %0;" :: "n"(WARPS * 32) : "memory");

    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3, token = warp % 4 * 16 + 2 * g, group = warp / 4, d = chunk_of(group, c) * 8;
    const u32 u0 = uniform(shared_address(smem) >> 4);
#pragma unroll 1
    for (int k = 0, s = 0; k < count; k++, s = s + 1 == STAGES ? 0 : s + 1) {
        barrier_wait(full + 8 * s, k / STAGES & 1);
        const int4 t = ring[s];
        if (t.x >= 0) {
            u32 a[2][4];
            // The outputs of one side as pairs, rows token and token + 1: those of a stay while b's are made.
            const auto convolve = [&](int side, u32 (&y)[2][4]) {
                u32 za[4];
                ldmatrix4<false>(za, z_fragment_at(shared_address(z_of(s) + side * Z_SIDE), warp % 4 * 16, lane));
                const u32 u = u0 + (side * GROUPS_SIDE + group) * 4 * (OCT >> 4);
                const elem* xs = stage(s) + token * PITCH + side * SIDE_CH + d;
                u32 xv[2 + W - 1][4];
                load_eight(xs + W * PITCH, xv[W]);
                // Taps are made one w ahead of their use.
                float tap[2][16], acc[16];
                const auto start = [&](int w) {
                    hold(tap[w & 1]);
                    start_products();
                    start_tap(tap[w & 1], za, u0, u, w);
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
                    // Read again rather than kept through the taps: registers.
                    u32 own[4];
                    if (RESIDUAL) load_eight(xs + (W - 1 + e) * PITCH, own);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        float2 v = make_float2(acc[4 * j + 2 * e], acc[4 * j + 2 * e + 1]);
                        if (RESIDUAL) {
                            const float2 x = pair_float(own[j]);
                            v.x += x.x;
                            v.y += x.y;
                        }
                        y[e][j] = pack_bf16(v.x, v.y);
                    }
                }
            };
            u32 b[2][4];
            convolve(0, a);
            convolve(1, b);
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const i64 row = t.x + token + e;
                if (row >= t.z || d0 + d >= p.d_model) continue;
                elem* y = p.y + row * p.ldy + d0 + d;
                Vec<8, 16> o;
                float first[8], second[8];
                u32 dh[4];
                if (GRAD) load_eight(dh_of(s) + (token + e) * DY_PITCH + d, dh);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 va = pair_float(a[e][j]), vb = pair_float(b[e][j]);
                    if (GRAD) {
                        const float2 v = pair_float(dh[j]);
                        first[2 * j] = v.x * vb.x * silu_grad(va.x);
                        first[2 * j + 1] = v.y * vb.y * silu_grad(va.y);
                        second[2 * j] = v.x * silu(va.x);
                        second[2 * j + 1] = v.y * silu(va.y);
                    } else {
                        first[2 * j] = silu(va.x) * vb.x;
                        first[2 * j + 1] = silu(va.y) * vb.y;
                    }
                }
                o.set(first);
                o.store(y);
                if (GRAD) {
                    o.set(second);
                    o.store(y + p.s_y);
                }
            }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + 8 * s);
    }
}

// Low-rank short convolution, backward in one pass over x and dy:
//
//   dx[t, d] = sum_w tap[t+w, w, d] g[t+w, d] (+ g[t, d]),  P[t, w, d] = g[t, d] x[t-w, d]   (g = dy, or dy act'(pre))
//   dz[t, r] = sum_{w, d} P[t, w, d] U[r, w, d],  dU[r, w, d] = sum_t z[t, r] P[t, w, d],  dstatic_w = dU at rank R
//
// A block owns CT channels and marches over a span of 32-row tiles, x, dy and z staged in shared memory STAGES deep.
// Half of a block's warps do dx and dz of a tile, the other half, on the same channels, dU, the copies and the sums of dz.
// The tensor-core products on the CW channels of a warp:
//   dx: taps of rows t+w (z rows shifted by w), used in registers;   dz: P as A operand, packed along channels;
//   dU: P^T as A operand, packed along rows (x and g read transposed), accumulated in registers over the whole span.
// P is never rounded: a product of two bf16 is exactly two bf16 (mma.cuh). dz is added over warps in shared memory and over
// channel tiles through part_rows [tile, N, RP]; dU over spans through part_cols [span, RP, W, D] (RP + 1 ranks with static_w OUTSIDE, mma.cuh).
// Bytes per element at bf16: 6 + 4 R / D. FLOP: 6 W R (10 W R with the split) on tensor cores + 4 W.
//
// Entry point: conv_lowrank_bwd. Further defines RANK, THREADS, CW, STAGES, ALIGNED, RES_IN (dx += res: dy of a SiLU
// backward, whose g comes from conv_lowrank_fwd) and QT: rank tiles of 8 whose dz and dU this pass computes, from p.rank_tile0.
#define ROLES 2
#include "mma.cuh"

constexpr int ROWS = 32, HALO = ROWS + W - 1, MT = 2, LR = 4, LC = CW / 4;
constexpr int PITCH = CT + 16 / (int)sizeof(elem);
constexpr int HALF = THREADS / 2;  // threads of a role
constexpr int Z_LOADS = (HALO * RS + HALF - 1) / HALF;
// What registers hold without spills: all rows of g and x that a lane needs in a tile, or else each is read where it is used, one w at a
// time; and the z of the next tile while this one is computed, or else it is fetched after it, Z_AT_ONCE elements at a time.
constexpr bool KEEP_ROWS = DTYPE == 1 && W <= 4, Z_EARLY = Z_LOADS <= 16;
constexpr int UNROLL_W = KEEP_ROWS ? W : 1, Z_AT_ONCE = Z_EARLY ? Z_LOADS : 8;
constexpr int STAGE_BYTES = 2 * HALO * PITCH * (int)sizeof(elem), Z_BYTES = PARTS * ((HALO + 3) / 4 * 4) * Z_PITCH * 2;
constexpr int DZ_PITCH = QT * 8 + 4, RING = 8;

constexpr int PER = 16 / (int)sizeof(elem), VECS = CT / PER, AT_ONCE = HALF / VECS;  // copies of 16 bytes
static_assert(HALF % VECS == 0, "a thread copies one column of a tile");

// A tile in the ring of descriptors: {first row, sequence start, sequence end, sequence}; first < 0 = none.
__device__ __forceinline__ int4 describe(const Params& p, int k, int end) {
    Rows r;
    if (k >= end || !chunk_rows(p, k, ROWS, r)) return make_int4(-1, 0, 0, 0);
    return make_int4(r.row0, r.start, r.end, r.seq);
}

// x rows row0-(W-1) .. and dy rows row0 .. of one tile, HALO each, into one stage; past the sequence zeros.
__device__ __forceinline__ void load_stage(const Params& p, int4 t, int d0, elem* xs, elem* gs) {
    if (t.x < 0) return;
    const int me = threadIdx.x % HALF, v = me % VECS * PER, first = me / VECS, d = d0 + v;
    const elem* x = p.x + blockIdx.y * p.s_x;
    const elem* dy = p.dy + blockIdx.y * p.s_dy;
    if (ALIGNED && t.x - (W - 1) >= t.y && t.x + HALO <= t.z) {
        const bool valid = d < p.d_model;
        const elem *xr = valid ? x + (i64)(t.x - (W - 1) + first) * p.ldx + d : p.x, *gr = valid ? dy + (i64)(t.x + first) * p.lddy + d : p.x;
        const i64 xstep = valid ? p.ldx * AT_ONCE : 0, gstep = valid ? p.lddy * AT_ONCE : 0;
        u32 xd = shared_address(xs + first * PITCH + v), gd = shared_address(gs + first * PITCH + v);
#pragma unroll
        for (int row = 0; row < HALO; row += AT_ONCE) {
            if (row + AT_ONCE <= HALO || row + first < HALO) { copy16(xd, xr, valid); copy16(gd, gr, valid); }
            xr += xstep; gr += gstep;
            xd += AT_ONCE * PITCH * (int)sizeof(elem); gd += AT_ONCE * PITCH * (int)sizeof(elem);
        }
        return;
    }
    const Rows r = {t.x, min(ROWS, t.z - t.x), t.y, t.z, t.w};
    for (int row = first; row < HALO; row += AT_ONCE) {
        const int at = t.x + row - (W - 1);
        const elem* xr = at < t.x + r.count ? input_row(p, r, x, at) : nullptr;
        const elem* gr = t.x + row < t.z ? dy + (i64)(t.x + row) * p.lddy : nullptr;
        elem *xd = xs + row * PITCH + v, *gd = gs + row * PITCH + v;
        if (ALIGNED) {
            const bool in = d < p.d_model;
            copy16(shared_address(xd), xr && in ? xr + d : p.x, xr && in);
            copy16(shared_address(gd), gr && in ? gr + d : p.x, gr && in);
        } else {
#pragma unroll
            for (int e = 0; e < PER; e++) {
                xd[e] = xr && d + e < p.d_model ? xr[d + e] : from_float(0.f);
                gd[e] = gr && d + e < p.d_model ? gr[d + e] : from_float(0.f);
            }
        }
    }
}

// z row -> its place in shared memory: rows 4 apart, which one ldmatrix reads, lie together.
constexpr int Z_QUARTER = (HALO + 3) / 4, Z_ROWS = 4 * Z_QUARTER;
__device__ __forceinline__ int z_place(int row) { return (row & 3) * Z_QUARTER + (row >> 2); }

// Z_AT_ONCE of a thread's elements of z rows row0 .. row0+HALO-1 (rank R: 1), from the first-th; put_z stores them to shared memory.
__device__ __forceinline__ void fetch_z(const Params& p, int4 t, int first, float (&v)[Z_AT_ONCE]) {
    const elem* z = p.weight + blockIdx.y * p.s_w + (i64)t.x * p.ldw;
    const int rows = t.x < 0 ? 0 : min(HALO, t.z - t.x);
#pragma unroll
    for (int k = 0; k < Z_AT_ONCE; k++) {
        const u32 i = threadIdx.x % HALF + (first + k) * HALF, row = i / RS, r = i % RS;
        v[k] = 0.f;
        if ((int)row < rows) v[k] = r < RANK ? to_float(z[(i64)row * p.ldw + r]) : 1.f;
    }
}
__device__ __forceinline__ void put_z(const float (&v)[Z_AT_ONCE], int first, __nv_bfloat16* zs) {
#pragma unroll
    for (int k = 0; k < Z_AT_ONCE; k++) {
        const u32 i = threadIdx.x % HALF + (first + k) * HALF, row = i / RS, r = i % RS;
        if (row < HALO) store_z(zs, Z_ROWS, Z_PITCH, z_place(row), r, v[k]);
    }
}
__device__ __forceinline__ void copy_z(const Params& p, int4 t, __nv_bfloat16* zs) {
#pragma unroll 1
    for (int first = 0; first < Z_LOADS; first += Z_AT_ONCE) {
        float v[Z_AT_ONCE];
        fetch_z(p, t, first, v);
        put_z(v, first, zs);
    }
}

// The LC channels of a lane in one row, as pairs.
struct LaneRow { Pair v[LC / 2]; };
__device__ __forceinline__ LaneRow load_lane(const elem* row) {
    LaneRow a;
#if DTYPE == 1
    if constexpr (LC == 8) {
        const uint4 q = *reinterpret_cast<const uint4*>(row);
        a.v[0] = q.x; a.v[1] = q.y; a.v[2] = q.z; a.v[3] = q.w;
        return a;
    }
#endif
#pragma unroll
    for (int j = 0; j < LC / 2; j++) a.v[j] = load_pair(row + 2 * j);
    return a;
}
// COUNT rows from `lane` on, held in registers with KEEP_ROWS.
template <int COUNT> struct KeptRows {
    static constexpr int KEPT = KEEP_ROWS ? COUNT : 1;
    const elem* lane;
    LaneRow kept[KEPT];
    __device__ __forceinline__ explicit KeptRows(const elem* lane) : lane(lane) {
        if (!KEEP_ROWS) return;
#pragma unroll
        for (int j = 0; j < KEPT; j++) kept[j] = load_lane(lane + j * PITCH);
    }
    __device__ __forceinline__ LaneRow row(int j) const { return KEEP_ROWS ? kept[j % KEPT] : load_lane(lane + j * PITCH); }
};

// A operand whose rows are channels d.. and columns rows t..: pairs along rows. Matrices: (channel half, row half).
struct Transposed { Pair v[4]; };
__device__ __forceinline__ Transposed load_transposed(const elem* s, int t, int d) {
    Transposed a;
    const int lane = threadIdx.x & 31;
#if DTYPE == 1
    ldmatrix4<true>(a.v, shared_address(s + (t + (lane & 7) + (lane >> 4) * 8) * PITCH + d + ((lane >> 3) & 1) * 8));
#else
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const elem* at = s + (t + (i >> 1) * 8 + (lane & 3) * 2) * PITCH + d + (i & 1) * 8 + (lane >> 2);
        a.v[i] = make_float2(to_float(at[0]), to_float(at[PITCH]));
    }
#endif
    return a;
}

// dz of one tile, added over warps in order.
__device__ __forceinline__ void sum_dz(const Params& p, int4 t, int tile, const float* buf) {
    if (t.x < 0) return;
    for (int i = threadIdx.x % HALF; i < ROWS * QT * 4; i += HALF) {
        const int row = i / (QT * 4), r = i % (QT * 4) * 2, rank = p.rank_tile0 * 8 + r;
        if (row >= t.z - t.x || rank >= RP) continue;
        float2 sum = make_float2(0.f, 0.f);
#pragma unroll
        for (int m = 0; m < GROUPS; m++) {
            const float2 v = *reinterpret_cast<const float2*>(buf + (m * ROWS + row) * DZ_PITCH + r);
            sum.x += v.x; sum.y += v.y;
        }
        *reinterpret_cast<float2*>(p.part_rows + blockIdx.y * p.s_rows + ((i64)tile * p.rows + t.x + row) * RP + rank) = sum;
    }
}

// dx, and this warp's share of dz, of one tile. d: the lane's first channel; dw0: the warp's first within the block.
__device__ __forceinline__ void input_side(const Params& p, int4 t, int d0, int dw0, const elem* xs, const elem* gs, u32 zs, u32 u_base, float* dz_out) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3, d = d0 + dw0 + c * LC, q0 = p.rank_tile0;
    const int count = min(ROWS, t.z - t.x);
    elem* dx = p.y + blockIdx.y * p.s_y;
    const elem *g_lane = gs + g * LR * PITCH + dw0 + c * LC, *x_lane = xs + g * LR * PITCH + dw0 + c * LC;
    // dx.
    if (p.write_dx) {
        elem* dst = dx + (i64)(t.x + g * LR) * p.ldy + d;
        const bool whole = count == ROWS && d0 + CT <= p.d_model;
#pragma unroll 1  // both at once take more registers than there are
        for (int i = 0; i < MT; i++) {
            const KeptRows<W + 1> gv(g_lane + 2 * i * PITCH);
            float acc[NT][4];
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float2 v = pair_float(gv.row(e).v[j]);
                    acc[j][2 * e] = RESIDUAL && !RES_IN ? v.x : 0.f;
                    acc[j][2 * e + 1] = RESIDUAL && !RES_IN ? v.y : 0.f;
                }
#pragma unroll(UNROLL_W)
            for (int w = 0; w < W; w++) {
                const auto z_of = [&](int k, int q, u32 (&a)[4]) {
                    ldmatrix4<false>(a, zs + ((q * Z_ROWS + z_place((lane & 7) * LR + 2 * i + ((lane >> 3) & 1) + w)) * Z_PITCH + k * 16 + (2 * k + 1 < RT ? (lane >> 4) * 8 : 0)) * 2);
                };
                float tap[NT][4];
                taps<NT>(tap, z_of, u_base, w);
                const LaneRow gw[2] = {gv.row(w), gv.row(1 + w)};
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const float2 v = pair_float(gw[e].v[j]);
                        acc[j][2 * e] = fmaf(tap[j][2 * e], v.x, acc[j][2 * e]);
                        acc[j][2 * e + 1] = fmaf(tap[j][2 * e + 1], v.y, acc[j][2 * e + 1]);
                    }
            }
#pragma unroll
            for (int e = 0; e < 2; e++, dst += p.ldy) {
                const int row = g * LR + 2 * i + e;
                if (!whole && (row >= count || d >= p.d_model)) continue;
                float out[LC];
#pragma unroll
                for (int j = 0; j < NT; j++) { out[2 * j] = acc[j][2 * e]; out[2 * j + 1] = acc[j][2 * e + 1]; }
                if (RES_IN) {
                    const elem* res = p.res + blockIdx.y * p.s_res + (i64)(t.x + row) * p.ldres + d;
#pragma unroll
                    for (int q = 0; q < LC; q++) if (d + q < p.d_model) out[q] += to_float(res[q]);
                }
                Vec<LC, ALIGNED ? 16 : (int)sizeof(elem)> o;
                o.set(out);
                if (ALIGNED) o.store(dst);
                else {
#pragma unroll
                    for (int q = 0; q < LC; q++) if (d + q < p.d_model) dst[q] = o.e[q];
                }
            }
        }
    }

    // dz: A = P (rows g*LR+2i, +1; 16 channels of column tiles 2m, 2m+1), B = U along channels.
    {
        float dz[MT][QT][4];
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < QT; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) dz[i][n][e] = 0.f;
        const KeptRows<LR> gv(g_lane);
        const KeptRows<LR + W - 1> xv(x_lane);
#pragma unroll(UNROLL_W)
        for (int w = 0; w < W; w++) {
            LaneRow gw[LR], xw[LR];
#pragma unroll
            for (int j = 0; j < LR; j++) { gw[j] = gv.row(j); xw[j] = xv.row(W - 1 + j - w); }
#pragma unroll
            for (int m = 0; m < NT / 2; m++) {
                u32 ub[PARTS][QT][2];
#pragma unroll
                for (int q = 0; q < PARTS; q++)
#pragma unroll
                    for (int n = 0; n < QT; n++)
                        ldmatrix2<false>(ub[q][n], u_base + ((q * U_ROWS + w * RP + min(q0 + n, RT - 1) * 8 + (lane & 7)) * U_PITCH + (2 * m + ((lane >> 3) & 1)) * 8) * 2);
                u32 pa[PROD][MT][4];
#pragma unroll
                for (int i = 0; i < MT; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        u32 part[PROD];
                        pair_product(factor(gw[2 * i + (e & 1)].v[2 * m + (e >> 1)]), xw[2 * i + (e & 1)].v[2 * m + (e >> 1)], part);
#pragma unroll
                        for (int a = 0; a < PROD; a++) pa[a][i][e] = part[a];
                    }
                // Products of one part side by side: none waits for the one before.
#pragma unroll
                for (int a = 0; a < PROD; a++)
#pragma unroll
                    for (int b = 0; b < PARTS && a + b < PROD; b++)
#pragma unroll
                        for (int i = 0; i < MT; i++)
#pragma unroll
                            for (int n = 0; n < QT; n++) mma16(dz[i][n], pa[a][i], turned(a, ub[b][n][0]), turned(a, ub[b][n][1]));
            }
        }
        float* out = dz_out;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < QT; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    *reinterpret_cast<float2*>(out + (g * LR + 2 * i + e) * DZ_PITCH + n * 8 + 2 * c) = make_float2(dz[i][n][2 * e], dz[i][n][2 * e + 1]);
    }
}

// This warp's share of dU, from one tile.
__device__ __forceinline__ void filter_side(const Params& p, int dw0, const elem* xs, const elem* gs, u32 zs, float (&du)[CW / 16][W][QT][4], float (&dstatic)[CW / 16][4]) {
    const int lane = threadIdx.x & 31, q0 = p.rank_tile0;
#pragma unroll 1  // unrolled, its loads are moved ahead of registers
    for (int kt = 0; kt < ROWS / 16; kt++) {
        u32 zb[PARTS][QT][2];
#pragma unroll
        for (int q = 0; q < PARTS; q++)
#pragma unroll
            for (int n = 0; n < QT; n++)
                ldmatrix2<true>(zb[q][n], zs + ((q * Z_ROWS + z_place(kt * 16 + (lane & 15))) * Z_PITCH + min(q0 + n, RT - 1) * 8) * 2);
#pragma unroll
        for (int i = 0; i < CW / 16; i++) {
            // Rows past the end: g of the halo rows belongs to the next tile, which is why only rows < ROWS enter here.
            const Transposed ga = load_transposed(gs, kt * 16, dw0 + i * 16);
#pragma unroll
            for (int w = 0; w < W; w++) {
                const Transposed xa = load_transposed(xs, kt * 16 + W - 1 - w, dw0 + i * 16);
                u32 pa[PROD][4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    u32 part[PROD];
                    pair_product(factor(ga.v[e]), xa.v[e], part);
#pragma unroll
                    for (int a = 0; a < PROD; a++) pa[a][e] = part[a];
                }
                // The tensor cores truncate as they add: in f32 a tile is summed apart and added rounded.
                float apart[QT][4];
#pragma unroll
                for (int n = 0; n < QT; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) apart[n][e] = DTYPE == 0 ? 0.f : du[i][w][n][e];
#pragma unroll
                for (int a = 0; a < PROD; a++)
#pragma unroll
                    for (int b = 0; b < PARTS && a + b < PROD; b++)
#pragma unroll
                        for (int n = 0; n < QT; n++) mma16(apart[n], pa[a], turned(a, zb[b][n][0]), turned(a, zb[b][n][1]));
#pragma unroll
                for (int n = 0; n < QT; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) du[i][w][n][e] = DTYPE == 0 ? du[i][w][n][e] + apart[n][e] : apart[n][e];
                if (OUTSIDE) {
                    // The sum of P over rows, into column w.
                    const u32 ones = afresh(lane) >> 2 == w ? 0x3f803f80u : 0;
                    float sum[4];
#pragma unroll
                    for (int e = 0; e < 4; e++) sum[e] = DTYPE == 0 ? 0.f : dstatic[i][e];
#pragma unroll
                    for (int a = 0; a < PROD; a++) mma16(sum, pa[a], turned(a, ones), turned(a, ones));
#pragma unroll
                    for (int e = 0; e < 4; e++) dstatic[i][e] = DTYPE == 0 ? dstatic[i][e] + sum[e] : sum[e];
                }
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv_lowrank_bwd(const __grid_constant__ Params p) {
    extern __shared__ __align__(16) unsigned char smem[];
    __shared__ int4 ring[RING];
    __nv_bfloat16* us = reinterpret_cast<__nv_bfloat16*>(smem);
    unsigned char* stages = smem + PARTS * U_ROWS * U_PITCH * 2;
    __nv_bfloat16* zbuf = reinterpret_cast<__nv_bfloat16*>(stages + STAGES * STAGE_BYTES);
    float* dzbuf = reinterpret_cast<float*>(reinterpret_cast<unsigned char*>(zbuf) + 2 * Z_BYTES);
    constexpr int DZ_TILE = GROUPS * ROWS * DZ_PITCH;

    const int tile = blockIdx.x % p.col_tiles, span = blockIdx.x / p.col_tiles, q0 = p.rank_tile0;
    const int d0 = tile * CT, group = threadIdx.x % HALF / 32, dw0 = group * CW;
    const int first = (int)((i64)p.chunks * span / p.spans), last = (int)((i64)p.chunks * (span + 1) / p.spans);
    auto stage_x = [&](int k) { return reinterpret_cast<elem*>(stages + k * STAGE_BYTES); };

    // Ranks past RS must be zero.
    for (int i = threadIdx.x; i < 2 * Z_BYTES / 4; i += THREADS) reinterpret_cast<u32*>(zbuf)[i] = 0;
    for (int k = threadIdx.x; k < STAGES; k += THREADS) ring[k] = describe(p, first + k, last);
    __syncthreads();
    const bool copies = threadIdx.x >= HALF;
    if (copies) {
#pragma unroll
        for (int s = 0; s < STAGES - 1; s++) {
            load_stage(p, ring[s], d0, stage_x(s), stage_x(s) + HALO * PITCH);
            copy_commit();
        }
        copy_z(p, ring[0], zbuf);
    }
    fill_u(p, d0, us);

    if (!copies) {
        const u32 u_base = shared_address(us) + dw0 * 2;
        for (int k = 0, s = 0; k < last - first; k++, s = s + 1 == STAGES ? 0 : s + 1) {
            __syncthreads();
            const int4 t = ring[k % RING];
            const int odd = k & 1;
            if (t.x >= 0)
                input_side(p, t, d0, dw0, stage_x(s), stage_x(s) + HALO * PITCH, shared_address(zbuf) + odd * Z_BYTES, u_base, dzbuf + odd * DZ_TILE + group * ROWS * DZ_PITCH);
        }
        __syncthreads();
        return;
    }

    float du[CW / 16][W][QT][4];
#pragma unroll
    for (int i = 0; i < CW / 16; i++)
#pragma unroll
        for (int w = 0; w < W; w++)
#pragma unroll
            for (int n = 0; n < QT; n++)
#pragma unroll
                for (int k = 0; k < 4; k++) du[i][w][n][k] = 0.f;
    float dstatic[CW / 16][4];
#pragma unroll
    for (int i = 0; i < CW / 16; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) dstatic[i][k] = 0.f;
    for (int k = 0, s = 0; k < last - first; k++, s = s + 1 == STAGES ? 0 : s + 1) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        const int4 t = ring[k % RING];
        const int ahead = s == 0 ? STAGES - 1 : s - 1, odd = k & 1;
        float zv[Z_AT_ONCE];
        if (Z_EARLY) fetch_z(p, ring[(k + 1) % RING], 0, zv);
        load_stage(p, ring[(k + STAGES - 1) % RING], d0, stage_x(ahead), stage_x(ahead) + HALO * PITCH);
        copy_commit();
        if (threadIdx.x == HALF) ring[(k + STAGES) % RING] = describe(p, first + k + STAGES, last);
        if (k) sum_dz(p, ring[(k - 1) % RING], tile, dzbuf + (odd ^ 1) * DZ_TILE);
        if (t.x >= 0) filter_side(p, dw0, stage_x(s), stage_x(s) + HALO * PITCH, shared_address(zbuf) + odd * Z_BYTES, du, dstatic);
        if (Z_EARLY) put_z(zv, 0, zbuf + (odd ^ 1) * Z_BYTES / 2);
        else copy_z(p, ring[(k + 1) % RING], zbuf + (odd ^ 1) * Z_BYTES / 2);
    }
    __syncthreads();
    if (last > first) sum_dz(p, ring[(last - first - 1) % RING], tile, dzbuf + ((last - first - 1) & 1) * DZ_TILE);

    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3;
    // dU of this span, made afresh (a register kept for it all along is spilled): lane holds channels g, g+8 and ranks 2c, 2c+1 of each tile.
    float* out = p.part_cols + blockIdx.y * p.s_cols + (i64)(afresh((int)blockIdx.x) / p.col_tiles) * (RP + OUTSIDE) * W * p.d_model;
#pragma unroll
    for (int i = 0; i < CW / 16; i++)
#pragma unroll
        for (int w = 0; w < W; w++)
#pragma unroll
            for (int n = 0; n < QT; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int ch = d0 + dw0 + i * 16 + g + (e >> 1) * 8, r = (q0 + n) * 8 + 2 * c + (e & 1);
                    if (ch < p.d_model && r < RP) out[((i64)r * W + w) * p.d_model + ch] = du[i][w][n][e];
                }
    // dstatic_w likewise, w in place of ranks.
    if (OUTSIDE && q0 == 0)
#pragma unroll
        for (int i = 0; i < CW / 16; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int ch = d0 + dw0 + i * 16 + g + (e >> 1) * 8, w = 2 * c + (e & 1);
                if (ch < p.d_model && w < W) out[((i64)RP * W + w) * p.d_model + ch] = dstatic[i][e];
            }
}

// Low-rank short convolution, forward: y[t, d] = act(sum_w (sum_r z[t, r] U[r, w, d] + static_w[w, d]) x[t-w, d]) (+ x[t, d]).
//
// The taps of 16 rows x 8 channels x one w are one tensor-core product over r, left in fp32 registers and used where they are.
// A warp owns CW channels and marches over the rows of a chunk in steps of 32, its x rows copied two steps ahead into a ring of its own; a lane owns 4
// neighbouring rows of a step and CW/4 neighbouring channels, so that its inputs x[t-w] are its own registers. Bytes per element at bf16:
// 4 + 2 R / D; FLOP: 2 W R (tensor cores) + 2 W.
//
// Entry point: conv_lowrank_fwd. GRAD = 1: writes dy act'(pre) instead (the first pass of a SiLU backward).
// grid.x = column tiles x chunks, grid.y = streams; further defines RANK, THREADS, CW, CHUNK, ALIGNED and Z_ALIGNED (16-byte rows).
#include "mma.cuh"

constexpr int STEP = 32, MT = 2, LR = 4, LC = CW / 4, SLOTS = 3;  // rows of a step, m-tiles, rows and channels of a lane
constexpr int PER = 16 / (int)sizeof(elem), VECS = CW / PER;         // 16-byte copies in a row of a warp
constexpr int X_PITCH = CW + PER, ZF_PITCH = RP;
typedef Vec<LC, ALIGNED ? 16 : (int)sizeof(elem)> LVec;
static_assert(W - 1 <= STEP, "the rows before a step are in the step before");

// z row -> its place in shared memory: the rows that one ldmatrix reads lie together.
__device__ __forceinline__ int z_place(int row) { return (row & ~31) + (row & 3) * 8 + ((row >> 2) & 7); }

// Rows from .. from+n-1 of the chunk (negative: before it) into ring places (from + SLOTS*STEP) % (SLOTS*STEP) ..
__device__ __forceinline__ void load_x(const Params& p, const Rows& r, const elem* x, int d0, elem* ring, int from, int n) {
    const int lane = threadIdx.x & 31, v = lane % VECS * PER, d = d0 + v;
    if (ALIGNED && n == STEP && from >= 0 && from + STEP <= r.count && d0 + CW <= p.d_model) {
        constexpr int AT_ONCE = 32 / VECS;
        const elem* src = x + (i64)(r.row0 + from + lane / VECS) * p.ldx + d;
        u32 dst = shared_address(ring + (from % (SLOTS * STEP) + lane / VECS) * X_PITCH + v);
#pragma unroll
        for (int k = 0; k < STEP; k += AT_ONCE) {
            copy16(dst, src, true);
            src += AT_ONCE * p.ldx;
            dst += AT_ONCE * X_PITCH * (int)sizeof(elem);
        }
        return;
    }
    for (int k = lane / VECS; k < n; k += 32 / VECS) {
        const int row = from + k, place = (row + SLOTS * STEP) % (SLOTS * STEP);
        const elem* src = row < r.count ? input_row(p, r, x, r.row0 + row) : nullptr;
        elem* dst = ring + place * X_PITCH + v;
        if (ALIGNED) {
            const bool valid = src && d < p.d_model;
            copy16(shared_address(dst), valid ? src + d : p.x, valid);
        } else {
#pragma unroll
            for (int e = 0; e < PER; e++) dst[e] = src && d + e < p.d_model ? src[d + e] : from_float(0.f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv_lowrank_fwd(const __grid_constant__ Params p) {
    extern __shared__ __align__(16) unsigned char smem[];
    __nv_bfloat16* us = reinterpret_cast<__nv_bfloat16*>(smem);
    __nv_bfloat16* zs = us + PARTS * U_ROWS * U_PITCH;
    const int tile = blockIdx.x % p.col_tiles, lane = threadIdx.x & 31, warp = threadIdx.x / 32, g = lane >> 2, c = lane & 3;
    elem* ring = reinterpret_cast<elem*>(zs + PARTS * CHUNK * ZF_PITCH) + warp * SLOTS * STEP * X_PITCH;
    Rows r;
    if (!chunk_rows(p, blockIdx.x / p.col_tiles, CHUNK, r)) return;
    const int d0 = tile * CT, d = d0 + warp * CW + c * LC;
    const elem* x = p.x + blockIdx.y * p.s_x;
    const elem* z = p.weight + blockIdx.y * p.s_w;
    const elem* dy = GRAD ? p.dy + blockIdx.y * p.s_dy : nullptr;

    load_x(p, r, x, d0 + warp * CW, ring, -(W - 1), W - 1);
    load_x(p, r, x, d0 + warp * CW, ring, 0, STEP);
    copy_commit();
    load_x(p, r, x, d0 + warp * CW, ring, STEP, STEP);
    copy_commit();
    fill_u(p, d0, us);
    // Elements of z one by one, or 8 at a time where rows are aligned and need no conversion.
    constexpr int Z_PER = Z_ALIGNED && DTYPE == 1 && RANK % 8 == 0 ? 8 : 1, Z_COLS = RP / Z_PER, Z_BATCH = Z_PER == 8 ? 4 : 16;
    for (u32 from = threadIdx.x; from < CHUNK * Z_COLS; from += THREADS * Z_BATCH) {
        Vec<Z_PER, Z_PER * (int)sizeof(elem)> v[Z_BATCH];
#pragma unroll
        for (int q = 0; q < Z_BATCH; q++) {
            const u32 i = from + q * THREADS, row = i / Z_COLS, k = i % Z_COLS * Z_PER;
            v[q].zero();
            if (STATIC && k == RANK) v[q].e[0] = from_float(1.f);
            if ((int)row < r.count && k < RANK) v[q].load(z + (i64)(r.row0 + row) * p.ldw + k);
        }
#pragma unroll
        for (int q = 0; q < Z_BATCH; q++) {
            const u32 i = from + q * THREADS, row = i / Z_COLS, k = i % Z_COLS * Z_PER;
            if (i >= CHUNK * Z_COLS) break;
            if constexpr (Z_PER == 8) *reinterpret_cast<uint4*>(zs + z_place(row) * ZF_PITCH + k) = *reinterpret_cast<const uint4*>(v[q].e);
            else store_z(zs, CHUNK, ZF_PITCH, z_place(row), k, to_float(v[q].e[0]));
        }
    }
    __syncthreads();

    const u32 us_at = shared_address(us) + warp * CW * 2;
    for (int t = 0, slot = 0; t < r.count; t += STEP, slot = slot + 1 == SLOTS ? 0 : slot + 1) {
        copy_wait<1>();
        __syncwarp();
        LVec xv[W - 1 + LR];
#pragma unroll
        for (int j = 0; j < W - 1 + LR; j++) {
            int place = slot * STEP + g * LR + j - (W - 1);
            if (j < W - 1 && place < 0) place += SLOTS * STEP;
            xv[j].get(ring + place * X_PITCH + c * LC);
        }
        __syncwarp();
        if (t + 2 * STEP < r.count) load_x(p, r, x, d0 + warp * CW, ring, t + 2 * STEP, STEP);
        copy_commit();
        const bool whole = t + STEP <= r.count && d0 + CT <= p.d_model;
#pragma unroll 1  // both at once take more registers than two blocks a multiprocessor leave
        for (int i = 0; i < MT; i++) {
            elem* dst = p.y + blockIdx.y * p.s_y + (i64)(r.row0 + t + afresh(g * LR + 2 * i)) * p.ldy + d;
            // Rows of m-tile i: g is row g*LR + 2i, g+8 the next.
            const auto load_z = [&](int k, int q, u32 (&a)[4]) {
                const int place = t + (2 * i + ((lane >> 3) & 1)) * 8 + (lane & 7);
                ldmatrix4<false>(a, shared_address(zs) + ((q * CHUNK + place) * ZF_PITCH + k * 16 + (2 * k + 1 < RT ? (lane >> 4) * 8 : 0)) * 2);
            };
            constexpr int KEPT = MANY_RANKS ? 1 : (RT + 1) / 2;
            u32 za[KEPT][PARTS][4];
            if (!MANY_RANKS)
#pragma unroll
                for (int k = 0; k < KEPT; k++)
#pragma unroll
                    for (int q = 0; q < PARTS; q++) load_z(k, q, za[k][q]);
            const auto z_of = [&](int k, int q, u32 (&a)[4]) {
                if (MANY_RANKS) load_z(k, q, a);
                else
#pragma unroll
                    for (int e = 0; e < 4; e++) a[e] = za[k % KEPT][q][e];
            };
            float acc[NT][4];
#pragma unroll
            for (int j = 0; j < NT; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) acc[j][k] = 0.f;
#pragma unroll
            for (int w = 0; w < W; w++) {
                float tap[NT][4];
                taps<NT>(tap, z_of, us_at, w);
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        acc[j][k] = fmaf(tap[j][k], to_float(xv[W - 1 + k / 2 - w].e[2 * j + (k & 1)]), acc[j][k]);
            }
#pragma unroll
            for (int e = 0; e < 2; e++, dst += p.ldy) {
                const int row = t + g * LR + 2 * i + e;
                if (!whole && (row >= r.count || d >= p.d_model)) continue;
                const i64 at = r.row0 + row;
                float out[LC];
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int k = 0; k < 2; k++) {
                        float v = acc[j][2 * e + k];
                        if (GRAD) {
                            const int dd = d + 2 * j + k;
                            v = dd < p.d_model ? to_float(dy[at * p.lddy + dd]) * silu_grad(v) : 0.f;
                        } else {
                            if (SILU) v = silu(v);
                            if (RESIDUAL) v += to_float(xv[W - 1 + e].e[2 * j + k]);
                        }
                        out[2 * j + k] = v;
                    }
                LVec o; o.set(out);
                if (ALIGNED) o.store(dst);
                else {
#pragma unroll
                    for (int k = 0; k < LC; k++) if (d + k < p.d_model) dst[k] = o.e[k];
                }
            }
#pragma unroll
            for (int j = 0; j < W + 1; j++) xv[j] = xv[j + 2];
        }
    }
}

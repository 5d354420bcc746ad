// Head-wise (HEADWISE = 1) and static (HEADWISE = 0) short convolution, forward and backward.
//
//   pre[t, d] = sum_w tap[t, w, d] x[t-w, d],  tap = weight[t, d / head_size, w] + static_w[w, d],  y = act(pre) (+ x)
//   g = dy act'(pre);  dx[t] = sum_w tap[t+w, w] g[t+w] (+ dy);  dweight[t, h, w] = sum_{d in h} g[t, d] x[t-w, d]
//   dstatic_w[w, d] = sum_t g[t, d] x[t-w, d]
//
// A thread owns VEC neighbouring channels and marches over the rows of one chunk, TPT rows a step, the W-1 rows before
// them in registers. Bytes per element at W = 4, bf16: forward 4 + 8/head_size, backward 6 + 16/head_size; 8 and 16 FLOP.
// Entry point: conv_fwd; with BACKWARD = 1 conv_bwd_tile if CHUNK = TPT, else conv_bwd. blockDim = (lanes, chunks);
// grid.x = column tiles x groups of chunks; grid.y = streams.
//
// Further defines: VEC, TPT, CHUNK, NH = heads per thread, LPH = threads per head, W_ALIGN = bytes, and HEAD_SUM:
//   0 = head within a thread, 1 = by shuffles (LPH a power of two <= 32), 2 = through shared memory (one chunk per block).
#include "common.cuh"

typedef Vec<VEC, 16> XVec;
typedef Vec<NH * W, W_ALIGN> WVec;

struct Thread {
    int d, head, chunk;
    bool active;
    Rows r;
    const elem *x, *weight;
    float sw[STATIC ? W : 1][VEC];
};

__device__ __forceinline__ void setup(const Params& p, Thread& th) {
    const int tile = blockIdx.x % p.col_tiles, group = blockIdx.x / p.col_tiles;
    th.chunk = group * blockDim.y + threadIdx.y;
#if HEADWISE && HEAD_SUM == 2
    // Tiles do not straddle heads larger than themselves.
    const int per_head = p.col_tiles / p.heads;
    if (per_head > 1) {
        const int in_head = (tile % per_head * blockDim.x + threadIdx.x) * VEC;
        th.head = tile / per_head;
        th.d = th.head * p.head_size + in_head;
        th.active = in_head < p.head_size;
    } else
#endif
    {
        th.d = (tile * blockDim.x + threadIdx.x) * VEC;
        th.head = HEADWISE ? th.d / p.head_size : 0;
        th.active = th.d < p.d_model;
    }
    if (!chunk_rows(p, th.chunk, CHUNK, th.r)) { th.active = false; th.r.count = 0; th.r.row0 = th.r.start = th.r.end = th.r.seq = 0; }
    th.x = p.x + blockIdx.y * p.s_x + th.d;
    th.weight = p.weight + blockIdx.y * p.s_w + (i64)th.head * W;
#if STATIC
#pragma unroll
    for (int w = 0; w < W; w++) {
        XVec v; v.zero();
        if (th.active) v.load(p.static_w + blockIdx.y * p.s_static + (i64)w * p.d_model + th.d);
#pragma unroll
        for (int i = 0; i < VEC; i++) th.sw[w][i] = to_float(v.e[i]);
    }
#endif
}

__device__ __forceinline__ void load_halo(const Params& p, const Thread& th, XVec* xv) {
#pragma unroll
    for (int k = 0; k < W - 1; k++) {
        const elem* row = th.active ? input_row(p, th.r, th.x - th.d, th.r.row0 - (W - 1) + k) : nullptr;
        if (row) xv[k].load(row + th.d); else xv[k].zero();
    }
}
// Whether a chunk and its halo lie inside the sequence and have all their rows.
__device__ __forceinline__ bool inside(const Thread& th, int rows) {
    return th.active && th.r.row0 - (W - 1) >= th.r.start && th.r.row0 + rows <= th.r.end;
}

__device__ __forceinline__ float tap(const Thread& th, const WVec& wv, int w, int i) {
    float v = 0.f;
#if HEADWISE
    v = to_float(wv.e[(NH == 1 ? 0 : i * NH / VEC) * W + w]);
#endif
#if STATIC
    v += th.sw[w][i];
#endif
    return v;
}

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

#if !BACKWARD
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv_fwd(const __grid_constant__ Params p) {
    Thread th;
    setup(p, th);
    if (!th.active) return;
    elem* y = p.y + blockIdx.y * p.s_y + th.d + (i64)th.r.row0 * p.ldy;
    const elem *x = th.x + (i64)th.r.row0 * p.ldx, *weight = th.weight + (i64)th.r.row0 * p.ldw;
    XVec xv[W - 1 + TPT], nx[TPT];
    WVec nw[TPT];
    // Rows t .. t+TPT-1; FULL: all of them are there.
    auto fetch = [&](auto full, int t) {
#pragma unroll
        for (int j = 0; j < TPT; j++) {
            if (full.value || t + j < th.r.count) {
                nx[j].load(x);
                if (HEADWISE) nw[j].load(weight);
            } else { nx[j].zero(); nw[j].zero(); }
            x += p.ldx;
            weight += p.ldw;
        }
    };
    auto fetch_any = [&](int t) { if (t + TPT <= th.r.count) fetch(Yes{}, t); else fetch(No{}, t); };
    auto step = [&](auto full, int t) {
        WVec wv[TPT];
#pragma unroll
        for (int j = 0; j < TPT; j++) { xv[W - 1 + j] = nx[j]; wv[j] = nw[j]; }
        if (PREFETCH && t + TPT < th.r.count) fetch_any(t + TPT);
#pragma unroll
        for (int j = 0; j < TPT; j++) {
            float out[VEC];
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                float pre = 0.f;
#pragma unroll
                for (int w = 0; w < W; w++) pre = fmaf(tap(th, wv[j], w, i), to_float(xv[W - 1 + j - w].e[i]), pre);
                if (SILU) pre = silu(pre);
                if (RESIDUAL) pre += to_float(xv[W - 1 + j].e[i]);
                out[i] = pre;
            }
            if (full.value || t + j < th.r.count) {
                XVec o; o.set(out);
                o.store(y);
            }
            y += p.ldy;
        }
#pragma unroll
        for (int k = 0; k < W - 1; k++) xv[k] = xv[k + TPT];
    };
    fetch_any(0);
    load_halo(p, th, xv);
    for (int t = 0; t < th.r.count; t += TPT) {
        if (!PREFETCH && t) fetch_any(t);
        if (t + TPT <= th.r.count) step(Yes{}, t); else step(No{}, t);
    }
}
#else

// Sums part[j][*][w] over the threads of a head and stores dweight (or its partial sum) for rows t..t+TPT-1.
template <bool FULL> __device__ __forceinline__ void store_dweight(const Params& p, const Thread& th, int t, float (&part)[TPT][NH][W], float* shared) {
    elem* dw = p.dweight + blockIdx.y * p.s_dw + (i64)th.head * W;
#if HEAD_SUM == 2
    float* mine = shared + threadIdx.x;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < TPT; j++)
#pragma unroll
        for (int w = 0; w < W; w++) mine[(j * W + w) * blockDim.x] = th.active ? part[j][0][w] : 0.f;
    __syncthreads();
    const int tile = blockIdx.x % p.col_tiles, per_head = p.col_tiles / p.heads > 1 ? p.col_tiles / p.heads : 1;
    const int lanes = min(LPH, (int)blockDim.x), heads = blockDim.x / lanes;
    for (int o = threadIdx.x; o < heads * TPT * W; o += blockDim.x) {
        const int w = o % W, h = o / W % heads, j = o / (W * heads);
        const int head = per_head > 1 ? tile / per_head : tile * heads + h;
        if (head >= p.heads || t + j >= th.r.count) continue;
        float sum = 0.f;
        for (int l = 0; l < lanes; l++) sum += shared[(j * W + w) * blockDim.x + h * lanes + l];
        const i64 row = th.r.row0 + t + j;
        if (per_head > 1)
            p.part_rows[blockIdx.y * p.s_rows + ((i64)(tile % per_head) * p.rows + row) * p.heads * W + (i64)head * W + w] = sum;
        else p.dweight[blockIdx.y * p.s_dw + row * p.lddw + (i64)head * W + w] = from_float(sum);
    }
#elif HEAD_SUM == 1
    // Halve the rows a thread keeps while there are two of them, then add whole.
    const int lane = threadIdx.y * blockDim.x + threadIdx.x & 31;
    const u32 mask = LPH == 32 ? 0xffffffffu : ((1u << (LPH & 31)) - 1) << (lane & ~(LPH - 1));
    int first = 0, step = 1;
    constexpr int STEPS = LPH == 2 ? 1 : LPH == 4 ? 2 : LPH == 8 ? 3 : LPH == 16 ? 4 : 5;
    int kept = TPT;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        const bool upper = lane & step;
        if (kept > 1) {
            kept /= 2;
#pragma unroll
            for (int j = 0; j < TPT / 2; j++) if (j < kept)
#pragma unroll
                for (int w = 0; w < W; w++) {
                    const float send = upper ? part[j][0][w] : part[j + kept][0][w], keep = upper ? part[j + kept][0][w] : part[j][0][w];
                    part[j][0][w] = keep + __shfl_xor_sync(mask, send, step);
                }
            if (upper) first += kept;
        } else {
#pragma unroll
            for (int w = 0; w < W; w++) part[0][0][w] += __shfl_xor_sync(mask, part[0][0][w], step);
        }
        step *= 2;
    }
    constexpr int KEPT = TPT / LPH > 1 ? TPT / LPH : 1;
    if (th.active && (lane & (LPH - 1)) < (TPT < LPH ? TPT : LPH))
#pragma unroll
        for (int j = 0; j < KEPT; j++) if (FULL || t + first + j < th.r.count) {
            WVec o; o.set(&part[j][0][0]);
            o.store(dw + (i64)(th.r.row0 + t + first + j) * p.lddw);
        }
#else
#pragma unroll
    for (int j = 0; j < TPT; j++) if (FULL || (th.active && t + j < th.r.count)) {
        WVec o; o.set(&part[j][0][0]);
        o.store(dw + (i64)(th.r.row0 + t + j) * p.lddw);
    }
#endif
}

#if CHUNK == TPT
template <bool FULL> __device__ __forceinline__ void bwd_tile(const Params& p, const Thread& th, float* shared) {
    constexpr int REACH = TPT + W - 1, OWN = SILU ? REACH : TPT;
    XVec xv[W - 1 + OWN], gv[REACH];
    WVec wv[REACH];
    const int n = th.r.count, reach = th.active ? min(n + W - 1, th.r.end - th.r.row0) : 0;
    const elem *x = th.x + (i64)th.r.row0 * p.ldx, *weight = th.weight + (i64)th.r.row0 * p.ldw;
    const elem* dy = p.dy + blockIdx.y * p.s_dy + th.d + (i64)th.r.row0 * p.lddy;
    elem* dx = p.y + blockIdx.y * p.s_y + th.d + (i64)th.r.row0 * p.ldy;
    if (FULL) {
        const elem* before = x - (W - 1) * p.ldx;
#pragma unroll
        for (int k = 0; k < W - 1; k++, before += p.ldx) xv[k].load(before);
    } else load_halo(p, th, xv);
#pragma unroll
    for (int j = 0; j < REACH; j++) {
        const bool there = FULL || j < reach;
        if (there) gv[j].load(dy); else gv[j].zero();
        if (HEADWISE && there) wv[j].load(weight); else wv[j].zero();
        if (j < OWN) { if (there) xv[W - 1 + j].load(x); else xv[W - 1 + j].zero(); }
        dy += p.lddy; weight += p.ldw; x += p.ldx;
    }
    float part[TPT][NH][W];
#pragma unroll
    for (int j = 0; j < TPT; j++)
#pragma unroll
        for (int h = 0; h < NH; h++)
#pragma unroll
            for (int w = 0; w < W; w++) part[j][h][w] = 0.f;
    float out[TPT][VEC];
#pragma unroll
    for (int j = 0; j < TPT; j++)
#pragma unroll
        for (int i = 0; i < VEC; i++) out[j][i] = RESIDUAL ? to_float(gv[j].e[i]) : 0.f;
#pragma unroll
    for (int j = 0; j < REACH; j++) {
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float g = to_float(gv[j].e[i]);
            if (SILU) {
                float pre = 0.f;
#pragma unroll
                for (int w = 0; w < W; w++) pre = fmaf(tap(th, wv[j], w, i), to_float(xv[(W - 1 + j - w) % (W - 1 + OWN)].e[i]), pre);
                g *= silu_grad(pre);
            }
#pragma unroll
            for (int w = 0; w < W; w++) {
                if (j - w >= 0 && j - w < TPT) out[(j - w + TPT) % TPT][i] = fmaf(tap(th, wv[j], w, i), g, out[(j - w + TPT) % TPT][i]);
                if (HEADWISE && j < TPT) { float& s = part[j % TPT][NH == 1 ? 0 : i * NH / VEC][w]; s = fmaf(g, to_float(xv[(W - 1 + j - w) % (W - 1 + OWN)].e[i]), s); }
            }
        }
        if (j >= W - 1) {
            if (FULL || (th.active && j - (W - 1) < n)) {
                XVec o; o.set(out[(j - (W - 1)) % TPT]);
                o.store(dx);
            }
            dx += p.ldy;
        }
    }
    if (HEADWISE) store_dweight<FULL>(p, th, 0, part, shared);
}

// Without static_w: the TPT rows of a chunk at once, all loads before the first use (CHUNK = TPT).
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv_bwd_tile(const __grid_constant__ Params p) {
    extern __shared__ float shared[];
    Thread th;
    setup(p, th);
    // All lanes of a warp take the same path: heads are summed across them.
    if (HEAD_SUM == 2 ? __syncthreads_and(inside(th, TPT + W - 1)) : __all_sync(0xffffffffu, inside(th, TPT + W - 1))) bwd_tile<true>(p, th, shared);
    else bwd_tile<false>(p, th, shared);
}
#else

// Rows [row0, row0 + count) of dx and dweight. The W-1 rows after them are read again for their share of dx.
extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) conv_bwd(const __grid_constant__ Params p) {
    extern __shared__ float shared[];
    Thread th;
    setup(p, th);
    const elem* dy = p.dy + blockIdx.y * p.s_dy + th.d + (i64)th.r.row0 * p.lddy;
    elem* dx = p.y + blockIdx.y * p.s_y + th.d + ((i64)th.r.row0 - (W - 1)) * p.ldy;
    XVec xv[W - 1 + TPT];
    float acc[W - 1 + TPT][VEC];  // dx of rows t-(W-1) .. t+TPT-1
    float dstatic[STATIC ? W : 1][VEC];
#pragma unroll
    for (int k = 0; k < W - 1; k++)
#pragma unroll
        for (int i = 0; i < VEC; i++) acc[k][i] = 0.f;
#if STATIC
#pragma unroll
    for (int w = 0; w < W; w++)
#pragma unroll
        for (int i = 0; i < VEC; i++) dstatic[w][i] = 0.f;
#endif
    const int n = th.r.count, reach = min(n + W - 1, th.r.end - th.r.row0);
#if HEAD_SUM == 2
    const int trips = n + W - 1;
#else
    const int trips = n > 0 && th.active ? n + W - 1 : 0;
#endif
    const elem *x = th.x + (i64)th.r.row0 * p.ldx, *weight = th.weight + (i64)th.r.row0 * p.ldw;
    XVec nx[TPT], ng[TPT];
    WVec nw[TPT];
    auto fetch = [&](auto full, int t) {
#pragma unroll
        for (int j = 0; j < TPT; j++) {
            if (full.value || (th.active && t + j < reach)) {
                ng[j].load(dy);
                if (HEADWISE) nw[j].load(weight); else nw[j].zero();
                if (full.value || SILU || t + j < n) nx[j].load(x); else nx[j].zero();
            } else { ng[j].zero(); nw[j].zero(); nx[j].zero(); }
            dy += p.lddy; weight += p.ldw; x += p.ldx;
        }
    };
    auto fetch_any = [&](int t) { if (th.active && t + TPT <= n) fetch(Yes{}, t); else fetch(No{}, t); };
    auto step = [&](auto full, int t) {
        XVec gv[TPT];
        WVec wv[TPT];
#pragma unroll
        for (int j = 0; j < TPT; j++) { xv[W - 1 + j] = nx[j]; gv[j] = ng[j]; wv[j] = nw[j]; }
        if (PREFETCH && t + TPT < trips) fetch_any(t + TPT);
        float part[TPT][NH][W];
#pragma unroll
        for (int j = 0; j < TPT; j++) {
            const bool own = full.value || t + j < n;
#pragma unroll
            for (int h = 0; h < NH; h++)
#pragma unroll
                for (int w = 0; w < W; w++) part[j][h][w] = 0.f;
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                float g = to_float(gv[j].e[i]);
                acc[W - 1 + j][i] = RESIDUAL ? g : 0.f;
                if (SILU) {
                    float pre = 0.f;
#pragma unroll
                    for (int w = 0; w < W; w++) pre = fmaf(tap(th, wv[j], w, i), to_float(xv[W - 1 + j - w].e[i]), pre);
                    g *= silu_grad(pre);
                }
#pragma unroll
                for (int w = 0; w < W; w++) {
                    acc[W - 1 + j - w][i] = fmaf(tap(th, wv[j], w, i), g, acc[W - 1 + j - w][i]);
                    const float xw = to_float(xv[W - 1 + j - w].e[i]);
                    if (HEADWISE) { float& s = part[j][NH == 1 ? 0 : i * NH / VEC][w]; s = fmaf(g, xw, s); }
#if STATIC
                    dstatic[w][i] = fmaf(own ? g : 0.f, xw, dstatic[w][i]);
#endif
                }
            }
            const int done = t + j - (W - 1);
            if (full.value || (th.active && done >= 0 && done < n)) {
                XVec o; o.set(acc[j]);
                o.store(dx);
            }
            dx += p.ldy;
        }
        if (HEADWISE) store_dweight<full.value>(p, th, t, part, shared);
#pragma unroll
        for (int k = 0; k < W - 1; k++) {
            xv[k] = xv[k + TPT];
#pragma unroll
            for (int i = 0; i < VEC; i++) acc[k][i] = acc[k + TPT][i];
        }
    };
    fetch_any(0);
    load_halo(p, th, xv);
    for (int t = 0; t < trips; t += TPT) {
        if (!PREFETCH && t) fetch_any(t);
        // From the second step on, while the chunk has rows, every row is there and every finished dx is its own.
        if (HEAD_SUM != 2 && th.active && t >= W - 1 && t + TPT <= n) step(Yes{}, t); else step(No{}, t);
    }
#if STATIC
    // part_cols [span, W, D]: one span per block, its chunks added in order.
    const int lanes = blockDim.x;
    for (int w = 0; w < W; w++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float v = 0.f;
#pragma unroll
            for (int k = 0; k < W; k++) if (k == w) v = dstatic[k][i];
            shared[(threadIdx.y * VEC + i) * lanes + threadIdx.x] = th.active ? v : 0.f;
        }
        __syncthreads();
        if (threadIdx.y == 0 && th.d < p.d_model && (th.active || th.r.count == 0)) {
            float* out = p.part_cols + blockIdx.y * p.s_cols + ((i64)(blockIdx.x / p.col_tiles) * W + w) * p.d_model + th.d;
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                float sum = 0.f;
                for (int k = 0; k < blockDim.y; k++) sum += shared[(k * VEC + i) * lanes + threadIdx.x];
                out[i] = sum;
            }
        }
    }
#endif
}
#endif
#endif

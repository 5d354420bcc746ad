// The backward of Mamba-2's recurrence by chunks (ssd.cuh): the gradients of x and dt, and what those of b, c and the parameters are
// summed from.
//
// With S the state before a chunk, dS the gradient by that after it, D[t, s] = e^(G[t] - G[s]) for s <= t and M = c b^T D:
//   dM = dy x^T;  u = e^(G[last] - G) b dS + M^T dy;  dx = dt u + d dy
//   dG[t] = e^G dy.(c S) - e^(G[last] - G) dt x.(b dS) + sum_s p[t, s] - sum_s p[s, t], p = M dM dt[s] off the diagonal, and at the
//   last token sum of e^(G[last] - G) dt x.(b dS) + e^G[last] S.dS
//   ddt = (x.u - rate sum_{s >= t} dG[s]) slope(dt);  dproducts = sum over heads of dM dt D, the gradient of c b^T
// A block takes `taken` heads of a chunk, a divisor of those of a group, one after the other; ssd_bc.cu sums the blocks of a group.
// dproducts [chunks, heads / taken, CHUNK, CHUNK]; shares [chunks, heads, 3] of da_log, ddt_bias and dd, f64.
// Entry point: ssd_gradients. Defines: ssd.cuh.
#include "ssd.cuh"

// Sums that cancel: of rows less of columns.
#if DTYPE == 0
typedef double wide;
#else
typedef float wide;
#endif

typedef Sums<CHUNK, CHUNK> Pairs;
typedef Sums<CHUNK, COLS> Columns;
static_assert(Pairs::PER == 1, "a warp's pairs are one part");
// Blocks of a multiprocessor that registers allow.
constexpr int BLOCKS = HEAD_SIZE > 64 || DTYPE == 0 || B_VEC == 1 ? 1 : 2;

// What a chunk's rows are summed to; each row and side has one writer.
struct RowSums {
    float read[CHUNK * Columns::SIDES], written[CHUNK * Columns::SIDES], by_x[CHUNK * Columns::SIDES];
    wide by_row[CHUNK * Pairs::SIDES], by_col[CHUNK * Pairs::ROWS];
    float kept[TILE_WARPS], past[TILE_WARPS];
};

template <int N, typename T> __device__ __forceinline__ double in_order(const T* v) {
    double sum = 0.;
#pragma unroll
    for (int i = 0; i < N; i++) sum += v[i];
    return sum;
}
__device__ __forceinline__ double warp_total(double v) {
#pragma unroll
    for (int m = 16; m; m /= 2) v += __shfl_xor_sync(~0u, v, m);
    return v;
}
__device__ __forceinline__ float warp_total(float v) {
#pragma unroll
    for (int m = 16; m; m /= 2) v += __shfl_xor_sync(~0u, v, m);
    return v;
}

// From dy x^T, in `dm`: M to shared memory, its share of dproducts, and the sums over pairs.
__device__ __forceinline__ void pair_gradients(const Pairs& dm, const float* product, Pairs& dproducts, const float* gate, float* m, int ldm,
    RowSums& sums) {
    const int lane = threadIdx.x & 31, g = lane >> 2, c = lane & 3, part = threadIdx.x / 32;
    const int row0 = part / Pairs::SIDES * 16 * Pairs::RM + g, col0 = part % Pairs::SIDES * 8 * Pairs::RN + 2 * c;
    wide by_row[Pairs::RM * 2] = {};
    float high[Pairs::RM * 2], low[Pairs::RM * 2];
#pragma unroll
    for (int n = 0; n < Pairs::RM * 2; n++) {
        high[n] = gate[HIGH * CHUNK + row0 + 8 * n];
        low[n] = gate[LOW * CHUNK + row0 + 8 * n];
    }
#pragma unroll
    for (int j = 0; j < Pairs::RN; j++) {
        const int s = col0 + 8 * j;
        const float2 dt = *reinterpret_cast<const float2*>(gate + DT * CHUNK + s), highs = *reinterpret_cast<const float2*>(gate + HIGH * CHUNK + s),
                     lows = *reinterpret_cast<const float2*>(gate + LOW * CHUNK + s);
        wide by_col[2] = {};
#pragma unroll
        for (int n = 0; n < Pairs::RM * 2; n++) {
            const int t = row0 + 8 * n;
            const float2 two = *reinterpret_cast<const float2*>(product + t * CHUNK + s);
            float of[2] = {two.x, two.y};
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int e = 2 * (n & 1) + k;
                const float kept = s + k <= t ? decay(high[n], low[n], k ? highs.y : highs.x, k ? lows.y : lows.x) : 0.f;
                const float d = dm.acc[0][n / 2][j][e] * (k ? dt.y : dt.x);
                of[k] *= kept;
                dproducts.acc[0][n / 2][j][e] += d * kept;
                const wide p = s + k < t ? of[k] * d : 0.f;
                by_row[n] += p;
                by_col[k] += p;
            }
            *reinterpret_cast<float2*>(m + t * ldm + s) = make_float2(operand(of[0]), operand(of[1]));
        }
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) by_col[k] += __shfl_xor_sync(~0u, by_col[k], lanes);
            if (g == 0) sums.by_col[(s + k) * Pairs::ROWS + part / Pairs::SIDES] = by_col[k];
        }
    }
#pragma unroll
    for (int n = 0; n < Pairs::RM * 2; n++) {
        by_row[n] += __shfl_xor_sync(~0u, by_row[n], 1);
        by_row[n] += __shfl_xor_sync(~0u, by_row[n], 2);
        if (c == 0) sums.by_row[(row0 + 8 * n) * Pairs::SIDES + part % Pairs::SIDES] = by_row[n];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) ssd_gradients(const elem* x, i64 ldx, const elem* b, i64 ldb,
    const elem* c, i64 ldc, const elem* dt, i64 lddt, const elem* dy, i64 lddy, const float* a_log, const float* dt_bias, const float* d,
    const int4* plan, const float* gates, const float* products, const float* states, const float* dstates, elem* dx, i64 lddx, elem* ddt,
    i64 ldddt, float* dproducts, double* shares, i64 heads, i64 groups, i64 taken) {
    constexpr int LD = across(COLS), LDT = across(TILE), LDS = along(COLS), LDM = along(CHUNK);
    extern __shared__ float4 shared[];
    __shared__ RowSums sums;
    float *gate = reinterpret_cast<float*>(shared), *xs = gate + GATES * CHUNK, *dys = xs + CHUNK * LD;
    // M takes the place of the tiles.
    float *keys = dys + CHUNK * LD, *queries = keys + CHUNK * LDT, *before = queries + CHUNK * LDT, *after = before + TILE * LDS, *m = keys;
    const auto [chunk, block] = split(blockIdx.x, split(heads, taken).whole);
    const i64 first = block * taken, group = split(first, split(heads, groups).whole).whole;
    Rows64 r;
    if (!chunk_of(plan, chunk, r)) {
        for (i64 i = threadIdx.x; i < 3 * taken; i += THREADS) shares[(chunk * heads + first) * 3 + i] = 0.;
        return;
    }
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const float* product = products + (chunk * groups + group) * CHUNK * CHUNK;
    Pairs all;
    all.clear();
    for (i64 head = first; head < first + taken; head++) {
        __syncthreads();
        load_gates(gates_of(gates, chunk, heads, head), gate);
        // c S, b dS and S.dS.
        float kept = 0.f, past = 0.f;
        Columns read, u;
        read.clear();
        u.clear();
        for (int s0 = 0; s0 < STATE_SIZE; s0 += TILE) {
            if (s0) __syncthreads();
            load_state<LDS>(states + (chunk * heads + head) * STATE_SIZE * PITCH, s0, before);
            load_state<LDS>(dstates + (chunk * heads + head) * STATE_SIZE * PITCH, s0, after);
            load_tile<LDT>(c + r.row * ldc + group * STATE_SIZE, ldc, r.count, s0, queries);
            load_tile<LDT>(b + r.row * ldb + group * STATE_SIZE, ldb, r.count, s0, keys);
            if (!s0) {
                load_head<LD>(x + r.row * ldx + head * HEAD_SIZE, ldx, r.count, xs);
                load_head<LD>(dy + r.row * lddy + head * HEAD_SIZE, lddy, r.count, dys);
            }
            wait_copies();
            __syncthreads();
            read.add<TILE>(tile<LDT>(queries), tile<LDS>(before));
            u.add<TILE>(tile<LDT>(keys), tile<LDS>(after));
            for (int i = threadIdx.x; i < TILE * COLS / 4; i += THREADS) {
                const int at = i / (COLS / 4) * LDS + i % (COLS / 4) * 4;
                const float4 v = *reinterpret_cast<const float4*>(before + at), w = *reinterpret_cast<const float4*>(after + at);
                kept += v.x * w.x + v.y * w.y + v.z * w.z + v.w * w.w;
            }
        }
        __syncthreads();
        read.sum_rows(sums.read, [&](int t, int p, float v, float w) { return v * dys[t * LD + p] + w * dys[t * LD + p + 1]; });
        u.each([&](int t, int, float& v, float& w) {
            v *= gate[TO_END * CHUNK + t];
            w *= gate[TO_END * CHUNK + t];
        });
        u.sum_rows(sums.written, [&](int t, int p, float v, float w) { return v * xs[t * LD + p] + w * xs[t * LD + p + 1]; });
        {
            Pairs dm;
            dm.clear();
            dm.add<COLS>(tile<LD>(dys), tile<LD>(xs).transposed());
            pair_gradients(dm, product, all, gate, m, LDM, sums);
        }
        __syncthreads();
        u.add<CHUNK>(tile<LDM>(m).transposed(), tile<LD>(dys));
        const float skip = d[head];
        u.sum_rows(sums.by_x, [&](int t, int p, float v, float w) { return v * xs[t * LD + p] + w * xs[t * LD + p + 1]; });
        elem* out = dx + r.row * lddx + head * HEAD_SIZE;
        u.each([&](int t, int p, float& v, float& w) {
            const float2 g = make_float2(dys[t * LD + p], dys[t * LD + p + 1]);
            past += g.x * xs[t * LD + p] + g.y * xs[t * LD + p + 1];
            const float step = gate[DT * CHUNK + t];
            if (t < r.count) store_two<X_VEC>(out + t * lddx, p, HEAD_SIZE, make_float2(step * v + skip * g.x, step * w + skip * g.y));
        });
        kept = warp_total(kept);
        past = warp_total(past);
        if (lane == 0) {
            sums.kept[warp] = kept;
            sums.past[warp] = past;
        }
        __syncthreads();

        // A lane takes two neighbouring tokens.
        if (warp == 0) {
            const float rate = expf(fminf(a_log[head], 60.f));
            double by_g[2], end = 0.;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int t = 2 * lane + i;
                const double written = gate[DT * CHUNK + t] * in_order<Columns::SIDES>(sums.written + t * Columns::SIDES);
                by_g[i] = gate[FROM_START * CHUNK + t] * in_order<Columns::SIDES>(sums.read + t * Columns::SIDES) - written
                    + in_order<Pairs::SIDES>(sums.by_row + t * Pairs::SIDES) - in_order<Pairs::ROWS>(sums.by_col + t * Pairs::ROWS);
                end += written;
            }
            end = warp_total(end) + gate[FROM_START * CHUNK + CHUNK - 1] * in_order<TILE_WARPS>(sums.kept);
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (2 * lane + i == r.count - 1) by_g[i] += end;
            // dG summed from each token on.
            by_g[0] += by_g[1];
            double from = by_g[0];
#pragma unroll
            for (int n = 1; n < 32; n *= 2) {
                const double other = __shfl_down_sync(~0u, from, n);
                if (lane + n < 32) from += other;
            }
            from -= by_g[0];
            by_g[0] += from;
            by_g[1] += from;
            double by_log = 0., by_bias = 0.;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int t = 2 * lane + i;
                if (t >= r.count) continue;
                const double by_decay = -rate * by_g[i];
                const float slope = 1.f / (1.f + expf(-(to_float(dt[(r.row + t) * lddt + head]) + dt_bias[head])));
                const float by_dt = (float)(in_order<Columns::SIDES>(sums.by_x + t * Columns::SIDES) + by_decay) * slope;
                ddt[(r.row + t) * ldddt + head] = from_float(by_dt);
                by_log += by_decay * gate[DT * CHUNK + t];
                by_bias += by_dt;
            }
            by_log = warp_total(by_log);
            by_bias = warp_total(by_bias);
            double* share = shares + (chunk * heads + head) * 3;
            if (lane == 0) {
                share[0] = by_log;
                share[1] = by_bias;
                share[2] = in_order<TILE_WARPS>(sums.past);
            }
        }
    }
    float* out = dproducts + (i64)blockIdx.x * CHUNK * CHUNK;
    all.each([&](int t, int s, float& v, float& w) { *reinterpret_cast<float2*>(out + t * CHUNK + s) = make_float2(v, w); });
}

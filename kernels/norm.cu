// RMS norm (LAYER = 0) and layer norm (LAYER = 1) over groups of COLS neighbouring columns, forward and backward.
//
//   rms: s = 1 / sqrt(mean x^2 + eps), y = x s gain         layer: s = 1 / std, y = (x - mean) s gain + bias
//   xhat = y before gain; with h = dy gain: dx = s (h - [mean h] - xhat mean(h xhat)), dgain = sum dy xhat, dbias = sum dy
//
// A warp owns a group. ADD: x = a + b first, written out (the residual stream). Bytes per element, bf16: forward 4 (8 with ADD),
// backward 6 (8 where dx adds to what is there). Entry points: norm_fwd, norm_bwd; then sum_rows over the partial gains.
// Defines: DTYPE, VEC, COLS, LAYER, ADD (forward), ACCUMULATE (backward). blockDim = 256.
#include "dense.cuh"

constexpr int PER = (COLS / VEC + 31) / 32, WARPS = 8;
static_assert(COLS % VEC == 0, "a group is whole vectors");

struct Group { i64 row, col; };
__device__ __forceinline__ Group group_of(i64 g, i64 heads) { const i64 row = g / heads; return {row, (g - row * heads) * COLS}; }

extern "C" __global__ void __launch_bounds__(256) norm_fwd(const elem* x, i64 ldx, const elem* b, i64 ldb, elem* sum, i64 lds,
    const float* gain, const float* bias, float eps, elem* y, i64 ldy, float* stats, i64 groups, i64 heads) {
    const int lane = threadIdx.x & 31;
    const i64 g = (i64)blockIdx.x * WARPS + threadIdx.x / 32;
    if (g >= groups) return;
    const Group at = group_of(g, heads);
    float v[PER][VEC], total = 0.f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int c = (i * 32 + lane) * VEC;
        if (c < COLS) load_floats(x + at.row * ldx + at.col + c, v[i]);
        else {
#pragma unroll
            for (int k = 0; k < VEC; k++) v[i][k] = 0.f;
        }
#if ADD
        if (c < COLS) {
            float w[VEC];
            load_floats(b + at.row * ldb + at.col + c, w);
#pragma unroll
            for (int k = 0; k < VEC; k++) v[i][k] = to_float(from_float(v[i][k] + w[k]));
            store_floats(sum + at.row * lds + at.col + c, v[i]);
        }
#endif
#pragma unroll
        for (int k = 0; k < VEC; k++) total += LAYER ? v[i][k] : v[i][k] * v[i][k];
    }
    total = warp_sum(total);
    float mean = 0.f;
    if (LAYER) {
        mean = total / COLS;
        total = 0.f;
#pragma unroll
        for (int i = 0; i < PER; i++)
#pragma unroll
            for (int k = 0; k < VEC; k++) if ((i * 32 + lane) * VEC < COLS) total += (v[i][k] - mean) * (v[i][k] - mean);
        total = warp_sum(total);
    }
    const float scale = rsqrtf(total / COLS + eps);
    if (lane == 0) {
        stats[g] = scale;
        if (LAYER) stats[groups + g] = mean;
    }
#pragma unroll
    for (int i = 0; i < PER; i++) {
        const int c = (i * 32 + lane) * VEC;
        if (c >= COLS) continue;
        float a[VEC], b[VEC] = {};
        load_params(gain + c, a);
        if (LAYER) load_params(bias + c, b);
#pragma unroll
        for (int k = 0; k < VEC; k++) v[i][k] = (v[i][k] - mean) * scale * a[k] + b[k];
        store_floats(y + at.row * ldy + at.col + c, v[i]);
    }
}

// part: [blocks][1 + LAYER][COLS], the block's share of dgain (and dbias).
extern "C" __global__ void __launch_bounds__(256) norm_bwd(const elem* x, i64 ldx, const float* gain, const float* stats,
    const elem* dy, i64 lddy, elem* dx, i64 lddx, float* part, i64 groups, i64 heads) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    float dgain[PER][VEC], dbias[LAYER ? PER : 1][VEC];
#pragma unroll
    for (int i = 0; i < PER; i++)
#pragma unroll
        for (int k = 0; k < VEC; k++) { dgain[i][k] = 0.f; if (LAYER) dbias[i][k] = 0.f; }
    for (i64 g = (i64)blockIdx.x * WARPS + warp; g < groups; g += (i64)gridDim.x * WARPS) {
        const Group at = group_of(g, heads);
        const float scale = stats[g], mean = LAYER ? stats[groups + g] : 0.f;
        float xhat[PER][VEC], h[PER][VEC], hx = 0.f, hs = 0.f;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            const int c = (i * 32 + lane) * VEC;
            if (c < COLS) {
                load_floats(x + at.row * ldx + at.col + c, xhat[i]);
                load_floats(dy + at.row * lddy + at.col + c, h[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < PER; i++) {
            const int c = (i * 32 + lane) * VEC;
            if (c >= COLS) continue;
            float a[VEC];
            load_params(gain + c, a);
#pragma unroll
            for (int k = 0; k < VEC; k++) {
                xhat[i][k] = (xhat[i][k] - mean) * scale;
                dgain[i][k] += h[i][k] * xhat[i][k];
                if (LAYER) dbias[i][k] += h[i][k];
                h[i][k] *= a[k];
                hx += h[i][k] * xhat[i][k];
                hs += h[i][k];
            }
        }
        hx = warp_sum(hx) / COLS;
        hs = LAYER ? warp_sum(hs) / COLS : 0.f;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            const int c = (i * 32 + lane) * VEC;
            if (c >= COLS) continue;
            elem* out = dx + at.row * lddx + at.col + c;
            float r[VEC];
#if ACCUMULATE
            load_floats(out, r);
#endif
#pragma unroll
            for (int k = 0; k < VEC; k++) {
                const float d = scale * (h[i][k] - hs - xhat[i][k] * hx);
                r[k] = ACCUMULATE ? r[k] + d : d;
            }
            store_floats(out, r);
        }
    }
    // The warps add their shares in turn.
    __shared__ float shared[(1 + LAYER) * COLS];
    for (int w = 0; w < WARPS; w++) {
        if (w == warp) {
#pragma unroll
            for (int i = 0; i < PER; i++) {
                const int c = (i * 32 + lane) * VEC;
                if (c >= COLS) continue;
#pragma unroll
                for (int k = 0; k < VEC; k++) {
                    shared[c + k] = w ? shared[c + k] + dgain[i][k] : dgain[i][k];
                    if (LAYER) shared[COLS + c + k] = w ? shared[COLS + c + k] + dbias[i][k] : dbias[i][k];
                }
            }
        }
        __syncthreads();
    }
    for (int c = threadIdx.x; c < (1 + LAYER) * COLS; c += 256) part[(i64)blockIdx.x * (1 + LAYER) * COLS + c] = shared[c];
}

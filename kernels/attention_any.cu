// Causal attention for any element type, head size (a multiple of 8, at most 128) and alignment: fp32 arithmetic without tensor cores.
// The formulas are those of attention.cuh; the fast path for bf16 on Hopper is attention_fwd.cu, attention_dq.cu and
// attention_dkdv.cu.
//
// A block of 128 threads owns TILE rows of one head, four lanes a row, and meets TILE rows of the other side at a time, all in shared
// memory as fp32. FLOP: 4 HEAD a (query, key) pair forward, 14 HEAD backward (scores are computed again for dk and dv).
//
// Entry points: attention_any_fwd (o, lse), attention_delta, attention_any_dq, attention_any_dkdv; grid.x = tiles x heads (kv_heads for
// dkdv); dynamic shared memory: PLANES x TILE x (HEAD + 1) floats + 2 x TILE x (TILE + 1), PLANES = 3 forward, 4 backward.
#include "attention.cuh"

constexpr int TILE = 32, THREADS = 4 * TILE, PITCH = HEAD + 1, OWN = HEAD / 4, EACH = TILE / 4;

// Rows row0 .. row0+TILE-1 of one head as fp32, zero from `end` on.
__device__ __forceinline__ void load_tile(float* shared, const elem* from, i64 ld, int head, int row0, int end) {
    for (int i = threadIdx.x; i < TILE * HEAD; i += THREADS) {
        const int r = i / HEAD, d = i % HEAD;
        shared[r * PITCH + d] = row0 + r < end ? to_float(from[(i64)(row0 + r) * ld + head * HEAD + d]) : 0.f;
    }
}

__device__ __forceinline__ float dot(const float* a, const float* b) {
    float sum = 0.f;
#pragma unroll 8
    for (int d = 0; d < HEAD; d++) sum = fmaf(a[d], b[d], sum);
    return sum;
}

// acc[i] += sum_j w[j] rows[j][c + 4 i]
__device__ __forceinline__ void add_rows(float (&acc)[OWN], const float* w, const float* rows, int c) {
#pragma unroll 4
    for (int j = 0; j < TILE; j++) {
        const float p = w[j];
#pragma unroll
        for (int i = 0; i < OWN; i++) acc[i] = fmaf(p, rows[j * PITCH + c + 4 * i], acc[i]);
    }
}

// A row of a thread's columns turned back by its position.
__device__ __forceinline__ void turn_back(const float2* angles, int position, int c, float (&acc)[OWN]) {
    const float2* at = angles + (i64)position * (HEAD / 2) + c;
#pragma unroll
    for (int i = 0; i < OWN / 2; i++) {
        const float2 t = at[4 * i];
        const float a = acc[i], b = acc[i + OWN / 2];
        acc[i] = a * t.x + b * t.y;
        acc[i + OWN / 2] = b * t.x - a * t.y;
    }
}

__device__ __forceinline__ void store_row(elem* to, i64 ld, int head, int row, int c, const float (&acc)[OWN], float factor) {
#pragma unroll
    for (int i = 0; i < OWN; i++) to[(i64)row * ld + head * HEAD + c + 4 * i] = from_float(acc[i] * factor);
}

extern "C" __global__ void __launch_bounds__(THREADS, 6) attention_any_fwd(const __grid_constant__ Attention p) {
    extern __shared__ float smem[];
    float *qs = smem, *ks = qs + TILE * PITCH, *vs = ks + TILE * PITCH, *ps = vs + TILE * PITCH;
    const int r = threadIdx.x / 4, c = threadIdx.x & 3;
    Tile t;
    if (!tile_of_block(p, blockIdx.x, TILE, p.heads, true, t)) return;
    const int kv_head = t.head / (p.heads / p.kv_heads), row = t.row0 + r;
    load_tile(qs, p.q, p.ldq, t.head, t.row0, t.end);
    float top = -INFINITY, total = 0.f, acc[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) acc[i] = 0.f;
    // Rows past the end see keys too; they are not written. Every row sees the first key of each tile.
    for (int k0 = t.start; k0 < min(t.row0 + TILE, t.end); k0 += TILE) {
        __syncthreads();
        load_tile(ks, p.k, p.ldk, kv_head, k0, t.end);
        load_tile(vs, p.v, p.ldv, kv_head, k0, t.end);
        __syncthreads();
        float s[EACH], high = top;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int key = c + 4 * j;
            s[j] = k0 + key <= row ? dot(qs + r * PITCH, ks + key * PITCH) * p.scale : -INFINITY;
            high = fmaxf(high, s[j]);
        }
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
        const float turn = expf(top - high);
        top = high;
        total *= turn;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const float e = expf(s[j] - high);
            total += e;
            ps[r * (TILE + 1) + c + 4 * j] = e;
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < OWN; i++) acc[i] *= turn;
        add_rows(acc, ps + r * (TILE + 1), vs, c);
    }
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if (row >= t.end) return;
    store_row(p.o, p.ldo, t.head, row, c, acc, 1.f / total);
    if (c == 0) p.lse[(i64)t.head * p.rows + row] = top + logf(total);
}

// delta[h, t] = do[t] . o[t]; DELTA_LANES threads per row and head, a power of two.
constexpr int DELTA_LANES = HEAD >= 128 ? 32 : HEAD >= 64 ? 16 : HEAD >= 32 ? 8 : HEAD >= 16 ? 4 : 2;
extern "C" __global__ void __launch_bounds__(THREADS) attention_delta(const __grid_constant__ Attention p) {
    const i64 pair = (i64)blockIdx.x * (THREADS / DELTA_LANES) + threadIdx.x / DELTA_LANES;
    const int head = (int)(pair % p.heads), lane = threadIdx.x % DELTA_LANES;
    const i64 row = pair / p.heads;
    float sum = 0.f;
    for (int d = lane; row < p.rows && d < HEAD; d += DELTA_LANES) sum = fmaf(to_float(p.d_o[row * p.lddo + head * HEAD + d]), to_float(p.o[row * p.ldo + head * HEAD + d]), sum);
#pragma unroll
    for (int step = DELTA_LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0 && row < p.rows) p.delta[(i64)head * p.rows + row] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 6) attention_any_dq(const __grid_constant__ Attention p) {
    extern __shared__ float smem[];
    float *qs = smem, *dos = qs + TILE * PITCH, *ks = dos + TILE * PITCH, *vs = ks + TILE * PITCH, *ps = vs + TILE * PITCH;
    const int r = threadIdx.x / 4, c = threadIdx.x & 3;
    Tile t;
    if (!tile_of_block(p, blockIdx.x, TILE, p.heads, true, t)) return;
    const int kv_head = t.head / (p.heads / p.kv_heads), row = t.row0 + r;
    load_tile(qs, p.q, p.ldq, t.head, t.row0, t.end);
    load_tile(dos, p.d_o, p.lddo, t.head, t.row0, t.end);
    const i64 at = (i64)t.head * p.rows + row;
    const float lse = row < t.end ? p.lse[at] : INFINITY, delta = row < t.end ? p.delta[at] : 0.f;
    float acc[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) acc[i] = 0.f;
    for (int k0 = t.start; k0 < min(t.row0 + TILE, t.end); k0 += TILE) {
        __syncthreads();
        load_tile(ks, p.k, p.ldk, kv_head, k0, t.end);
        load_tile(vs, p.v, p.ldv, kv_head, k0, t.end);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int key = c + 4 * j;
            const float e = k0 + key <= row ? expf(dot(qs + r * PITCH, ks + key * PITCH) * p.scale - lse) : 0.f;
            ps[r * (TILE + 1) + key] = e * (dot(dos + r * PITCH, vs + key * PITCH) - delta);
        }
        __syncwarp();
        add_rows(acc, ps + r * (TILE + 1), ks, c);
    }
    if (row >= t.end) return;
    if (p.angles) turn_back(p.angles, row - t.start, c, acc);
    store_row(p.dq, p.lddq, t.head, row, c, acc, p.scale);
}

extern "C" __global__ void __launch_bounds__(THREADS, 5) attention_any_dkdv(const __grid_constant__ Attention p) {
    extern __shared__ float smem[];
    float *ks = smem, *vs = ks + TILE * PITCH, *qs = vs + TILE * PITCH, *dos = qs + TILE * PITCH;
    float *ps = dos + TILE * PITCH, *ds = ps + TILE * (TILE + 1);
    const int r = threadIdx.x / 4, c = threadIdx.x & 3;
    Tile t;
    if (!tile_of_block(p, blockIdx.x, TILE, p.kv_heads, false, t)) return;
    const int key = t.row0 + r, share = p.heads / p.kv_heads;
    load_tile(ks, p.k, p.ldk, t.head, t.row0, t.end);
    load_tile(vs, p.v, p.ldv, t.head, t.row0, t.end);
    float dk[OWN], dv[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) dk[i] = dv[i] = 0.f;
    for (int head = t.head * share; head < (t.head + 1) * share; head++) {
        for (int q0 = t.row0; q0 < t.end; q0 += TILE) {
            __syncthreads();
            load_tile(qs, p.q, p.ldq, head, q0, t.end);
            load_tile(dos, p.d_o, p.lddo, head, q0, t.end);
            __syncthreads();
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                const int q = c + 4 * j, row = q0 + q;
                const bool seen = row >= key && row < t.end;
                const i64 at = (i64)head * p.rows + row;
                const float e = seen ? expf(dot(ks + r * PITCH, qs + q * PITCH) * p.scale - p.lse[at]) : 0.f;
                ps[r * (TILE + 1) + q] = e;
                ds[r * (TILE + 1) + q] = seen ? e * (dot(vs + r * PITCH, dos + q * PITCH) - p.delta[at]) : 0.f;
            }
            __syncwarp();
            add_rows(dv, ps + r * (TILE + 1), dos, c);
            add_rows(dk, ds + r * (TILE + 1), qs, c);
        }
    }
    if (key >= t.end) return;
    if (p.angles) turn_back(p.angles, key - t.start, c, dk);
    store_row(p.dk, p.lddk, t.head, key, c, dk, p.scale);
    store_row(p.dv, p.lddv, t.head, key, c, dv, 1.f);
}

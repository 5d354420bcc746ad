// Shared by the kernels of the gated delta rule: which rows a chunk has, its decays, and rows of a head in shared memory.
//
// Chunks of 64 tokens. With G the running sum of g in a chunk, q and k normed, k' = beta e^G k and
// A[t][s] = beta[t] (k[t].k[s]) e^(G[t] - G[s]) below the diagonal:
//   T = (I + A)^-1,  W = T k',  U = T (beta v);  from the state S at the chunk's start  v' = U - W S,
//   S <- e^G[last] S + (e^(G[last] - G) k)^T v',  o = (e^G q S + P v') / sqrt(KEY),  P[t][s] = (q[t].k[s]) e^(G[t] - G[s]) up to the diagonal.
// Work is f32, by slot (a chunk's place) and head: [slots, heads, ..], matrices [64, KEYS], [64, VALUES] and [KEYS, VALUES] with zeros
// past the chunk's tokens and past KEY and VALUE.
//
// Defines: DTYPE; KEY, VALUE: columns of a head; VEC: as in dense.cuh, divides both; THREADS.
#pragma once
#include "dense.cuh"
#include "tiles.cuh"

constexpr int padded(int n) { return n <= 16 ? 16 : (n + 31) / 32 * 32; }
constexpr int CHUNK = 64, KEYS = padded(KEY), VALUES = padded(VALUE);
// Columns of a head that are in shared memory at a time, where not all are.
constexpr int part_of(int n) { return n % 64 == 0 ? 64 : n % 32 == 0 ? 32 : 16; }
constexpr int KEY_PART = part_of(KEYS), VALUE_PART = part_of(VALUES);
// Strides in shared memory (tiles.cuh): of matrices whose columns are summed over, and of those whose rows are.
constexpr int by_row(int cols) { return cols + 4; }
constexpr int by_col(int cols) { return cols + 8; }
constexpr int PAIRS = by_row(CHUNK);

// What every kernel here reads of the op: rows of q, k, v, a and b, sequences by their borders or, where cu is null, of len rows each.
#define DELTA_INPUTS                                                                                                                  \
    const elem *__restrict__ q, i64 ldq, const elem *__restrict__ k, i64 ldk, const elem *__restrict__ v, i64 ldv,                    \
        const elem *__restrict__ a, i64 lda, const elem *__restrict__ b, i64 ldb, const float *a_log, const float *dt_bias,           \
        const int *cu, i64 seqs, i64 len, i64 heads

// The first slot of a sequence. Borders alone say where it is: a sequence takes at most as many slots as lie before the next one's first.
__device__ __forceinline__ i64 first_slot(const int* cu, i64 len, i64 seq) {
    return cu ? cu[seq] / CHUNK + seq : seq * ((len + CHUNK - 1) / CHUNK);
}
struct Chunk { i64 row; int count; };
// The rows in a slot; none in those that no chunk needs.
__device__ __forceinline__ Chunk chunk_in(const int* cu, i64 seqs, i64 len, i64 slot) {
    i64 seq = 0, start, end;
    if (cu) {
        for (i64 past = seqs; past - seq > 1;) {
            const i64 middle = (seq + past) >> 1;
            if (first_slot(cu, len, middle) <= slot) seq = middle; else past = middle;
        }
        start = cu[seq]; end = cu[seq + 1];
    } else {
        seq = (u32)slot / (u32)((len + CHUNK - 1) / CHUNK);
        start = seq * len; end = start + len;
    }
    const i64 row = start + (slot - first_slot(cu, len, seq)) * CHUNK;
    return {row, (int)max(0ll, min((i64)CHUNK, end - row))};
}

// The gates of a chunk of one head; tokens past the chunk's end do not decay and write nothing. G is kept in f64: differences of large
// sums would lose the decay of the tokens between.
struct Gates {
    double sum[CHUNK];
    float log[CHUNK], beta[CHUNK], from_start[CHUNK], to_end[CHUNK];
    __device__ __forceinline__ float between(int t, int s) const { return expf((float)min(sum[t] - sum[s], 0.)); }
    // By the first warp; read after a barrier.
    __device__ __forceinline__ void read(const elem* a, i64 lda, const elem* b, i64 ldb, float a_log, float dt_bias, int count) {
        if (threadIdx.x >= 32) return;
        const float rate = expf(fminf(a_log, 60.f));
        double total = 0., own[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t = 2 * threadIdx.x + i;
            log[t] = 0.f;
            beta[t] = 0.f;
            if (t < count) {
                const float x = to_float(a[t * lda]) + dt_bias;
                log[t] = fmaxf(-rate * (fmaxf(x, 0.f) + log1pf(expf(-fabsf(x)))), -1e30f);
                beta[t] = 1.f / (1.f + expf(-to_float(b[t * ldb])));
            }
            own[i] = total += (double)log[t];
        }
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const double before = __shfl_up_sync(~0u, total, step);
            if (threadIdx.x >= step) total += before;
        }
        const double last = __shfl_sync(~0u, total, 31), before = total - own[1];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t = 2 * threadIdx.x + i;
            sum[t] = before + own[i];
            from_start[t] = expf((float)sum[t]);
            to_end[t] = expf((float)min(last - sum[t], 0.));
        }
    }
    __device__ __forceinline__ float whole() const { return from_start[CHUNK - 1]; }
};

// 1 / norm of a head's rows of q or k.
__device__ __forceinline__ void inverse_norms(float* inverse, const elem* from, i64 ld, int count) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int t = threadIdx.x / 32; t < CHUNK; t += TILE_WARPS) {
        float sum = 0.f;
#pragma unroll
        for (int col = lane * VEC; col < KEYS; col += 32 * VEC) {
            if (t >= count || col >= KEY) continue;
            float x[VEC];
            load_floats(from + t * ld + col, x);
#pragma unroll
            for (int i = 0; i < VEC; i++) sum += x[i] * x[i];
        }
        sum = warp_sum(sum);
        if (lane == 0) inverse[t] = 1.f / sqrtf(sum + 1e-6f);
    }
}

// VEC floats in shared memory, 16 bytes at a time where a thread has as many.
__device__ __forceinline__ void set_floats(float* to, const float (&x)[VEC]) {
    if constexpr (VEC % 4 == 0) {
#pragma unroll
        for (int e = 0; e < VEC; e += 4) *reinterpret_cast<float4*>(to + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
    } else {
#pragma unroll
        for (int e = 0; e < VEC; e++) to[e] = x[e];
    }
}

// Neighbouring columns of a chunk's rows, each row times scale(t); of the COLS columns `cols` are there.
template <int COLS, int LD, typename Scale>
__device__ __forceinline__ void load_rows(float* to, const elem* from, i64 ld, int count, int cols, Scale scale) {
#pragma unroll 4
    for (int i = threadIdx.x; i < CHUNK * (COLS / VEC); i += THREADS) {
        const int t = i / (COLS / VEC), col = i % (COLS / VEC) * VEC;
        float x[VEC] = {};
        if (t < count && col < cols) load_floats(from + t * ld + col, x);
        const float by = scale(t);
#pragma unroll
        for (int e = 0; e < VEC; e++) x[e] *= by;
        set_floats(to + t * LD + col, x);
    }
}

// ROWS x COLS of work, `ld` apart, on their way into shared memory until wait_copies.
template <int ROWS, int COLS, int LD> __device__ __forceinline__ void copy_work(float* to, const float* from, i64 ld) {
    static_assert(LD % 4 == 0, "16 bytes at a time");
    for (int i = threadIdx.x; i < ROWS * (COLS / 4); i += THREADS) {
        const int row = i / (COLS / 4), col = i % (COLS / 4) * 4;
        const u32 at = (u32)__cvta_generic_to_shared(to + row * LD + col);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(from + row * ld + col) : "memory");
    }
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the last LATER groups of this thread's copies are there; others' after a barrier.
template <int LATER> __device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_group %0;" :: "n"(LATER) : "memory"); }
__device__ __forceinline__ void set_pair(float* to, float2 v) { *reinterpret_cast<float2*>(to) = v; }
__device__ __forceinline__ void add_pair(float* to, float2 v) {
    const float2 held = *reinterpret_cast<float2*>(to);
    set_pair(to, make_float2(held.x + v.x, held.y + v.y));
}

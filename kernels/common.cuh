// Shared by every kernel: element types, vector access, tensor-core wrappers, the parameter block and row lookup.
//
// Defines (set by the host, one set per compiled variant):
//   DTYPE   0 = f32, 1 = bf16, 2 = f16          W       filter width, 1..8
//   PACKED  1 = rows described by p.plan        STATE   1 = p.state holds the W-1 rows before each sequence
//   STATIC  1 = static_w is added to the taps   RESIDUAL, SILU   y = act(conv(x)) + x
// B, T, D, W, H, R and all layouts: README.md.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long i64;
typedef unsigned int u32;

#if DTYPE == 0
typedef float elem;
#elif DTYPE == 1
typedef __nv_bfloat16 elem;
#else
typedef __half elem;
#endif

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ elem from_float(float v) {
#if DTYPE == 0
    return v;
#elif DTYPE == 1
    return __float2bfloat16_rn(v);
#else
    return __float2half_rn(v);
#endif
}

// One launch's arguments. Row strides (ld*) and stream strides (s_*) are in elements; grid.y is the stream (q, k, v).
// A null pointer is an absent tensor. Rows are flat token indices: row = b*T + t, or the packed position.
struct Params {
    const elem* x;         // [N, D], rows ldx apart
    const elem* weight;    // head-wise [N, H, W], rows ldw apart; low-rank z [N, R]
    const elem* u;         // [R, W*D]
    const elem* static_w;  // [W, D]
    const elem* state;     // [S, W-1, D]: the rows before each sequence's first
    const elem* dy;        // [N, D]; low-rank backward with SiLU: g
    const elem* res;       // [N, D]: added to dx (low-rank backward with SiLU and residual: dy)
    elem* y;               // forward: y [N, D]; backward: dx
    elem* dweight;         // head-wise [N, H, W]
    float* part_rows;      // partial sums per row (dz over channel tiles, dweight over tiles of one head)
    float* part_cols;      // partial sums per channel (dU and dstatic_w over spans of rows)
    const int* cu_seqlens; // packed: S+1 offsets; null: sequences of seq_len rows
    const elem* dfinal;    // [S, W-1, D]: gradient of the final state
    elem* state_out;       // [S, W-1, D]: final state, or gradient of the initial one
    const int4* plan;      // packed: {first row, sequence start, sequence end, sequence} per chunk; first < 0 = none
    i64 ldx, ldw, ldy, lddy, lddw, ldres;
    i64 s_x, s_w, s_y, s_dy, s_dw, s_u, s_static, s_state, s_rows, s_cols, s_res;
    int rows, seqs, seq_len, chunks_per_seq, chunks;
    int d_model, heads, head_size, rank;
    int col_tiles, spans, rank_tile0, write_dx;
};

// A run of rows inside one sequence.
struct Rows {
    int row0, count, start, end, seq;
};

// The rows of chunk k, at most `len` of them; false past the last chunk.
__device__ __forceinline__ bool chunk_rows(const Params& p, int k, int len, Rows& r) {
    if (k >= p.chunks) return false;
#if PACKED
    const int4 q = p.plan[k];
    if (q.x < 0) return false;
    r.row0 = q.x; r.start = q.y; r.end = q.z; r.seq = q.w;
#else
    r.seq = k / p.chunks_per_seq;
    r.start = r.seq * p.seq_len;
    r.end = r.start + p.seq_len;
    r.row0 = r.start + (k - r.seq * p.chunks_per_seq) * len;
#endif
    r.count = min(len, r.end - r.row0);
    return true;
}

// Where input row `row` (start-(W-1) <= row) is: in x, in the initial state, or nowhere (null: zero).
__device__ __forceinline__ const elem* input_row(const Params& p, const Rows& r, const elem* x, int row) {
    if (row >= r.start) return x + (i64)row * p.ldx;
#if STATE
    return p.state + blockIdx.y * p.s_state + ((i64)r.seq * (W - 1) + (W - 1 + row - r.start)) * p.d_model;
#else
    return nullptr;
#endif
}

// The access of so many bytes. Loads keep their order in the source, so that a step's are all issued before its first use.
template <int BYTES> struct Word;
template <> struct Word<2> { typedef unsigned short type; };
template <> struct Word<4> { typedef u32 type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<16> { typedef uint4 type; };
constexpr int pow2_part(int n) { return n & -n; }
constexpr int min_of(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ uint4 load_word(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ __forceinline__ uint2 load_word(const uint2* p) {
    uint2 v;
    asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
__device__ __forceinline__ u32 load_word(const u32* p) {
    u32 v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ unsigned short load_word(const unsigned short* p) { return __ldg(p); }
__device__ __forceinline__ void store_word(uint4* p, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void store_word(uint2* p, uint2 v) { asm volatile("st.global.v2.u32 [%0], {%1,%2};" :: "l"(p), "r"(v.x), "r"(v.y) : "memory"); }
__device__ __forceinline__ void store_word(u32* p, u32 v) { asm volatile("st.global.u32 [%0], %1;" :: "l"(p), "r"(v) : "memory"); }
__device__ __forceinline__ void store_word(unsigned short* p, unsigned short v) { *p = v; }

// COUNT elements moved by the widest access that ALIGN bytes allow.
template <int COUNT, int ALIGN> struct alignas(16) Vec {
    static constexpr int BYTES = COUNT * (int)sizeof(elem);
    static constexpr int WORD = min_of(min_of(ALIGN, pow2_part(BYTES)), 16);
    typedef typename Word<WORD>::type word;
    elem e[COUNT];
    __device__ __forceinline__ void load(const elem* src) {
#pragma unroll
        for (int i = 0; i < BYTES / WORD; i++) reinterpret_cast<word*>(e)[i] = load_word(reinterpret_cast<const word*>(src) + i);
    }
    // From shared memory.
    __device__ __forceinline__ void get(const elem* src) {
        constexpr int FULL = min_of(16, pow2_part(BYTES));
        typedef typename Word<FULL>::type full;
#pragma unroll
        for (int i = 0; i < BYTES / FULL; i++) reinterpret_cast<full*>(e)[i] = reinterpret_cast<const full*>(src)[i];
    }
    __device__ __forceinline__ void zero() {
#pragma unroll
        for (int i = 0; i < COUNT; i++) e[i] = from_float(0.f);
    }
    __device__ __forceinline__ void store(elem* dst) const {
#pragma unroll
        for (int i = 0; i < BYTES / WORD; i++) store_word(reinterpret_cast<word*>(dst) + i, reinterpret_cast<const word*>(e)[i]);
    }
    __device__ __forceinline__ void set(const float* v) {
#if DTYPE == 1
        if constexpr (COUNT % 2 == 0) {
#pragma unroll
            for (int i = 0; i < COUNT / 2; i++) reinterpret_cast<__nv_bfloat162*>(e)[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
            return;
        }
#endif
#pragma unroll
        for (int i = 0; i < COUNT; i++) e[i] = from_float(v[i]);
    }
};

__device__ __forceinline__ float sigmoid(float v) { return __fdividef(1.f, 1.f + __expf(-v)); }
__device__ __forceinline__ float silu(float v) { return v * sigmoid(v); }
// d silu(v) / dv
__device__ __forceinline__ float silu_grad(float v) {
    const float s = sigmoid(v);
    return s * (1.f + v * (1.f - s));
}

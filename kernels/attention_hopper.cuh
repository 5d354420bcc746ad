// What the Hopper attention kernels share: products over whole tiles, masks, rows written out.
//
// Further defines: CONSUMERS = warpgroups that compute, 2 or 3, each 64 rows of the block; STREAM = rows of a streamed tile, 32, 64
// or 128; STAGES = streamed tiles in flight; BLOCKS = blocks of a multiprocessor, 1 or 2. Warpgroup 0 copies. HEAD is 8, 16, 32, 64 or 128; bf16; addresses and rows are
// 16-byte aligned.
#pragma once
#include "attention.cuh"

// A product takes 16 columns: a head of 8 is copied with 8 columns of zeros.
constexpr int COLUMNS = HEAD;
#if HEAD == 8
#undef HEAD
#define HEAD 16
#endif
#include "hopper.cuh"

constexpr int ROWS = 64 * CONSUMERS, THREADS = 128 * (CONSUMERS + 1);
constexpr int BOX = STREAM < 64 ? STREAM : 64;
constexpr int OWN_BYTES = 64 * HEAD * 2, STREAM_BYTES = STREAM * HEAD * 2;
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 24 : 32, CONSUMER_REGISTERS = BLOCKS == 2 ? 104 : CONSUMERS == 2 ? 240 : 160;
static_assert(CONSUMERS == 2 || CONSUMERS == 3 && BLOCKS == 1, "registers of a multiprocessor");
constexpr float LOG2E = 1.4426950408889634f;

// The same in all lanes, as the compiler must know to leave products in flight.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(~0u, (int)threadIdx.x / 128, 0); }

// The streamed tile of one step and the parity of its barriers.
struct Turn {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void next() { if (++stage == STAGES) { stage = 0; parity ^= 1; } }
};

template <bool VALUE> struct Flag {
    static constexpr bool value = VALUE;
};

// COUNT rows of a head, in copies of BOX rows.
template <int COUNT> __device__ __forceinline__ void copy_rows(u32 dst, const TensorMap* map, int head, int row, u32 bar) {
#pragma unroll
    for (int panel = 0; panel < PANELS; panel++)
#pragma unroll
        for (int r = 0; r < COUNT; r += BOX) copy_tile(dst + (panel * COUNT + r) * SPAN * 2, map, panel * SPAN, head, row + r, bar);
}

// d = a b^T over HEAD: 64 own rows and STREAM streamed ones.
__device__ __forceinline__ void multiply_rows(float (&d)[STREAM / 2], u32 own, u32 streamed) {
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) Product<STREAM>::shared(d, operand(own + columns16<64>(k)), operand(streamed + columns16<STREAM>(k)), k > 0);
}
// d += a b: a [64, STREAM] in registers, b the streamed rows.
__device__ __forceinline__ void add_product(float (&d)[HEAD / 2], const u32 (&a)[STREAM / 4], u32 streamed) {
#pragma unroll
    for (int k = 0; k < STREAM / 16; k++)
        Product<HEAD>::registers(d, a[4 * k], a[4 * k + 1], a[4 * k + 2], a[4 * k + 3], operand(streamed + k * 16 * SPAN * 2, STREAM * SPAN * 2), true);
}
// Zeros, there before any product is in flight.
template <int N> __device__ __forceinline__ void clear(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) d[i] = 0.f;
    pin(d);
}
template <int N> __device__ __forceinline__ void pack(u32 (&to)[N], const float (&from)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
}

// A thread's two rows of 64 own rows turned back by their positions, the first of the 64 at `position`.
__device__ __forceinline__ void turn_back(const float2* angles, int position, int valid, float (&d)[HEAD / 2]) {
    const int lane = threadIdx.x & 31, row = (threadIdx.x / 32 & 3) * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if constexpr (COLUMNS == 8) {
            // A column's partner, 4 columns on, is two lanes away.
            const float4 t = *reinterpret_cast<const float4*>(angles + (i64)(position + min(row + 8 * half, valid - 1)) * 4 + 2 * (lane & 1));
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float& a = d[2 * half + e];
                const float partner = __shfl_xor_sync(~0u, a, 2), c = e ? t.z : t.x, s = e ? t.w : t.y;
                a = lane & 2 ? a * c - partner * s : a * c + partner * s;
            }
            continue;
        }
        if (row + 8 * half >= valid) continue;
        const float2* at = angles + (i64)(position + row + 8 * half) * (HEAD / 2) + 2 * (lane & 3);
#pragma unroll
        for (int i = 0; i < HEAD / 16; i++) {
            // (cos, sin) of columns 8 i + 2 (lane & 3) and the next.
            const float4 t = *reinterpret_cast<const float4*>(at + 8 * i);
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float &a = d[4 * i + 2 * half + e], &b = d[4 * (i + HEAD / 16) + 2 * half + e];
                const float c = e ? t.z : t.x, s = e ? t.w : t.y, v = a;
                a = v * c + b * s;
                b = b * c - v * s;
            }
        }
    }
}

// A thread's two rows of 64 own rows: to + row ld, each value times its row's factor; 16 bytes a store where a row has 32 columns.
__device__ __forceinline__ void store_rows(elem* to, i64 ld, int valid, const float (&d)[HEAD / 2], float first, float second) {
    const int lane = threadIdx.x & 31, c = lane & 3, row = (threadIdx.x / 32 & 3) * 16 + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float factor = half ? second : first;
        elem* out = to + (i64)(row + 8 * half) * ld;
        if constexpr (HEAD % 32 == 0) {
#pragma unroll
            for (int i = 0; i < HEAD / 8; i += 4) {
                // Four lanes hold 4 x 8 columns pair by pair; turned, each holds 8 neighbouring ones.
                u32 v[4];
#pragma unroll
                for (int j = 0; j < 4; j++) v[j] = pack_bf16(d[4 * (i + j) + 2 * half] * factor, d[4 * (i + j) + 2 * half + 1] * factor);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const u32 got = __shfl_xor_sync(~0u, c & 2 ? v[j] : v[j + 2], 2);
                    if (c & 2) v[j] = got; else v[j + 2] = got;
                }
#pragma unroll
                for (int j = 0; j < 4; j += 2) {
                    const u32 got = __shfl_xor_sync(~0u, c & 1 ? v[j] : v[j + 1], 1);
                    if (c & 1) v[j] = got; else v[j + 1] = got;
                }
                if (row + 8 * half < valid) store_word(reinterpret_cast<uint4*>(out + 8 * (i + c)), make_uint4(v[0], v[1], v[2], v[3]));
            }
        } else if (row + 8 * half < valid) {
#pragma unroll
            for (int i = 0; i < COLUMNS / 8; i++)
                store_word(reinterpret_cast<u32*>(out + 8 * i + 2 * c), pack_bf16(d[4 * i + 2 * half] * factor, d[4 * i + 2 * half + 1] * factor));
        }
    }
}

// Shared by the kernels of a training step: rows of vectors, sums over a warp, index arithmetic.
//
// Matrices are [rows, cols] with `ld` elements from one row to the next. A thread moves VEC neighbouring elements at once: the host
// picks VEC = 16 bytes' worth where every address and stride allows it, else 1. Element type: DTYPE, as in common.cuh; statistics,
// sums, norm parameters and gradients of parameters are fp32.
#pragma once
#include "common.cuh"

struct alignas(VEC * sizeof(elem)) Elems { elem e[VEC]; };

__device__ __forceinline__ void load_floats(const elem* p, float (&v)[VEC]) {
    const Elems q = *reinterpret_cast<const Elems*>(p);
#pragma unroll
    for (int i = 0; i < VEC; i++) v[i] = to_float(q.e[i]);
}
__device__ __forceinline__ void store_floats(elem* p, const float (&v)[VEC]) {
    // Left to itself the compiler stores a vector of bf16 in four words.
    Vec<VEC, VEC * (int)sizeof(elem)> q;
    q.set(v);
    q.store(p);
}
// Parameters of neighbouring columns, at addresses as aligned as elements'.
__device__ __forceinline__ void load_params(const float* p, float (&v)[VEC]) {
    if constexpr (VEC % 4 == 0) {
#pragma unroll
        for (int i = 0; i < VEC; i += 4) {
            const float4 q = *reinterpret_cast<const float4*>(p + i);
            v[i] = q.x; v[i + 1] = q.y; v[i + 2] = q.z; v[i + 3] = q.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] = p[i];
    }
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int m = 16; m; m /= 2) v += __shfl_xor_sync(~0u, v, m);
    return v;
}
// a / b of numbers that mostly fit 32 bits, where a division takes a fifth of the instructions.
__device__ __forceinline__ i64 quotient(i64 a, i64 b) {
    return ((a | b) >> 32) == 0 ? (i64)((u32)a / (u32)b) : a / b;
}
// Thread's index into [rows, cols / VEC].
struct Place { i64 row; i64 col; bool valid; };
__device__ __forceinline__ Place place(i64 rows, i64 cols) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, per = cols / VEC;
    const i64 row = quotient(i, per);
    return {row, (i - row * per) * VEC, row < rows};
}

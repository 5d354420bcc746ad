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
    Elems q;
#pragma unroll
    for (int i = 0; i < VEC; i++) q.e[i] = from_float(v[i]);
    *reinterpret_cast<Elems*>(p) = q;
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int m = 16; m; m /= 2) v += __shfl_xor_sync(~0u, v, m);
    return v;
}
// Thread's index into [rows, cols / VEC].
struct Place { i64 row; i64 col; bool valid; };
__device__ __forceinline__ Place place(i64 rows, i64 cols) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x, per = cols / VEC;
    const i64 row = i / per;
    return {row, (i - row * per) * VEC, row < rows};
}

// Sums over rows in two stages of fixed order: bias gradients, and the second stage of norm gains.
//
//   column_sums: part[b, c] = sum of x[n, c] over the rows of block row b;  sum_rows: out[c] (+)= sum over b of part[b, c], fp32
// Entry points: column_sums (grid.x = column tiles of 32, grid.y = parts), sum_rows (grid.x = column tiles of 32). blockDim = 256.
// Defines: DTYPE, VEC = 1, ACCUMULATE.
#include "dense.cuh"

// The 8 warps' sums of 32 neighbouring columns, added in order; whole in warp 0.
__device__ __forceinline__ float over_warps(float sum) {
    __shared__ float shared[8][32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    shared[warp][lane] = sum;
    __syncthreads();
    for (int w = 1; w < 8; w++) sum = warp ? sum : sum + shared[w][lane];
    return sum;
}

extern "C" __global__ void __launch_bounds__(256) column_sums(const elem* x, i64 ldx, float* part, i64 rows, i64 cols) {
    const i64 col = (i64)blockIdx.x * 32 + (threadIdx.x & 31);
    float sum = 0.f;
    if (col < cols)
        for (i64 n = (i64)blockIdx.y * 8 + threadIdx.x / 32; n < rows; n += (i64)gridDim.y * 8) sum += to_float(x[n * ldx + col]);
    sum = over_warps(sum);
    if (threadIdx.x < 32 && col < cols) part[blockIdx.y * cols + col] = sum;
}

extern "C" __global__ void __launch_bounds__(256) sum_rows(const float* part, i64 ld, float* out, i64 parts, i64 cols) {
    const i64 col = (i64)blockIdx.x * 32 + (threadIdx.x & 31);
    float sum = 0.f;
    if (col < cols)
#pragma unroll 4
        for (i64 n = threadIdx.x / 32; n < parts; n += 8) sum += part[n * ld + col];
    sum = over_warps(sum);
    if (threadIdx.x < 32 && col < cols) out[col] = ACCUMULATE ? out[col] + sum : sum;
}

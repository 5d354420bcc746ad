// Second stage of every reduction: partial sums added in a fixed order, and written in the output's type.
//
//   out[i, j] = sum_{k < parts} part[k * part_stride + i * part_pitch + j],  i < rows, j < cols
// Entry point: sum_partials. grid.x = blocks over the elements of all jobs (job j from first_block[j]), grid.y = streams.
// A block adds 32 neighbouring columns, its 8 warps every 8th part, then the 8 sums in order.
#include "common.cuh"

constexpr int MAX_JOBS = 3;
struct Sum {
    const float* part;
    elem* out;
    i64 part_stride, part_pitch, ld_out, s_part, s_out, rows;
    int cols, parts, first_block, wide;
};
struct Sums {
    Sum job[MAX_JOBS];
    int jobs;
};

extern "C" __global__ void __launch_bounds__(256) sum_partials(const __grid_constant__ Sums s) {
    int j = 0;
    while (j + 1 < s.jobs && (int)blockIdx.x >= s.job[j + 1].first_block) j++;
    const Sum q = s.job[j];
    const float* part = q.part + blockIdx.y * q.s_part;
    elem* out = q.out + blockIdx.y * q.s_out;
    if (!q.wide) {
        // Few parts: one element per thread.
        const i64 i = (i64)(blockIdx.x - q.first_block) * 256 + threadIdx.x;
        if (i >= q.rows * q.cols) return;
        const i64 row = i / q.cols, col = i % q.cols;
        const float* src = part + row * q.part_pitch + col;
        float sum = 0.f;
#pragma unroll 8
        for (int k = 0; k < q.parts; k++) sum += src[k * q.part_stride];
        out[row * q.ld_out + col] = from_float(sum);
        return;
    }
    __shared__ float shared[8][33];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const i64 i = (i64)(blockIdx.x - q.first_block) * 32 + lane;
    const bool valid = i < q.rows * q.cols;
    const i64 row = valid ? i / q.cols : 0, col = valid ? i % q.cols : 0;
    const float* src = part + row * q.part_pitch + col;
    float sum = 0.f;
    if (valid)
#pragma unroll 4
        for (int k = warp; k < q.parts; k += 8) sum += src[k * q.part_stride];
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && valid) {
#pragma unroll
        for (int k = 1; k < 8; k++) sum += shared[k][lane];
        out[row * q.ld_out + col] = from_float(sum);
    }
}

// The backward of Mamba-2's recurrence by chunks (ssd.cuh): the gradients of b, c and the parameters, each sum by one writer.
//
//   dc = sum over the heads of a group of (e^G dy) S^T, + dproducts b;  db = sum of (e^(G[last] - G) dt x) dS^T, + dproducts^T c
// Heads are summed side by side, CHUNK columns of states at a time, the next ones on their way.
// Entry points: ssd_bc (grid.x = chunks x groups, grid.y = tiles of the state, of dc and db in turn), ssd_parameters (grid.x = heads).
// Defines: ssd.cuh.
#include "ssd.cuh"

// out = sum over columns of (weight from) states^T, + dproducts with (dproducts^T with BACK), in `parts` blocks of heads
template <bool BACK>
__device__ __forceinline__ void gradient(const elem* from, i64 ldf, const elem* with, i64 ldw, const int4* plan, const float* gates,
    const float* states, const float* dproducts, elem* out, i64 ldo, i64 heads, i64 groups, i64 parts) {
    constexpr int LD = across(CHUNK), LDW = along(TILE);
    extern __shared__ float4 shared[];
    float *a = reinterpret_cast<float*>(shared), *b = a + CHUNK * LD;
    const auto [chunk, group] = split(blockIdx.x, groups);
    const i64 in_group = split(heads, groups).whole;
    // Columns of the group's states side by side.
    const int s0 = blockIdx.y / 2 * TILE, cols = (int)in_group * PITCH;
    Rows64 r;
    if (!chunk_of(plan, chunk, r)) return;
    const float* gate = gates_of(gates, chunk, heads, group * in_group);
    const float* state = states + (chunk * heads + group * in_group) * STATE_SIZE * PITCH;
    // The states of columns k0 on, one half of b after the other.
    const auto ask = [&](int k0) {
        float* to = b + k0 / CHUNK % 2 * (TILE * LD);
#pragma unroll 4
        for (int i = threadIdx.x; i < TILE * (CHUNK / 4); i += THREADS) {
            const int s = i / (CHUNK / 4), k = i % (CHUNK / 4) * 4, col = k0 + k;
            const bool there = s0 + s < STATE_SIZE && col < cols;
            copy16(to + s * LD + k, state + (there ? (col / PITCH * STATE_SIZE + s0 + s) * PITCH + col % PITCH : 0), there);
        }
    };
    Sums<CHUNK, TILE> sums;
    sums.clear();
    ask(0);
    for (int k0 = 0; k0 < cols; k0 += CHUNK) {
        if (k0) __syncthreads();
        const auto column = [&](int k) { return k0 + k < cols && (k0 + k) % PITCH < HEAD_SIZE ? (k0 + k) / PITCH * HEAD_SIZE + (k0 + k) % PITCH : -1; };
        load_rows<CHUNK, X_VEC>(from + r.row * ldf + group * in_group * HEAD_SIZE, ldf, r.count, column, [&](int t, int k, float (&v)[X_VEC]) {
            const float* of = gate + (k0 + k < cols ? (k0 + k) / PITCH : 0) * (GATES * CHUNK) + t;
            const float weight = BACK ? of[DT * CHUNK] * of[TO_END * CHUNK] : of[FROM_START * CHUNK];
#pragma unroll
            for (int n = 0; n < X_VEC; n++) v[n] = operand(weight * v[n]);
            put(a + t * LD + k, v);
        });
        wait_copies();
        __syncthreads();
        if (k0 + CHUNK < cols) ask(k0 + CHUNK);
        sums.template add<CHUNK>(tile<LD>(a), tile<LD>(b + k0 / CHUNK % 2 * (TILE * LD)).transposed());
    }
    __syncthreads();
    const float* product = dproducts + (i64)blockIdx.x * parts * CHUNK * CHUNK;
#pragma unroll 2
    for (int i = threadIdx.x; i < CHUNK * CHUNK / 4; i += THREADS) {
        float4 sum = reinterpret_cast<const float4*>(product)[i];
#pragma unroll 4
        for (i64 n = 1; n < parts; n++) {
            const float4 v = reinterpret_cast<const float4*>(product)[n * (CHUNK * CHUNK / 4) + i];
            sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
        }
        const float four[4] = {operand(sum.x), operand(sum.y), operand(sum.z), operand(sum.w)};
        put(a + i / (CHUNK / 4) * LD + i % (CHUNK / 4) * 4, four);
    }
    load_tile<LDW>(with + r.row * ldw + group * STATE_SIZE, ldw, r.count, s0, b);
    __syncthreads();
    if constexpr (BACK) sums.template add<CHUNK>(tile<LD>(a).transposed(), tile<LDW>(b));
    else sums.template add<CHUNK>(tile<LD>(a), tile<LDW>(b));
    elem* to = out + r.row * ldo + group * STATE_SIZE + s0;
    sums.each([&](int t, int s, float& v, float& w) {
        if (t < r.count) store_two<B_VEC>(to + t * ldo, s, min(TILE, STATE_SIZE - s0), make_float2(v, w));
    });
}
extern "C" __global__ void __launch_bounds__(THREADS, X_VEC > 1 ? 3 : 2) ssd_bc(const elem* x, i64 ldx, const elem* b, i64 ldb, const elem* c, i64 ldc,
    const elem* dy, i64 lddy, const int4* plan, const float* gates, const float* states, const float* dstates, const float* dproducts,
    elem* db, i64 lddb, elem* dc, i64 lddc, i64 heads, i64 groups, i64 parts) {
    if (blockIdx.y & 1) gradient<true>(x, ldx, c, ldc, plan, gates, dstates, dproducts, db, lddb, heads, groups, parts);
    else gradient<false>(dy, lddy, b, ldb, plan, gates, states, dproducts, dc, lddc, heads, groups, parts);
}

// A head's gradients of a_log, dt_bias and d, of shares [chunks, heads, 3]; added to what they hold with add_*. One thread writes all
// three, which may be one parameter.
extern "C" __global__ void __launch_bounds__(THREADS) ssd_parameters(const double* shares, i64 chunks, i64 heads, float* da_log, i64 add_a_log,
    float* ddt_bias, i64 add_dt_bias, float* dd, i64 add_d) {
    __shared__ double part[3][THREADS];
    const i64 head = blockIdx.x;
    double sum[3] = {};
    for (i64 k = threadIdx.x; k < chunks; k += THREADS)
        for (int i = 0; i < 3; i++) sum[i] += shares[(k * heads + head) * 3 + i];
    for (int i = 0; i < 3; i++) part[i][threadIdx.x] = sum[i];
    for (int n = THREADS / 2; n; n /= 2) {
        __syncthreads();
        if (threadIdx.x < n)
            for (int i = 0; i < 3; i++) part[i][threadIdx.x] += part[i][threadIdx.x + n];
    }
    if (threadIdx.x == 0) {
        da_log[head] = (add_a_log ? da_log[head] : 0.f) + (float)part[0][0];
        ddt_bias[head] = (add_dt_bias ? ddt_bias[head] : 0.f) + (float)part[1][0];
        dd[head] = (add_d ? dd[head] : 0.f) + (float)part[2][0];
    }
}

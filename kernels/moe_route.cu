// The router of a mixture of experts: choice, sorting by expert, auxiliary losses; and the way back to the logits.
//
//   p[n] = softmax(logits[n]);  e[n, j] = the j-th largest of p[n] (+ bias), of equals the lowest;  w[n, j] = p[n, e[n, j]] (/ their sum)
//   aux = aux_scale sum_e count[e] sum_n p[n, e] + z_weight mean_n lse[n]^2,  aux_scale = weight E / (k N^2)
//   dl = p (r - <r, p> + 2 z_weight / N lse),  r[e] = aux_scale count[e] + dw[j] where e = e[n, j]; with RENORMALIZE (dw[j] - <w, dw>) / their sum
// Pair n k + j. Slots: pairs sorted by expert and then by pair, each expert's from a multiple of ROWS on, followed by slots of no token
// (NONE) up to the next; experts[tile]: whose the ROWS slots are, NONE past the last. The choice is that of the CPU op to the bit: its
// exponential, its order of sums. No atomics but on whole numbers.
// parts [blocks]: of each TOKENS tokens the counts [E], then sums of p [E], then the sum of lse^2; moe_plan leaves in the place of a count the first slot
// of the expert's pairs among these tokens.
// Entry points: moe_route, moe_route_bwd (a warp a token), moe_plan (one block of 1024), moe_place (a block per TOKENS).
// Defines: DTYPE, PER_LANE = experts of a lane, RENORMALIZE, VEC = 1. blockDim = 256 but for moe_plan.
#include "dense.cuh"

constexpr u32 NONE = ~0u;
constexpr int ROWS = 128, TOKENS = 32, WIDTH = 32 * PER_LANE;

// As crates/kernels/src/simd.rs has it, to the bit: no fused multiply-add.
__device__ __forceinline__ float exponential(float x) {
    const float low = -87.33654f, high = 88.37626f, round = 12582912.f;
    if (x != x) return x;
    const float clamped = fminf(fmaxf(x, low), high);
    const float rounded = __fadd_rn(__fmul_rn(clamped, 1.44269504088896340736f), round);
    const float n = __fsub_rn(rounded, round);
    const float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, -2.1219444e-4f));
    float p = 1.9875691e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3981999e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666666e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    const float e = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.f);
    return x < low ? 0.f : __uint_as_float(__float_as_uint(e) + (__float_as_uint(rounded) << 23));
}

// Larger scores have larger keys; NaN has the least.
__device__ __forceinline__ u32 key_of(float score) {
    const u32 bits = __float_as_uint(score);
    return score != score ? 1u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A lane's experts are lane, lane + 32 and so on; of a row of logits their softmax. Returns the log of the denominator.
__device__ __forceinline__ float softmax(const elem* logits, int experts, float (&p)[PER_LANE]) {
    const int lane = threadIdx.x & 31;
    float max = __uint_as_float(0xff800000u);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        p[i] = lane + 32 * i < experts ? to_float(logits[lane + 32 * i]) : __uint_as_float(0xff800000u);
        if (p[i] > max) max = p[i];
    }
#pragma unroll
    for (int m = 16; m; m /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, m));
    // Sixteen sums, lanes 16 to 31 after the first 16 of each 32, then pairwise.
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        p[i] = lane + 32 * i < experts ? exponential(p[i] - max) : 0.f;
        const float other = __shfl_xor_sync(~0u, p[i], 16);
        sum = __fadd_rn(__fadd_rn(sum, p[i]), other);
    }
#pragma unroll
    for (int m = 8; m; m /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, m));
    const float total = __shfl_sync(~0u, sum, 0);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) p[i] = __fdiv_rn(p[i], total);
    return max + logf(total);
}

extern "C" __global__ void __launch_bounds__(256) moe_route(const elem* logits, i64 ld, const float* bias, u32* choices, float* weights,
    float* parts, i64 rows, i64 experts, i64 top_k) {
    __shared__ float sums[8][WIDTH];
    __shared__ float squares[8];
    __shared__ u32 counts[WIDTH];
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, n_experts = (int)experts, k = (int)top_k;
    for (int e = threadIdx.x; e < WIDTH; e += 256) counts[e] = 0;
    __syncthreads();
    float sum[PER_LANE], square = 0.f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) sum[i] = 0.f;
    for (i64 n = (i64)blockIdx.x * TOKENS + warp; n < min((i64)(blockIdx.x + 1) * TOKENS, rows); n += 8) {
        float p[PER_LANE];
        const float log_sum = softmax(logits + n * ld, n_experts, p);
        u32 key[PER_LANE];
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int e = lane + 32 * i;
            sum[i] += p[i];
            key[i] = e < n_experts ? key_of(bias ? __fadd_rn(p[i], bias[e]) : p[i]) : 0;
        }
        square += log_sum * log_sum;
        // Lane j keeps the j-th choice.
        u32 choice = 0;
        float weight = 0.f;
        for (int j = 0; j < k; j++) {
            u32 best = 0;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) best = max(best, key[i]);
            best = __reduce_max_sync(~0u, best);
            u32 first = NONE;
#pragma unroll
            for (int i = PER_LANE - 1; i >= 0; i--) if (key[i] == best) first = lane + 32 * i;
            const u32 e = __reduce_min_sync(~0u, first);
            float own = 0.f;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) if (e == lane + 32 * i) { own = p[i]; key[i] = 0; }
            const float of_choice = __shfl_sync(~0u, own, e & 31);
            if (lane == j) { choice = e; weight = of_choice; }
        }
#if RENORMALIZE
        float total = 0.f;
        for (int j = 0; j < k; j++) total = __fadd_rn(total, __shfl_sync(~0u, weight, j));
        weight = __fdiv_rn(weight, total);
#endif
        if (lane < k) {
            choices[n * k + lane] = choice;
            weights[n * k + lane] = weight;
            atomicAdd(counts + choice, 1u);
        }
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) sums[warp][lane + 32 * i] = sum[i];
    if (lane == 0) squares[warp] = square;
    __syncthreads();
    float* part = parts + blockIdx.x * (2 * experts + 1);
    for (int e = threadIdx.x; e < n_experts; e += 256) {
        float all = 0.f;
        for (int w = 0; w < 8; w++) all += sums[w][e];
        reinterpret_cast<u32*>(part)[e] = counts[e];
        part[experts + e] = all;
    }
    if (threadIdx.x == 0) {
        float all = 0.f;
        for (int w = 0; w < 8; w++) all += squares[w];
        part[2 * experts] = all;
    }
}

// Counts, starts and tiles of all experts, the slots of no token, the load and the auxiliary losses. out: load [E], then aux. A thread has an
// expert and a share of the parts.
extern "C" __global__ void __launch_bounds__(1024) moe_plan(float* parts, u32* starts, u32* tile_experts, u32* tokens, float* slot_weights, u32* out,
    float aux_scale, float z_scale, i64 blocks, i64 experts, i64 tiles) {
    constexpr int GROUPS = 1024 / WIDTH;
    __shared__ u32 counts[GROUPS][WIDTH], loads[WIDTH], first_tile[WIDTH + 1];
    __shared__ double sums[GROUPS][WIDTH], squares[32];
    const int e = threadIdx.x % WIDTH, group = threadIdx.x / WIDTH, n_experts = (int)experts, width = 2 * n_experts + 1;
    const int share = ((int)blocks + GROUPS - 1) / GROUPS, from = min(group * share, (int)blocks), to = min(from + share, (int)blocks);
    u32 count = 0;
    double sum = 0., square = 0.;
    if (e < n_experts)
#pragma unroll 8
        for (int b = from; b < to; b++) {
            const float* part = parts + (i64)b * width;
            count += __float_as_uint(part[e]);
            sum += part[n_experts + e];
        }
    counts[group][e] = count;
    sums[group][e] = sum;
    for (int b = threadIdx.x; b < blocks; b += 1024) square += parts[(i64)b * width + 2 * n_experts];
#pragma unroll
    for (int m = 16; m; m /= 2) square += __shfl_xor_sync(~0u, square, m);
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
    __syncthreads();
    u32 before = 0, load = 0;
    for (int g = 0; g < GROUPS; g++) {
        if (g == group) before = load;
        load += counts[g][e];
    }
    if (group == 0) {
        for (int g = 1; g < GROUPS; g++) sum += sums[g][e];
        sums[0][e] = load * sum;
        loads[e] = load;
        if (e < n_experts) out[e] = load;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x;
        u32 of_lane = 0;
        double balance = 0., z = squares[lane];
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            of_lane += (loads[lane * PER_LANE + i] + ROWS - 1) / ROWS;
            balance += sums[0][lane * PER_LANE + i];
        }
        u32 first = of_lane;
#pragma unroll
        for (int m = 1; m < 32; m *= 2) {
            const u32 left = __shfl_up_sync(~0u, first, m);
            if (lane >= m) first += left;
        }
        if (lane == 31) first_tile[WIDTH] = first;
        first -= of_lane;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            first_tile[lane * PER_LANE + i] = first;
            first += (loads[lane * PER_LANE + i] + ROWS - 1) / ROWS;
        }
#pragma unroll
        for (int m = 16; m; m /= 2) {
            balance += __shfl_xor_sync(~0u, balance, m);
            z += __shfl_xor_sync(~0u, z, m);
        }
        if (lane == 0) out[experts] = __float_as_uint((float)((aux_scale == 0.f ? 0. : aux_scale * balance) + z_scale * z));
    }
    __syncthreads();
    u32 slot = first_tile[e] * ROWS + before;
    if (e < n_experts)
#pragma unroll 8
        for (int b = from; b < to; b++) {
            float* part = parts + (i64)b * width + e;
            const u32 of_part = __float_as_uint(*part);
            *part = __uint_as_float(slot);
            slot += of_part;
        }
    for (int i = threadIdx.x; i <= n_experts; i += 1024) starts[i] = first_tile[i] * ROWS;
    for (int i = threadIdx.x; i < n_experts * ROWS; i += 1024) {
        const u32 empty = first_tile[i / ROWS] * ROWS + loads[i / ROWS] + i % ROWS;
        if (empty >= first_tile[i / ROWS + 1] * ROWS) continue;
        tokens[empty] = NONE;
        slot_weights[empty] = 0.f;
    }
    for (int tile = threadIdx.x; tile < tiles; tile += 1024) {
        // The last expert that starts at or before the tile: of those that start together all but the last are idle.
        int low = 0, high = n_experts;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (first_tile[middle] <= tile) low = middle; else high = middle;
        }
        tile_experts[tile] = tile < first_tile[n_experts] ? (u32)low : NONE;
    }
}

// The slots of the block's pairs: after those of the same expert before them.
extern "C" __global__ void __launch_bounds__(256) moe_place(const u32* choices, const float* weights, const float* parts, u32* slots, u32* tokens,
    float* slot_weights, i64 rows, i64 experts, i64 top_k) {
    __shared__ u32 of_block[TOKENS * 32];
    const int k = (int)top_k, n0 = blockIdx.x * TOKENS, pairs = min(TOKENS, (int)rows - n0) * k;
    const i64 first = (i64)n0 * k;
    for (int i = threadIdx.x; i < pairs; i += 256) of_block[i] = choices[first + i];
    __syncthreads();
    const float* part = parts + (i64)blockIdx.x * (2 * experts + 1);
    for (int i = threadIdx.x; i < pairs; i += 256) {
        const u32 expert = of_block[i];
        const float weight = weights[first + i];
        u32 slot = __float_as_uint(part[expert]);
#pragma unroll 8
        for (int j = 0; j < i; j++) slot += of_block[j] == expert;
        slots[first + i] = slot;
        tokens[slot] = n0 + i / k;
        slot_weights[slot] = weight;
    }
}

// parts [F / 64, slots]: summands of the gradients of the slots' weights. load [E].
extern "C" __global__ void __launch_bounds__(256) moe_route_bwd(const elem* logits, i64 ld, const u32* choices, const float* weights, const u32* slots,
    const float* parts, const u32* load, const float* share, elem* dlogits, i64 lddl, float aux_scale, float z_scale, i64 rows, i64 experts, i64 top_k,
    i64 column_tiles, i64 capacity) {
    const i64 n = (i64)blockIdx.x * 8 + threadIdx.x / 32;
    if (n >= rows) return;
    const int lane = threadIdx.x & 31, k = (int)top_k, n_experts = (int)experts;
    float p[PER_LANE], row[PER_LANE];
    const float lse = softmax(logits + n * ld, n_experts, p);
    const float scale = share[0] * aux_scale;
    const u32 choice = lane < k ? choices[n * k + lane] : NONE;
    float dweight = 0.f;
    if (lane < k) {
        const float* part = parts + slots[n * k + lane];
        for (i64 t = 0; t < column_tiles; t++) dweight += part[t * capacity];
    }
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) row[i] = lane + 32 * i < n_experts ? scale * load[lane + 32 * i] : 0.f;
#if RENORMALIZE
    const float mean = warp_sum(lane < k ? weights[n * k + lane] * dweight : 0.f);
    float total = 0.f;
    for (int j = 0; j < k; j++) {
        const u32 e = __shfl_sync(~0u, choice, j);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) if (e == lane + 32 * i) total += p[i];
    }
    dweight = (dweight - mean) / warp_sum(total);
#endif
    for (int j = 0; j < k; j++) {
        const u32 e = __shfl_sync(~0u, choice, j);
        const float add = __shfl_sync(~0u, dweight, j);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) if (e == lane + 32 * i) row[i] += add;
    }
    float shift = 0.f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) shift += row[i] * p[i];
    shift = warp_sum(shift) - share[0] * z_scale * lse;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++)
        if (lane + 32 * i < n_experts) dlogits[n * lddl + lane + 32 * i] = from_float(p[i] * (row[i] - shift));
}

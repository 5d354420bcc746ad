// The gated delta rule: gradients of every chunk and head, from S at its start, v', dS at its end and dv'.
//
//   dr = T^T dv', dv = beta dr; dA = -dr v'^T, dP = do v'^T; with Dk = dr S^T, Dq = do S^T, De = v' dS^T (do over sqrt(KEY)):
//   dq = e^G Dq + dP' k, dk = e^(G[last] - G) De - beta e^G Dk + (dA' + dA'^T) k + dP'^T q, then both through the norms, ' with the factors
//   of A and P; and what the decays and beta pass to a and b. dr goes over dv', sums over values of dk and dq over w and q_start.
// Columns of values and keys pass by in parts of at most 64, so that any head fits.
// Entry points: delta_gradients, grid.x = slots heads; delta_parameters: gradients of a_log and dt_bias, from a share of each slot, added
// in order in f64, grid.x = heads.
// Defines: those of gated_delta_rule.cuh. Dynamic shared memory, floats: 10 64 PAIRS.
#include "gated_delta_rule.cuh"

constexpr int TILE = CHUNK * PAIRS;

__device__ __forceinline__ double warp_sum(double v) {
#pragma unroll
    for (int m = 16; m; m /= 2) v += __shfl_xor_sync(~0u, v, m);
    return v;
}

// What is summed by token.
struct Sums {
    double decay[CHUNK];
    float beta[CHUNK], by_state[CHUNK], by_end[CHUNK], by_query[CHUNK], along_k[CHUNK], along_q[CHUNK];
};

// Where a product is added: a matrix of TILE.
__device__ __forceinline__ auto added_to(float* sum) {
    return [=](int row, int col, float2 x) { add_pair(sum + row * PAIRS + col, x); };
}

// x(t, col) into neighbouring columns of a chunk's rows; of the COLS columns `cols` are there.
template <int COLS, typename X> __device__ __forceinline__ void store_rows(elem* to, i64 ld, int count, int cols, X x) {
    for (int i = threadIdx.x; i < CHUNK * (COLS / VEC); i += THREADS) {
        const int t = i / (COLS / VEC), col = i % (COLS / VEC) * VEC;
        if (t >= count || col >= cols) continue;
        float y[VEC];
#pragma unroll
        for (int e = 0; e < VEC; e++) y[e] = x(t, col + e);
        store_floats(to + t * ld + col, y);
    }
}

// f(t) for the tokens of this thread's warp.
template <typename F> __device__ __forceinline__ void by_token(F f) {
#pragma unroll 2
    for (int i = 0; i < CHUNK / TILE_WARPS; i++) f((int)threadIdx.x / 32 + i * TILE_WARPS);
}

// A dA + P dP of a pair: the same bits in the sum of its row and in that of its column, which cancel.
__device__ __forceinline__ float of_pair(float a, float da, float p, float dp) { return __fmaf_rn(p, dp, __fmul_rn(a, da)); }

// Of the decays: sums over pairs of A dA + P dP, and of beta: A dA over beta's; then dA' (on both sides of the diagonal) and dP'. a and p hold A and P.
__device__ __forceinline__ void pair_gradients(const Gates& gates, Sums& sums, const float* a, const float* p, float* da, float* dp) {
    const int lane = threadIdx.x & 31;
    by_token([&](int t) {
        double total = 0.;
        float by_beta = 0.f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int s = lane + 32 * i;
            // A token's row, and its column.
            const int row = t * PAIRS + s, column = s * PAIRS + t;
            if (s < t) {
                by_beta += a[row] * da[row];
                total += (double)of_pair(a[row], da[row], p[row], dp[row]);
            } else if (s > t)
                total -= (double)of_pair(a[column], da[column], p[column], dp[column]);
        }
        total = warp_sum(total);
        by_beta = warp_sum(by_beta);
        if (lane == 0) {
            sums.decay[t] = total;
            sums.beta[t] += by_beta;
        }
    });
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNK * CHUNK; i += THREADS) {
        const int t = i / CHUNK, s = i % CHUNK, at = t * PAIRS + s;
        if (s > t) { dp[at] = 0.f; continue; }
        const float decay = gates.between(t, s), d = s < t ? da[at] * gates.beta[t] * decay : 0.f;
        dp[at] *= decay;
        da[at] = d;
        da[s * PAIRS + t] = d;
    }
}

// da and db of the chunk, and its share of the gradients of a_log and dt_bias. By the first warp.
__device__ __forceinline__ void gate_gradients(const Gates& gates, const Sums& sums, double by_whole, const elem* a, i64 lda, elem* da, i64 ldda, elem* db,
    i64 lddb, float a_log, float dt_bias, int count, double* share) {
    if (threadIdx.x >= 32) return;
    // dG of this lane's two tokens, then their sum to the end: dg.
    double dg[2], total = 0.;
    float to_end = 0.f;
#pragma unroll
    for (int i = 1; i >= 0; i--) {
        const int t = 2 * threadIdx.x + i;
        const float by_end = gates.to_end[t] * sums.by_end[t], by_state = -gates.from_start[t] * sums.by_state[t];
        to_end += by_end;
        total += sums.decay[t] + (double)(gates.from_start[t] * sums.by_query[t]) + (double)(gates.beta[t] * by_state) - (double)by_end;
        dg[i] = total;
    }
    double after = total;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const double v = __shfl_down_sync(~0u, after, step);
        if (threadIdx.x + step < 32) after += v;
    }
    after += -total + by_whole + warp_sum((double)to_end);
    const float rate = expf(fminf(a_log, 60.f));
    double by_rate = 0., by_bias = 0.;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int t = 2 * threadIdx.x + i;
        if (t >= count) continue;
        const float by_g = (float)(dg[i] + after), beta = gates.beta[t];
        const float by_a = -by_g * rate / (1.f + expf(-(to_float(a[t * lda]) + dt_bias)));
        const float by_state = -gates.from_start[t] * sums.by_state[t];
        da[t * ldda] = from_float(by_a);
        db[t * lddb] = from_float((1.f - beta) * (sums.beta[t] + beta * by_state));
        by_rate += (double)(by_g * gates.log[t]);
        by_bias += (double)by_a;
    }
    by_rate = warp_sum(by_rate);
    by_bias = warp_sum(by_bias);
    if (threadIdx.x == 0) { share[0] = by_rate; share[1] = by_bias; }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) delta_gradients(DELTA_INPUTS, const elem* d_o, i64 lddo, const float* kept, const float* states,
    const float* written, const float* dstates, float* dwritten, float* dk_sum, float* dq_sum, elem* dq, i64 lddq, elem* dk, i64 lddk,
    elem* dv, i64 lddv, elem* da, i64 ldda, elem* db, i64 lddb, double* shares) {
    const i64 slot = blockIdx.x / (u32)heads, head = blockIdx.x - slot * heads, at = blockIdx.x;
    const Chunk chunk = chunk_in(cu, seqs, len, slot);
    if (chunk.count == 0) {
        if (threadIdx.x < 2) shares[2 * at + threadIdx.x] = 0.;
        return;
    }
    extern __shared__ float4 shared[];
    float* const tiles = reinterpret_cast<float*>(shared);
    float *const d_a = tiles, *const d_p = tiles + TILE;
    __shared__ Gates gates;
    __shared__ Sums sums;
    __shared__ float norm_k[CHUNK], norm_q[CHUNK];
    __shared__ double whole_of[TILE_WARPS];
    const int lane = threadIdx.x & 31, count = chunk.count;
    const float scale = 1.f / sqrtf((float)KEY);

    const elem *k_rows = k + chunk.row * ldk + head * KEY, *q_rows = q + chunk.row * ldq + head * KEY, *a_rows = a + chunk.row * lda + head;
    gates.read(a_rows, lda, b + chunk.row * ldb + head, ldb, a_log[head], dt_bias[head], count);
    inverse_norms(norm_k, k_rows, ldk, count);
    inverse_norms(norm_q, q_rows, ldq, count);
    if (threadIdx.x < CHUNK) {
        const int t = threadIdx.x;
        sums.beta[t] = sums.by_state[t] = sums.by_end[t] = sums.by_query[t] = sums.along_k[t] = sums.along_q[t] = 0.f;
    }
    for (int i = threadIdx.x; i < 2 * TILE; i += THREADS) d_a[i] = 0.f;
    __syncthreads();

    // Over the values: dr, dv, dA, dP.
    float *const a_pairs = tiles + 8 * TILE, *const p_pairs = tiles + 9 * TILE;
    {
        float *const t_inverse = tiles + 2 * TILE, *const d_v = tiles + 3 * TILE, *const v_new = tiles + 4 * TILE, *const d_r = tiles + 5 * TILE,
              *const d_out = tiles + 6 * TILE, *const v_rows = tiles + 7 * TILE;
        copy_work<CHUNK, CHUNK, PAIRS>(t_inverse, kept + at * 3 * CHUNK * CHUNK, CHUNK);
        copy_work<CHUNK, CHUNK, PAIRS>(a_pairs, kept + (at * 3 + 1) * CHUNK * CHUNK, CHUNK);
        copy_work<CHUNK, CHUNK, PAIRS>(p_pairs, kept + (at * 3 + 2) * CHUNK * CHUNK, CHUNK);
        for (int first = 0; first < VALUES; first += VALUE_PART) {
            const i64 from = head * VALUE + first;
            copy_work<CHUNK, VALUE_PART, PAIRS>(d_v, dwritten + at * CHUNK * VALUES + first, VALUES);
            copy_work<CHUNK, VALUE_PART, PAIRS>(v_new, written + at * CHUNK * VALUES + first, VALUES);
            commit_copies();
            load_rows<VALUE_PART, PAIRS>(d_out, d_o + chunk.row * lddo + from, lddo, count, VALUE - first, [&](int) { return scale; });
            load_rows<VALUE_PART, PAIRS>(v_rows, v + chunk.row * ldv + from, ldv, count, VALUE - first, [&](int t) { return gates.beta[t]; });
            wait_copies<0>();
            __syncthreads();
            product<CHUNK, VALUE_PART, CHUNK>(tile<PAIRS>(t_inverse).transposed(), tile<PAIRS>(d_v), [&](int row, int col, float2 x) {
                set_pair(d_r + row * PAIRS + col, x);
                set_pair(dwritten + (at * CHUNK + row) * VALUES + first + col, x);
            });
            __syncthreads();
            // d_a and d_p side by side, from d_r and d_out side by side.
            product<2 * CHUNK, CHUNK, VALUE_PART>(tile<PAIRS>(d_r), tile<PAIRS>(v_new).transposed(), [&](int row, int col, float2 x) {
                const float sign = row < CHUNK ? -1.f : 1.f;
                add_pair(d_a + row * PAIRS + col, make_float2(sign * x.x, sign * x.y));
            });
            by_token([&](int t) {
                float by_v = 0.f;
                for (int i = t * PAIRS + lane; i < t * PAIRS + VALUE_PART; i += 32) by_v += d_r[i] * v_rows[i];
                by_v = warp_sum(by_v);
                if (lane == 0) sums.beta[t] += by_v;
            });
            store_rows<VALUE_PART>(dv + chunk.row * lddv + from, lddv, count, VALUE - first,
                [&](int t, int col) { return gates.beta[t] * d_r[t * PAIRS + col]; });
            __syncthreads();
        }
        // dr is read again through L2.
        __threadfence();
    }

    pair_gradients(gates, sums, a_pairs, p_pairs, d_a, d_p);
    __syncthreads();

    // Over the keys, and for each part over the values.
    // by_q is where by_k ends, d_out where d_r does: one product serves both.
    float *const by_k = tiles + 2 * TILE, *const by_q = tiles + 3 * TILE, *const by_end = tiles + 4 * TILE;
    float *const d_r = tiles + 5 * TILE, *const d_out = tiles + 6 * TILE, *const v_new = tiles + 7 * TILE, *const state = tiles + 8 * TILE;
    float* const dstate = tiles + 9 * TILE;
    double by_whole = 0.;
    for (int key = 0; key < KEYS; key += KEY_PART) {
        for (int i = threadIdx.x; i < 3 * TILE; i += THREADS) by_k[i] = 0.f;
        for (int first = 0; first < VALUES; first += VALUE_PART) {
            copy_work<CHUNK, VALUE_PART, PAIRS>(d_r, dwritten + at * CHUNK * VALUES + first, VALUES);
            copy_work<CHUNK, VALUE_PART, PAIRS>(v_new, written + at * CHUNK * VALUES + first, VALUES);
            copy_work<KEY_PART, VALUE_PART, PAIRS>(state, states + (at * KEYS + key) * VALUES + first, VALUES);
            copy_work<KEY_PART, VALUE_PART, PAIRS>(dstate, dstates + (at * KEYS + key) * VALUES + first, VALUES);
            commit_copies();
            load_rows<VALUE_PART, PAIRS>(d_out, d_o + chunk.row * lddo + head * VALUE + first, lddo, count, VALUE - first, [&](int) { return scale; });
            wait_copies<0>();
            __syncthreads();
            product<2 * CHUNK, KEY_PART, VALUE_PART>(tile<PAIRS>(d_r), tile<PAIRS>(state).transposed(), added_to(by_k));
            product<CHUNK, KEY_PART, VALUE_PART>(tile<PAIRS>(v_new), tile<PAIRS>(dstate).transposed(), added_to(by_end));
            float products = 0.f;
            for (int i = threadIdx.x; i < KEY_PART * VALUE_PART; i += THREADS)
                products += state[i / VALUE_PART * PAIRS + i % VALUE_PART] * dstate[i / VALUE_PART * PAIRS + i % VALUE_PART];
            by_whole += (double)products;
            __syncthreads();
        }
        float *const keys = d_r, *const queries = d_out;
        load_rows<KEY_PART, PAIRS>(keys, k_rows + key, ldk, count, KEY - key, [&](int t) { return norm_k[t]; });
        load_rows<KEY_PART, PAIRS>(queries, q_rows + key, ldq, count, KEY - key, [&](int t) { return norm_q[t]; });
        __syncthreads();
        by_token([&](int t) {
            float state_dot = 0.f, end_dot = 0.f, query_dot = 0.f;
            const float beta = gates.beta[t], from_start = gates.from_start[t], to_end = gates.to_end[t];
            for (int i = t * PAIRS + lane; i < t * PAIRS + KEY_PART; i += 32) {
                state_dot += keys[i] * by_k[i];
                end_dot += keys[i] * by_end[i];
                query_dot += queries[i] * by_q[i];
                by_k[i] = to_end * by_end[i] - beta * from_start * by_k[i];
                by_q[i] *= from_start;
            }
            state_dot = warp_sum(state_dot);
            end_dot = warp_sum(end_dot);
            query_dot = warp_sum(query_dot);
            if (lane == 0) {
                sums.by_state[t] += state_dot;
                sums.by_end[t] += end_dot;
                sums.by_query[t] += query_dot;
            }
        });
        __syncthreads();
        product<2 * CHUNK, KEY_PART, CHUNK>(tile<PAIRS>(d_a), tile<PAIRS>(keys), added_to(by_k));
        __syncthreads();
        product<CHUNK, KEY_PART, CHUNK>(tile<PAIRS>(d_p).transposed(), tile<PAIRS>(queries), added_to(by_k));
        __syncthreads();
        by_token([&](int t) {
            float along_k = 0.f, along_q = 0.f;
            for (int col = lane; col < KEY_PART; col += 32) {
                const int i = t * PAIRS + col;
                along_k += keys[i] * by_k[i];
                along_q += queries[i] * by_q[i];
                dk_sum[(at * CHUNK + t) * KEYS + key + col] = by_k[i];
                dq_sum[(at * CHUNK + t) * KEYS + key + col] = by_q[i];
            }
            along_k = warp_sum(along_k);
            along_q = warp_sum(along_q);
            if (lane == 0) {
                sums.along_k[t] += along_k;
                sums.along_q[t] += along_q;
            }
        });
        __syncthreads();
    }
    by_whole = warp_sum(by_whole);
    if (lane == 0) whole_of[threadIdx.x / 32] = by_whole;
    __threadfence();
    __syncthreads();
    // Through the norms.
    const float *const k_sums = dk_sum + at * CHUNK * KEYS, *const q_sums = dq_sum + at * CHUNK * KEYS;
    for (int first = 0; first < KEYS; first += KEY_PART) {
        const int cols = KEY - first;
        copy_work<CHUNK, KEY_PART, PAIRS>(by_k, k_sums + first, KEYS);
        copy_work<CHUNK, KEY_PART, PAIRS>(by_q, q_sums + first, KEYS);
        commit_copies();
        load_rows<KEY_PART, PAIRS>(d_r, k_rows + first, ldk, count, cols, [&](int t) { return norm_k[t] * sums.along_k[t]; });
        load_rows<KEY_PART, PAIRS>(d_out, q_rows + first, ldq, count, cols, [&](int t) { return norm_q[t] * sums.along_q[t]; });
        wait_copies<0>();
        __syncthreads();
        const i64 to = head * KEY + first;
        store_rows<KEY_PART>(dk + chunk.row * lddk + to, lddk, count, cols,
            [&](int t, int col) { return norm_k[t] * (by_k[t * PAIRS + col] - d_r[t * PAIRS + col]); });
        store_rows<KEY_PART>(dq + chunk.row * lddq + to, lddq, count, cols,
            [&](int t, int col) { return norm_q[t] * (by_q[t * PAIRS + col] - d_out[t * PAIRS + col]); });
        __syncthreads();
    }
    by_whole = 0.;
    for (int i = 0; i < TILE_WARPS; i++) by_whole += whole_of[i];
    gate_gradients(gates, sums, by_whole * (double)gates.whole(), a_rows, lda, da + chunk.row * ldda + head, ldda, db + chunk.row * lddb + head, lddb,
        a_log[head], dt_bias[head], count, shares + 2 * at);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) delta_parameters(const double* shares, i64 slots, i64 heads, float* da_log, i64 add_log,
    float* ddt_bias, i64 add_bias) {
    __shared__ double of_warp[2][TILE_WARPS];
    const int head = blockIdx.x;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        double sum = 0.;
        for (i64 slot = threadIdx.x; slot < slots; slot += THREADS) sum += shares[(slot * heads + head) * 2 + i];
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) of_warp[i][threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x) return;
    // One after the other: both may be one parameter's.
    for (int i = 0; i < 2; i++) {
        double sum = 0.;
        for (int w = 0; w < TILE_WARPS; w++) sum += of_warp[i][w];
        float* const to = (i ? ddt_bias : da_log) + head;
        *to = (i ? add_bias : add_log) ? *to + (float)sum : (float)sum;
    }
}

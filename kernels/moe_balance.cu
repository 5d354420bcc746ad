// Loss-free balancing of a mixture: a bias that takes part in the choice alone, moved by what each expert gets above the mean.
//
//   excess[e] (+)= load[e] - k N / E;   bias[e] -= gamma sign(excess[e]), then minus their mean
// Entry points: moe_excess, rebalance (leaves the bias where norm, that of the step's gradients, is not finite). One block of 256; E <= 256.
// To the bit as the CPU has it: the mean is summed in order.
typedef long long i64;
typedef unsigned int u32;

extern "C" __global__ void __launch_bounds__(256) moe_excess(const u32* load, float* excess, i64 pairs, i64 experts, i64 accumulate) {
    const int e = threadIdx.x;
    if (e >= experts) return;
    const float v = (float)((double)load[e] - (double)pairs / (double)experts);
    excess[e] = accumulate ? excess[e] + v : v;
}

extern "C" __global__ void __launch_bounds__(256) rebalance(const float* excess, float* bias, const float* norm, float gamma, i64 experts) {
    __shared__ float moved[256], mean;
    const int e = threadIdx.x;
    if (!isfinite(norm[0])) return;
    if (e < experts) {
        const float x = excess[e];
        moved[e] = x != 0.f ? __fsub_rn(bias[e], copysignf(gamma, x)) : bias[e];
    }
    __syncthreads();
    if (e == 0) {
        float sum = 0.f;
        for (int i = 0; i < experts; i++) sum += moved[i];
        mean = sum / (float)experts;
    }
    __syncthreads();
    if (e < experts) bias[e] = moved[e] - mean;
}

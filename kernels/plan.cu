// The chunks of a packed batch, found on the device so that a captured graph serves any cu_seqlens.
//
//   plan[k] = {first row, sequence start, sequence end, sequence}, every sequence cut in chunks of `len` rows; first = -1 past the last.
// Entry point: plan_chunks, one block of 1024 threads; `chunks` = rows / len + seqs is enough for any lengths.
extern "C" __global__ void __launch_bounds__(1024) plan_chunks(const int* cu, int seqs, int len, int4* plan, int chunks) {
    __shared__ int count[1024], bounds[1024][2];
    const int i = threadIdx.x;
    int base = 0;
    for (int s0 = 0; s0 < seqs; s0 += 1024) {
        const int s = s0 + i;
        const int start = s < seqs ? cu[s] : 0, end = s < seqs ? cu[s + 1] : 0;
        count[i] = (end - start + len - 1) / len;
        bounds[i][0] = start; bounds[i][1] = end;
        __syncthreads();
        for (int step = 1; step < 1024; step *= 2) {
            const int v = i >= step ? count[i - step] : 0;
            __syncthreads();
            count[i] += v;
            __syncthreads();
        }
        for (int q = i / 32; q < min(1024, seqs - s0); q += 32) {
            const int from = q ? count[q - 1] : 0, n = count[q] - from;
            for (int k = i & 31; k < n; k += 32)
                if (base + from + k < chunks) plan[base + from + k] = make_int4(bounds[q][0] + k * len, bounds[q][0], bounds[q][1], s0 + q);
        }
        base += count[1023];
        __syncthreads();
    }
    for (int k = base + i; k < chunks; k += 1024) plan[k] = make_int4(-1, 0, 0, 0);
}

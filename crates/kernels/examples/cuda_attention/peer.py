#!/usr/bin/env python3
"""PyTorch's causal attention (scaled_dot_product_attention, flash and cuDNN backends) at the sizes of time.rs.

    python3 peer.py            prints: backend, sizes, forward ms, backward ms (median of 5 stretches of 20 calls between
    events; below about 0.1 ms that is the time of Python, not of the GPU)
"""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SIZES = [(4, 4096, 16, 64), (16, 2048, 12, 64), (4, 4096, 8, 128), (128, 128, 4, 32), (128, 128, 8, 16), (128, 128, 16, 8)]


def median(call, calls=20):
    for _ in range(3):
        call()
    times = []
    for _ in range(5):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        a.record()
        for _ in range(calls):
            call()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) / calls)
    return sorted(times)[2]


def main():
    print(torch.__version__, torch.cuda.get_device_name())
    for name, backend in [("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)]:
        for b, t, h, d in SIZES:
            q, k, v = torch.randn(b, t, 3, h, d, device="cuda", dtype=torch.bfloat16).permute(2, 0, 3, 1, 4).unbind()
            q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
            try:
                with sdpa_kernel(backend):
                    do = torch.randn(b, t, h, d, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
                    forward = median(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
                    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                    backward = median(lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True))
                print(f"{name:6} {b:4} {t:5} {h:3} {d:4}  {forward:8.4f}  {backward:8.4f}", flush=True)
            except RuntimeError as e:
                print(f"{name:6} {b:4} {t:5} {h:3} {d:4}  {str(e).splitlines()[0]}", flush=True)


main()

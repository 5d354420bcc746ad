#!/usr/bin/env python3
"""Peers of cuda_delta_rule, cuda_ssd and cuda_moe on the same GPU, at their sizes.

    python3 recurrences_peer.py --peers DIR [--only gdn|ssd|moe]

DIR holds the Python packages fla (https://github.com/fla-org/flash-linear-attention), mamba_ssm
(https://github.com/state-spaces/mamba) and einops; of the first two only the Triton kernels are imported. The mixture's peer is
PyTorch: torch.compile around its grouped products (torch._grouped_mm).
Prints: op, sizes, forward us, forward and backward us. Each is captured in a CUDA graph, so that Python takes no part; the median of 5
stretches of 20 replays between events. Inputs are bf16, gates f32 where the peer asks for that.
"""
import argparse
import sys
import types

import torch
import torch.nn.functional as F

# B, T, heads, key, value
GDN = [(32, 512, 2, 128, 128), (4, 4096, 2, 256, 512), (4, 4096, 8, 128, 128)]
# B, T, heads, head size, state, groups
SSD = [(32, 512, 8, 64, 64, 1), (4, 4096, 64, 19, 216, 1), (4, 4096, 24, 64, 128, 1)]
# tokens, D, experts, top k, F
MOE = [(16384, 256, 16, 2, 176), (16384, 1536, 128, 8, 256)]


def packages(folder, names):
    """Makes packages of these names whose __init__ is left out: it would import layers and models."""
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [f"{folder}/{name.replace('.', '/')}"]
        module.__version__ = "unknown"
        sys.modules[name] = module


def graph(call):
    """A function that replays what `call` queues."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        call()
    return captured.replay


def median_us(call, calls=20):
    replay = graph(call)
    times = []
    for _ in range(5):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        a.record()
        for _ in range(calls):
            replay()
        b.record()
        torch.cuda.synchronize()
        times.append(1e3 * a.elapsed_time(b) / calls)
    return sorted(times)[2]


def leaf(*shape, dtype=torch.bfloat16, scale=1.0):
    return (scale * torch.randn(*shape, device="cuda")).to(dtype).requires_grad_()


def measure(name, sizes, forward, inputs):
    def forward_only():
        with torch.no_grad():
            return median_us(forward)

    def both():
        dy = torch.randn_like(forward())
        return median_us(lambda: torch.autograd.grad(forward(), inputs, dy))

    for what, time in [("forward", forward_only), ("both", both)]:
        try:
            print(f"{name:4} {sizes}  {what:7} {time():8.1f}", flush=True)
        except Exception as e:  # A peer that does not take a size is not the end of the others.
            print(f"{name:4} {sizes}  {what:7} {type(e).__name__}: {str(e).splitlines()[0][:150]}", flush=True)


def gdn(folder):
    packages(folder, ["fla", "fla.ops", "fla.modules"])
    from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule

    for b, t, h, k, v in GDN:
        q, key, val = leaf(b, t, h, k), leaf(b, t, h, k), leaf(b, t, h, v)
        a, beta = leaf(b, t, h), leaf(b, t, h)
        a_log, dt_bias = leaf(h, dtype=torch.float32), leaf(h, dtype=torch.float32)

        def forward():
            return chunk_gated_delta_rule(
                q, key, val, a, beta, use_qk_l2norm_in_kernel=True, use_beta_sigmoid_in_kernel=True,
                use_gate_in_kernel=True, A_log=a_log, dt_bias=dt_bias)[0]

        measure("gdn", (b, t, h, k, v), forward, (q, key, val, a, beta, a_log, dt_bias))


def ssd(folder):
    absent = types.ModuleType("selective_scan_cuda")
    sys.modules["selective_scan_cuda"] = absent
    packages(folder, ["mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.utils"])
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    for b, t, h, p, s, groups in SSD:
        x, dt = leaf(b, t, h, p), leaf(b, t, h)
        bb, cc = leaf(b, t, groups, s), leaf(b, t, groups, s)
        a_log, dt_bias, d = (leaf(h, dtype=torch.float32, scale=0.1) for _ in range(3))

        def forward():
            return mamba_chunk_scan_combined(
                x, dt, -torch.exp(a_log), bb, cc, chunk_size=256, D=d, dt_bias=dt_bias, dt_softplus=True)

        measure("ssd", (b, t, h, p, s, groups), forward, (x, dt, bb, cc, a_log, dt_bias, d))


def moe(_folder):
    def layer(x, logits, gate, up, down, top_k):
        experts = gate.shape[0]
        weights, chosen = torch.softmax(logits.float(), -1).topk(top_k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        counts = (chosen.flatten()[:, None] == torch.arange(experts, device=x.device)).sum(0)
        ends = counts.cumsum(0).to(torch.int32)
        rows = x[order // top_k]
        hidden = F.silu(torch._grouped_mm(rows, gate, offs=ends)) * torch._grouped_mm(rows, up, offs=ends)
        out = torch._grouped_mm(hidden, down, offs=ends)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=order.device)
        return (out[back].view(x.shape[0], top_k, -1) * weights.to(x.dtype)[..., None]).sum(1)

    for n, d, experts, top_k, f in MOE:
        x, logits = leaf(n, d), leaf(n, experts)
        # [E, in, out] as views of [E, out, in], the layout of a linear layer.
        gate, up = (leaf(experts, f, d, scale=d**-0.5) for _ in range(2))
        down = leaf(experts, d, f, scale=f**-0.5)
        compiled = torch.compile(layer, dynamic=False)

        def forward():
            return compiled(x, logits, gate.mT, up.mT, down.mT, top_k)

        measure("moe", (n, d, experts, top_k, f), forward, (x, logits, gate, up, down))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the folder of the packages")
    parser.add_argument("--only", choices=["gdn", "ssd", "moe"])
    args = parser.parse_args()
    sys.path.insert(0, args.peers)
    print(torch.__version__, torch.cuda.get_device_name())
    for name, run in [("gdn", gdn), ("ssd", ssd), ("moe", moe)]:
        if args.only in (None, name):
            try:
                run(args.peers)
            except Exception as e:
                print(f"{name}: {type(e).__name__}: {e}", flush=True)


main()

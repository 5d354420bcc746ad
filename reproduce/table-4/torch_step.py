#!/usr/bin/env python3
"""The peer of table 4: a training step of the same Transformer in PyTorch, in one run on the same GPU.

torch.compile, bf16 autocast, flash attention, fused AdamW; the dynamic convolutions are the official Triton kernels of a clone
of OliverSieberling/dynamic-conv1d: rank 15 and a bias, on Q, K and V or after every linear. Random tokens; no clipping.

    python3 torch_step.py --kernels CLONE [--rows 300m.none,300m.qkv] > peer.csv

Prints row,ms_per_step,tokens_per_second,peak_gib: the file is for reproduce-table-4 --peer peer.csv.
"""
import argparse
import importlib
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# d_model, layers, heads, ffn, vocab, tied, batch, len
SIZES = {
    "150m": (768, 12, 12, 2048, 50304, False, 16, 2048),
    "300m": (1024, 16, 16, 2752, 100352, True, 4, 4096),
}
WIDTH, RANK = 4, 15


def official(clone):
    """f(x, z, U, static_w=None, residual=False)."""
    sys.path.insert(0, clone)
    return importlib.import_module("lowrank").lowrank_dynamic_convolution


class Static(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.conv = nn.Conv1d(d, d, WIDTH, padding=WIDTH - 1, groups=d, bias=False)

    def forward(self, x, _):
        return x + self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class LowRank(nn.Module):
    def __init__(self, function, d_in, d):
        super().__init__()
        self.function = function
        self.a = nn.Linear(d_in, RANK, bias=False)
        self.u = nn.Parameter(torch.zeros(RANK, WIDTH * d))
        self.b = nn.Parameter(torch.empty(WIDTH, d).uniform_(-0.5, 0.5))

    def forward(self, x, h):
        taps = dict(static_w=self.b.to(x.dtype), residual=True)
        return self.function(x.contiguous(), self.a(h).contiguous(), self.u.to(x.dtype), **taps)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    def __init__(self, d, heads, ffn, mode, function):
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_m = nn.RMSNorm(d), nn.RMSNorm(d)
        self.qkv, self.o = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate_up, self.down = nn.Linear(d, 2 * ffn, bias=False), nn.Linear(ffn, d, bias=False)
        make = lambda d_in, d_out: Static(d_out) if mode == "static" else LowRank(function, d_in, d_out)
        places = {} if mode == "none" else {"q": (d, d), "k": (d, d), "v": (d, d)}
        if mode == "all-linear":
            places |= {"o": (d, d), "gate_up": (d, 2 * ffn), "down": (ffn, d)}
        self.convs = nn.ModuleDict({name: make(*size) for name, size in places.items()})

    def conv(self, name, x, h):
        return self.convs[name](x, h) if name in self.convs else x

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        h = self.norm_a(x)
        q, k, v = (self.conv(name, y, h) for name, y in zip("qkv", self.qkv(h).chunk(3, -1)))
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        y = y.transpose(1, 2).reshape(b, t, d)
        x = x + self.conv("o", self.o(y), y)
        h = self.norm_m(x)
        gate, up = self.conv("gate_up", self.gate_up(h), h).chunk(2, -1)
        y = F.silu(gate) * up
        return x + self.conv("down", self.down(y), y)


class Model(nn.Module):
    def __init__(self, size, mode, function):
        super().__init__()
        d, layers, heads, ffn, vocab, tied, _, length = size
        self.embed = nn.Embedding(vocab, d)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList([Block(d, heads, ffn, mode, function) for _ in range(layers)])
        self.norm = nn.RMSNorm(d)
        self.head = None if tied else nn.Linear(d, vocab, bias=False)
        half = d // heads // 2
        angles = torch.arange(length)[:, None] * 1e4 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids, targets):
        x = self.embed(ids).to(torch.bfloat16)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        x = self.norm(x)
        logits = F.linear(x, self.embed.weight) if self.head is None else self.head(x)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


def measure(row, function, steps):
    name, mode = row.split(".")
    size = SIZES[name]
    vocab, batch, length = size[4], size[6], size[7]
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch.cuda.reset_peak_memory_stats()
    model = Model(size, mode, function).cuda()
    rule = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(model)
    ids, targets = (torch.randint(0, vocab, (batch, length), device="cuda") for _ in range(2))

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(ids, targets)
        loss.backward()
        rule.step()
        rule.zero_grad(set_to_none=True)

    for _ in range(4):
        step()
    torch.cuda.synchronize()
    start = time.time()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    seconds = (time.time() - start) / steps
    gib = torch.cuda.max_memory_allocated() / 2**30
    print(f"{row},{seconds * 1e3:.2f},{batch * length / seconds:.0f},{gib:.2f}", flush=True)
    del model, rule, compiled
    torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", help="clone of OliverSieberling/dynamic-conv1d")
    parser.add_argument("--rows", default="150m.none,150m.qkv,300m.none,300m.qkv,300m.all-linear")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    function = official(args.kernels) if args.kernels else None
    print("row,ms_per_step,tokens_per_second,peak_gib", flush=True)
    for row in args.rows.split(","):
        mode = row.split(".")[1]
        if function is None and mode not in ("none", "static"):
            print(f"{row}: needs --kernels", file=sys.stderr)
            continue
        measure(row, function, args.steps)


if __name__ == "__main__":
    main()

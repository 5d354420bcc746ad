#!/usr/bin/env python3
"""The models of step.rs in PyTorch eager on the CPU: the peer of our training step.

    python3 step_peer.py MODEL THREADS [--repeats N]     MODEL: gpt | moe | moe-many | recall-none | recall-static | recall-headwise | recall-lowrank

Prints: model,threads,fwdbwd_ms,step_ms (minimum over the repeats). gpt: 4 layers, d=256, 4 heads, FFN 1024, V=1024, LayerNorm,
GELU, learned positions left out, batch 8 x 256. recall: 2 layers, d=64, 2 heads, no MLP, RMSNorm, RoPE, V=64, batch 32 x 64.
moe: gpt's sizes with RMSNorm, RoPE and, for the MLP, 8 experts of 512, 2 to a token, moe-many 64 of 64, 8 to a token, both with a
shared expert of 256, auxiliary loss and z-loss. A step adds clipping and AdamW.
"""
import argparse
import math
import time

import torch
import torch.nn.functional as F


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Conv(torch.nn.Module):
    """y + conv(y), W = 4: static by F.conv1d, head-wise 32 and low-rank 16 by shifted products."""

    def __init__(self, kind, d, width=4, head=32, rank=16):
        super().__init__()
        self.kind, self.width, self.head = kind, width, head
        bound = 1 / math.sqrt(width)
        self.static_w = torch.nn.Parameter(torch.empty(width, d).uniform_(-bound, bound))
        if kind == "headwise":
            self.gen = torch.nn.Linear(d, width * d // head, bias=False)
        if kind == "lowrank":
            self.a = torch.nn.Linear(d, rank, bias=False)
            self.u = torch.nn.Parameter(torch.zeros(rank, width * d))

    def forward(self, y, h):
        b, t, d = y.shape
        if self.kind == "static":
            w = self.static_w.flip(0).t().unsqueeze(1)
            return y + F.conv1d(F.pad(y.transpose(1, 2), (self.width - 1, 0)), w, groups=d).transpose(1, 2)
        if self.kind == "headwise":
            taps = self.gen(h).view(b, t, d // self.head, 1, self.width)
            taps = taps.expand(-1, -1, -1, self.head, -1).reshape(b, t, d, self.width)
            taps = [taps[..., k] + self.static_w[k] for k in range(self.width)]
        else:
            full = (self.a(h) @ self.u).view(b, t, self.width, d)
            taps = [full[:, :, k] + self.static_w[k] for k in range(self.width)]
        out = y + taps[0] * y
        for k in range(1, self.width):
            out = out + taps[k] * F.pad(y, (0, 0, k, 0))[:, :t]
        return out


class Experts(torch.nn.Module):
    """SwiGLU experts: tokens sorted by expert, one slice of them through each, and added back to their places."""

    def __init__(self, d, experts, top_k, ffn, shared):
        super().__init__()
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.top_k, self.experts, self.router = top_k, experts, lin(d, experts)
        stack = lambda o, i: torch.nn.Parameter(torch.randn(experts, o, i) * 0.02)
        self.gate, self.up, self.down = stack(ffn, d), stack(ffn, d), stack(d, ffn)
        self.shared = torch.nn.ModuleList([lin(d, shared), lin(d, shared), lin(shared, d)])

    def forward(self, x):
        h = x.view(-1, x.shape[-1])
        logits = self.router(h)
        p = logits.softmax(-1)
        w, e = p.topk(self.top_k)
        w = w / w.sum(-1, keepdim=True)
        order = e.view(-1).argsort(stable=True)
        token, count = order // self.top_k, torch.bincount(e.view(-1), minlength=self.experts)
        parts = h[token].split(count.tolist())
        outs = [
            F.linear(F.silu(F.linear(part, self.gate[i])) * F.linear(part, self.up[i]), self.down[i])
            for i, part in enumerate(parts)
        ]
        out = torch.cat(outs) * w.view(-1)[order].unsqueeze(-1)
        gate, up, down = self.shared
        y = down(F.silu(gate(h)) * up(h)).index_add(0, token, out)
        balance = 0.01 * self.experts / e.numel() * (count * p.mean(0)).sum()
        self.aux = balance + 0.001 * logits.logsumexp(-1).square().mean()
        return y.view_as(x)


class Block(torch.nn.Module):
    def __init__(self, d, heads, ffn, conv, gpt, moe):
        super().__init__()
        norm = torch.nn.LayerNorm if gpt else torch.nn.RMSNorm
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.heads, self.gpt = heads, gpt
        self.n1, self.q, self.k, self.v, self.o = norm(d), lin(d, d), lin(d, d), lin(d, d), lin(d, d)
        self.conv = torch.nn.ModuleList([Conv(conv, d) for _ in range(3)]) if conv != "none" else None
        if ffn:
            self.n2, self.up, self.down = norm(d), lin(d, ffn), lin(ffn, d)
        if moe:
            self.n2, self.experts = norm(d), Experts(d, *moe)
        self.ffn, self.moe = ffn, moe

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        h = self.n1(x)
        qkv = [self.q(h), self.k(h), self.v(h)]
        if self.conv is not None:
            qkv = [c(y, h) for c, y in zip(self.conv, qkv)]
        q, k, v = [y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in qkv]
        if not self.gpt:
            q, k = rope(q, cos, sin), rope(k, cos, sin)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, d))
        if self.moe:
            return x + self.experts(self.n2(x))
        return x + self.down(F.gelu(self.up(self.n2(x)), approximate="tanh")) if self.ffn else x


class Model(torch.nn.Module):
    def __init__(self, vocab, d, layers, heads, ffn, conv, gpt, length, moe=None):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, d)
        self.blocks = torch.nn.ModuleList([Block(d, heads, ffn, conv, gpt, moe) for _ in range(layers)])
        self.norm = (torch.nn.LayerNorm if gpt else torch.nn.RMSNorm)(d)
        self.head = torch.nn.Linear(d, vocab, bias=False)
        dh = d // heads
        angle = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, dh, 2).float() / dh))
        self.cos, self.sin = torch.cat((angle.cos(),) * 2, -1), torch.cat((angle.sin(),) * 2, -1)

    def forward(self, ids, targets):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        return loss + sum(block.experts.aux for block in self.blocks if block.moe)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("threads", type=int)
    ap.add_argument("--repeats", type=int, default=12)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.model == "gpt":
        b, t, v, model = 8, 256, 1024, Model(1024, 256, 4, 4, 1024, "none", True, 256)
    elif args.model in ("moe", "moe-many"):
        moe = (8, 2, 512, 256) if args.model == "moe" else (64, 8, 64, 256)
        b, t, v, model = 8, 256, 1024, Model(1024, 256, 4, 4, 0, "none", False, 256, moe)
    else:
        b, t, v, model = 32, 64, 64, Model(64, 64, 2, 2, 0, args.model.removeprefix("recall-"), False, 64)
    ids = torch.arange(b * t).mul(7919).remainder(v).view(b, t)
    targets = torch.arange(b * t).mul(104729).add(1).remainder(v).view(b, t)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    passes, steps = [], []
    for _ in range(args.repeats):
        opt.zero_grad()
        start = time.perf_counter()
        model(ids, targets).backward()
        passes.append(time.perf_counter() - start)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        steps.append(time.perf_counter() - start)
    print(f"{args.model},{args.threads},{min(passes) * 1e3:.3f},{min(steps) * 1e3:.3f}")


main()

#!/usr/bin/env python3
"""The models of step.rs in PyTorch eager on the CPU: the peer of our training step.

    python3 step_peer.py MODEL THREADS [--repeats N]     MODEL: gpt | lm-none | lm-lowrank | deltanet | mamba | moe | moe-many | recall-none | recall-static | recall-headwise | recall-lowrank

Prints: model,threads,fwdbwd_ms,step_ms (minimum over the repeats). gpt: 4 layers, d=256, 4 heads, FFN 1024, V=1024, LayerNorm,
GELU, learned positions left out, batch 8 x 256. lm: the same with RMSNorm, RoPE, SwiGLU 688 and convolutions of q, k, v. recall: 2 layers, d=64, 2 heads, no MLP, RMSNorm, RoPE, V=64, batch 32 x 64.
moe: gpt's sizes with RMSNorm, RoPE and, for the MLP, 8 experts of 512, 2 to a token, moe-many 64 of 64, 8 to a token, both with a
shared expert of 256, auxiliary loss and z-loss. deltanet: Gated DeltaNet, 4 layers, d=256, 2 heads of key 64 and value 128, SwiGLU
688; mamba: Mamba-2, 16 heads of 19, state 54, 1 group; static convolutions with SiLU, chunks of 64. A step adds clipping and AdamW.
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


CHUNK = 64


class ConvSilu(torch.nn.Conv1d):
    """A linear RNN's own convolution."""

    def __init__(self, d):
        super().__init__(d, d, 4, groups=d, padding=3, bias=False)

    def forward(self, y):
        return F.silu(super().forward(y.transpose(1, 2))[..., : y.shape[1]].transpose(1, 2))


def chunks(x):
    """[B, T, H, D] to [B, H, T / CHUNK, CHUNK, D]."""
    b, t, h, d = x.shape
    return x.view(b, t // CHUNK, CHUNK, h, d).permute(0, 3, 1, 2, 4)


def pair_decays(total):
    """exp(G[t] - G[s]) for s <= t, 0 elsewhere."""
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    return (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(later, -math.inf).exp()


class DeltaNet(torch.nn.Module):
    def __init__(self, d, heads, key, value):
        super().__init__()
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.heads = heads
        self.q, self.k, self.v = lin(d, heads * key), lin(d, heads * key), lin(d, heads * value)
        self.convs = torch.nn.ModuleList([ConvSilu(heads * w) for w in (key, key, value)])
        self.a, self.b, self.g, self.o = lin(d, heads), lin(d, heads), lin(d, heads * value), lin(heads * value, d)
        self.a_log, self.dt_bias = torch.nn.Parameter(torch.zeros(heads)), torch.nn.Parameter(torch.zeros(heads))
        self.norm = torch.nn.RMSNorm(value)

    def forward(self, h):
        b, t, _ = h.shape
        q, k, v = [conv(lin(h)).view(b, t, self.heads, -1) for conv, lin in zip(self.convs, (self.q, self.k, self.v))]
        unit = lambda x: x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        beta = self.b(h).sigmoid().unsqueeze(-1)
        g = -self.a_log.exp() * F.softplus(self.a(h) + self.dt_bias)
        q, k, v, beta = chunks(unit(q) * q.shape[-1] ** -0.5), chunks(unit(k)), chunks(v), chunks(beta)
        total = chunks(g.unsqueeze(-1)).squeeze(-1).cumsum(-1)
        decays, grown = pair_decays(total), total.exp().unsqueeze(-1)
        a = ((k * beta) @ k.transpose(-1, -2) * decays).tril(-1)
        rhs = torch.cat((v * beta, k * (beta * grown)), -1)
        u, w = torch.linalg.solve_triangular(a, rhs, upper=False, unitriangular=True).split((v.shape[-1], k.shape[-1]), -1)
        attention, q = q @ k.transpose(-1, -2) * decays, q * grown
        k = k * (total[..., -1:] - total).exp().unsqueeze(-1)
        state, outs = q.new_zeros(b, self.heads, k.shape[-1], v.shape[-1]), []
        for c in range(t // CHUNK):
            written = u[:, :, c] - w[:, :, c] @ state
            outs.append(q[:, :, c] @ state + attention[:, :, c] @ written)
            state = state * grown[:, :, c, -1:] + k[:, :, c].transpose(-1, -2) @ written
        out = torch.stack(outs, 2).permute(0, 2, 3, 1, 4).reshape(b, t, self.heads, -1)
        return self.o((self.norm(out).view(b, t, -1)) * F.silu(self.g(h)))


class Mamba(torch.nn.Module):
    def __init__(self, d, heads, inner, states):
        super().__init__()
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.heads, self.states = heads, states
        self.into, self.dt, self.o = lin(d, 2 * inner + 2 * states), lin(d, heads), lin(inner, d)
        self.inner, self.conv = inner, ConvSilu(inner + 2 * states)
        self.a_log, self.dt_bias = torch.nn.Parameter(torch.zeros(heads)), torch.nn.Parameter(torch.zeros(heads))
        self.d, self.norm = torch.nn.Parameter(torch.ones(heads)), torch.nn.RMSNorm(inner)

    def forward(self, h):
        n, t, _ = h.shape
        z, xbc = self.into(h).split((self.inner, self.inner + 2 * self.states), -1)
        x, b, c = self.conv(xbc).split((self.inner, self.states, self.states), -1)
        x = x.reshape(n, t, self.heads, -1)
        dt = F.softplus(self.dt(h) + self.dt_bias)
        xdt = chunks(x * dt.unsqueeze(-1))
        total = chunks((-self.a_log.exp() * dt).unsqueeze(-1)).squeeze(-1).cumsum(-1)
        b, c = [y.reshape(n, 1, t // CHUNK, CHUNK, self.states) for y in (b, c)]
        out = (c @ b.transpose(-1, -2) * pair_decays(total)) @ xdt
        writes = b.transpose(-1, -2) @ (xdt * (total[..., -1:] - total).exp().unsqueeze(-1))
        whole, state, before = total[..., -1].exp()[..., None, None], torch.zeros_like(writes[:, :, 0]), []
        for i in range(t // CHUNK):
            before.append(state)
            state = state * whole[:, :, i] + writes[:, :, i]
        out = out + c @ torch.stack(before, 2) * total.exp().unsqueeze(-1)
        out = out.permute(0, 2, 3, 1, 4).reshape(n, t, self.heads, -1) + self.d[:, None] * x
        return self.o(self.norm(out.reshape(n, t, -1) * F.silu(z)))


class LinearBlock(torch.nn.Module):
    def __init__(self, d, ffn, mixer):
        super().__init__()
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.n1, self.n2, self.mixer, self.moe = torch.nn.RMSNorm(d), torch.nn.RMSNorm(d), mixer, None
        self.gate, self.up, self.down = lin(d, ffn), lin(d, ffn), lin(ffn, d)

    def forward(self, x, cos, sin):
        x = x + self.mixer(self.n1(x))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


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
            self.gate = None if gpt else lin(d, ffn)
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
        if not self.ffn:
            return x
        h = self.n2(x)
        up = self.up(h)
        return x + self.down(F.gelu(up, approximate="tanh") if self.gpt else F.silu(self.gate(h)) * up)


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
    elif args.model.startswith("lm-"):
        b, t, v, model = 8, 256, 1024, Model(1024, 256, 4, 4, 688, args.model.removeprefix("lm-"), False, 256)
    elif args.model in ("deltanet", "mamba"):
        b, t, v, model = 8, 256, 1024, Model(1024, 256, 0, 4, 0, "none", False, 256)
        mixer = (lambda: DeltaNet(256, 2, 64, 128)) if args.model == "deltanet" else (lambda: Mamba(256, 16, 304, 54))
        model.blocks = torch.nn.ModuleList([LinearBlock(256, 688, mixer()) for _ in range(4)])
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

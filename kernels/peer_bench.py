#!/usr/bin/env python3
"""Times the official Triton kernels on one GPU, row by row of table 2, for `reproduce-table-2 --peer`.

    python3 kernels/peer_bench.py --official FOLDER --out peer.csv [--budget SECONDS] [--rows headwise-16,lowrank-16]

FOLDER is a clone of github.com/OliverSieberling/dynamic-conv1d (headwise.py, lowrank.py). Needs torch, triton and
Python 3.11. Rows and shapes are those of reproduce/table-2/table-2.toml at scale small; rows that the official kernels
do not take (static, packed, decode) are left out, as are those that the budget does not reach.
Writes CSV: case, fwd_us, fwdbwd_us, limit_fwd_us, limit_fwdbwd_us, copy_tbs. Times are medians of CUDA-graph replays with
a cold L2 (256 MB cleared before each), bf16. The limit is the fewest bytes over the copy rate measured in this run.
"""
import argparse
import pathlib
import statistics
import sys
import time
import tomllib

import torch

PLAN = pathlib.Path(__file__).resolve().parent.parent / "reproduce/table-2/table-2.toml"
HEADER = "case,fwd_us,fwdbwd_us,limit_fwd_us,limit_fwdbwd_us,copy_tbs"


def timed(work, repetitions):
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repetitions):
        flush.zero_()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        work()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) * 1e3)
    return statistics.median(times)


def graphed(work, repetitions):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return timed(graph.replay, repetitions)


def rows(plan, only):
    """(id, resolved row) of scale small."""
    for row in plan["row"]:
        here = "small" in row.get("scales", ["small"])
        resolved = plan["base"] | plan["scale"]["small"] | row["set"]
        takes = resolved["filter"]["kind"] != "static" and not resolved.get("decode") and not resolved.get("sequences")
        if here and takes and (only is None or row["id"] in only):
            yield row["id"], resolved


def measure(row, official, rate):
    B, T, D, W = row["batch"], row["len"], row["d"], row["width"]
    make = lambda *shape, scale=1.0: (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale).requires_grad_()
    x, dy = make(B, T, D), torch.randn(B, T, D, device="cuda", dtype=torch.bfloat16)
    static_w = make(W, D, scale=0.1) if row.get("static_w") else None
    if row["filter"]["kind"] == "head-wise":
        op, filters = official.headwise, [make(B, T, D // row["filter"]["head_size"], W, scale=0.1)]
    else:
        rank = row["filter"]["rank"]
        op, filters = official.lowrank, [make(B, T, rank, scale=0.1), make(rank, W * D)]
    more = {"residual": bool(row.get("residual"))} | ({} if static_w is None else {"static_w": static_w})
    leaves = [x, *filters] + ([] if static_w is None else [static_w])

    def forward():
        with torch.no_grad():
            op(x, *filters, **more)

    def both():
        torch.autograd.grad(op(x, *filters, **more), leaves, dy)

    both()
    activation, taps = 2 * x.numel(), 2 * filters[0].numel()
    limit = lambda size: size / rate * 1e6
    times = [graphed(work, row["repetitions"]) for work in (forward, both)]
    return times + [limit(2 * activation + taps), limit(5 * activation + 3 * taps), rate / 1e12]


class Official:
    def __init__(self, folder):
        sys.path.insert(0, folder)
        from headwise import headwise_dynamic_convolution
        from lowrank import lowrank_dynamic_convolution

        self.headwise, self.lowrank = headwise_dynamic_convolution, lowrank_dynamic_convolution


def main():
    flags = argparse.ArgumentParser()
    flags.add_argument("--official", required=True)
    flags.add_argument("--out", required=True)
    flags.add_argument("--plan", default=PLAN)
    flags.add_argument("--rows", type=lambda text: text.split(","))
    flags.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no further row is begun")
    flags = flags.parse_args()
    start = time.monotonic()
    official = Official(flags.official)
    source = torch.randn(1 << 29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    rate = 4 * source.numel() / (timed(lambda: target.copy_(source), 20) * 1e-6)
    del source, target
    print(torch.cuda.get_device_name(0), "torch", torch.__version__, file=sys.stderr)
    with open(flags.plan, "rb") as file, open(flags.out, "w") as out:
        print(HEADER, file=out, flush=True)
        for name, row in rows(tomllib.load(file), flags.rows):
            if time.monotonic() - start > flags.budget:
                print("budget spent before", name, file=sys.stderr)
                break
            values = measure(row, official, rate)
            line = ",".join([name] + [f"{v:.1f}" for v in values[:-1]] + [f"{values[-1]:.3f}"])
            print(line, file=out, flush=True)
            print(f"{line}  after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


main()

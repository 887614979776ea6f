"""Measure the peak memory of training one member of 100 million parameters, beside a bare loop of AdamW in PyTorch.

python tests/benchmarks/one_member.py          # each in a process of its own; prints both peaks and their ratio
"""

import resource
import subprocess
import sys

import torch
from torch import nn

WIDTH, DEPTH, ROWS, STEPS = 2048, 24, 64, 3


class Deep(nn.Module):
    """Hold DEPTH matrices of WIDTH x WIDTH."""

    def __init__(self, schema: object = None, num_outputs: int = 1) -> None:
        super().__init__()
        stack = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
        self.stack = nn.Sequential(*stack, nn.Linear(WIDTH, num_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map rows to outputs."""
        return self.stack(x)


def bare() -> None:
    """Train with AdamW alone."""
    module = Deep()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
    for step in range(STEPS):
        x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(x) - 1).square().mean().backward()
        optimizer.step()


def ours() -> None:
    """Train as a pack of one, validate, keep the best, and predict with it as a trial does at its end."""
    from fmray.records import Target
    from fmray.schema import Column, Schema
    from fmray.spec.ref import Ref
    from fmray.spec.sections import Train
    from fmray.tasks.task import Batch, Places
    from fmray.train.pack import Pack, Plan
    from fmray.train.step import train_step

    schema = Schema((Column("v", "vector", WIDTH),))
    target = Target(("y",), "number", mean=(0.0,), scale=(1.0,))
    plan = Plan(0, 0, model=Ref("one_member:Deep"), optimizer=Ref("adamw"), task=Ref("regression"), params={})
    pack = Pack([plan], schema, target, train=Train(batch_rows=ROWS), higher_is_better=True)
    for step in range(STEPS):
        x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(step))
        rows = Batch({"x": x}, torch.ones(ROWS, 1), None, torch.arange(ROWS), Places.counted(0, ROWS))
        train_step(pack, rows, 1.0)
    pack.keep_best(torch.arange(1))
    with pack.at_best() as every, torch.no_grad():
        every.population.prepare_step(0, None)
        every.population(rows)
    tensors = pack.member_tensors(0)
    assert sum(tensor.numel() for tensor in tensors.values()) > 1e8


def main() -> None:
    """Run one of both, or compare them."""
    if len(sys.argv) > 1:
        {"bare": bare, "ours": ours}[sys.argv[1]]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    peaks = {name: int(subprocess.check_output([sys.executable, __file__, name])) for name in ("bare", "ours")}
    shown = ", ".join(f"{name} {peak / 2**20:,.0f} MiB" for name, peak in peaks.items())
    print(f"{shown}, ratio {peaks['ours'] / peaks['bare']:.2f}")


if __name__ == "__main__":
    main()

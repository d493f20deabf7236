"""What turning activations by a compound matrix costs: QuIC's action beside the dense matrix of its released scheme.

The released scheme builds the d x d matrix R of all minors in every forward pass and multiplies. We build it here in
the way that is kindest to it, each minor of order 3 from three of order 2, all vectorised; ours multiplies small
matrices (`ketune.adapters.compound`) or, where a cost model finds that cheaper, applies itself to the identity first.
One pass is forward and backward of `(R - I) y` on a batch of activations, with gradients for y and for the rotation.
Values and gradients of both must agree to 1e-4 of the largest before anything is timed. LoRA stands beside them.

    python benchmarks/compounds.py
    python benchmarks/compounds.py --widths 4096 --tokens 512
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import combinations
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ketune import QuicConfig
from ketune.adapters.orthogonal import cayley_change, skew


class DenseCompounds(nn.Module):
    """`(R - I) y` with R, the direct sum of compounds, as a matrix."""

    def __init__(self, width: int, n: int, orders: tuple[int, ...], values: Tensor) -> None:
        super().__init__()
        self.width, self.n, self.orders = width, n, orders
        self.values = nn.Parameter(values.clone())
        self.sets = [torch.tensor(list(combinations(range(n), k))) for k in range(1, max(orders) + 1)]
        if max(orders) >= 3:  # for a triple (a, b, c) the pairs that are left when one of its members is taken out
            pairs = {each: i for i, each in enumerate(combinations(range(n), 2))}
            triples = combinations(range(n), 3)
            self.rests = torch.tensor([[pairs[b, c], pairs[a, c], pairs[a, b]] for a, b, c in triples])

    def minors(self, q: Tensor) -> list[Tensor]:
        compounds = [q]
        if max(self.orders) >= 2:
            i, j = self.sets[1].T
            compounds.append(q[i][:, i] * q[j][:, j] - q[i][:, j] * q[j][:, i])
        if max(self.orders) >= 3:
            first = self.sets[2][:, 0]
            terms = [
                (-1) ** m * q[first][:, self.sets[2][:, m]] * compounds[1][self.rests[:, 0]][:, self.rests[:, m]]
                for m in range(3)
            ]
            compounds.append(terms[0] + terms[1] + terms[2])
        return [compounds[k - 1] for k in self.orders]

    def forward(self, y: Tensor) -> Tensor:
        q = cayley_change(skew(self.values, self.n)) + torch.eye(self.n)
        blocks = self.minors(q)
        rest = self.width - sum(len(block) for block in blocks)
        matrix = torch.block_diag(*blocks, torch.eye(rest))
        return y @ matrix.T - y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"forward and backward on {options.tokens} activations, median ms of CPU time\n")
    print(f"{'width':>6}{'orders':>10}{'n':>5}{'params':>8}{'ours':>10}{'dense':>10}{'ratio':>8}{'LoRA r=8':>10}")
    for width in options.widths:
        for orders in ([1, 2], [1, 2, 3]):
            row(width, orders, options.tokens, options.turns)


def row(width: int, orders: list[int], tokens: int, turns: int) -> None:
    """Check one setting, time it and print a line."""
    torch.manual_seed(0)
    ours: Any = QuicConfig(orders=orders).make_update(width, width)
    ours.randomize()
    ours.values.data.mul_(2 / math.sqrt(ours.blocks.n))
    dense = DenseCompounds(width, ours.blocks.n, ours.blocks.orders, ours.values.detach()[0])
    lora = nn.Sequential(nn.Linear(width, 8, bias=False), nn.Linear(8, width, bias=False))
    y, weight = torch.randn(tokens, width), torch.randn(tokens, width)

    def call(function: Callable[[Tensor], Tensor]) -> Tensor:
        features = y.clone().requires_grad_()
        (function(features) * weight).sum().backward()
        assert features.grad is not None
        return features.grad

    assert torch.allclose(ours.turn(y), dense(y), atol=1e-4 * float(y.abs().max())), "the two changes differ"
    assert torch.allclose(call(ours.turn), call(dense), atol=1e-4 * float(weight.abs().max())), "gradients differ"
    theirs = dense.values.grad
    assert theirs is not None
    assert torch.allclose(ours.values.grad[0], theirs, atol=1e-4 * float(theirs.abs().max())), "gradients differ"
    seconds: dict[str, list[float]] = {"ours": [], "dense": [], "lora": []}
    for _ in range(turns):
        for name, function in (("ours", ours.turn), ("dense", dense), ("lora", lora)):
            start = time.process_time()
            call(function)
            seconds[name].append(time.process_time() - start)
    a, b, c = (1e3 * median(seconds[name]) for name in ("ours", "dense", "lora"))
    count = ours.values.numel()
    print(f"{width:6}{orders!s:>10}{ours.blocks.n:5}{count:8,}{a:10.1f}{b:10.1f}{b / a:8.1f}{c:10.1f}", flush=True)


if __name__ == "__main__":
    main()

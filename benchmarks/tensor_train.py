"""A tensor-train matrix applied core by core, made once and multiplied, and by `torch.einsum`: forward and backward.

One thread. `torch.einsum` takes the path that opt_einsum finds where that package is installed, else from the left.

The cost model of `TrainLinear.prefers_dense` rests on these times: how much longer a multiplication takes in the small
products of a chain, and how many vectors' worth of time it takes to make the matrix. All ways must give the same
output before anything is timed. Figures are the best of several turns, in CPU time.

    python benchmarks/tensor_train.py
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from ketune.tensor_networks import TrainLinear, TrainMatrix

SHAPES = [(32, 160), (160, 32), (256, 768), (256, 3584), (3584, 256), (256, 18944), (1024, 1024)]
MOST_WORK = 3e9
"""Shapes and numbers of vectors with more multiplications than this are left out."""


def best(call: Callable[[], object], turns: int) -> float:
    """Milliseconds of CPU time, the best of several turns after one that is not counted."""
    seen = []
    for turn in range(turns + 1):
        start = time.process_time()
        call()
        if turn:
            seen.append(time.process_time() - start)
    return 1e3 * min(seen)


def einsum_of(shape: TrainMatrix) -> str:
    """The product of vectors in modes with all cores, as one equation."""
    d = len(shape.in_modes)
    ins, outs, bonds = "ijklmn"[:d], "opqrst"[:d], "abcdefg"[: d + 1]
    cores = [bonds[k] + outs[k] + ins[k] + bonds[k + 1] for k in range(d)]
    return ",".join(["z" + ins, *cores]) + "->z" + outs


def compare(shape: TrainMatrix, n_vectors: int, turns: int) -> tuple[float, float, float, bool]:
    """Milliseconds made dense, core by core and by einsum, and whether the cost model makes the matrix."""
    layer = TrainLinear(shape)
    x = torch.randn(n_vectors, shape.in_features)

    def dense(features: torch.Tensor) -> torch.Tensor:
        return F.linear(features, layer.dense())

    def chain(features: torch.Tensor) -> torch.Tensor:
        return shape.apply(list(layer.cores), features)

    equation = einsum_of(shape)

    def einsum(features: torch.Tensor) -> torch.Tensor:
        padded = F.pad(features, (0, math.prod(shape.in_modes) - shape.in_features))
        out = torch.einsum(equation, padded.reshape(-1, *shape.in_modes), *layer.cores)
        return out.flatten(1)[:, : shape.out_features]

    with torch.no_grad():
        wanted = dense(x)
        for way in (chain, einsum):
            assert torch.allclose(way(x), wanted, atol=1e-4 * float(wanted.abs().max())), f"{shape}: the ways differ"

    def step(way: Callable[[torch.Tensor], torch.Tensor]) -> None:
        layer.zero_grad()
        way(x.clone().requires_grad_()).sum().backward()

    made, chained, einsummed = (best(lambda way=way: step(way), turns) for way in (dense, chain, einsum))
    return made, chained, einsummed, layer.prefers_dense(n_vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=8, help="rank of the trains")
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'out x in':>14}{'vectors':>9}{'made dense, ms':>16}{'core by core, ms':>18}{'einsum, ms':>12}{'chosen':>14}"
    )
    for out_features, in_features in SHAPES:
        shape = TrainMatrix.balanced(out_features, in_features, options.rank)
        for n_vectors in (1, 4, 16, 256, 2048):
            if n_vectors * shape.n_multiplications > MOST_WORK:
                continue
            made, chained, einsummed, prefers = compare(shape, n_vectors, options.turns)
            chosen = "dense" if prefers else "core by core"
            print(
                f"{out_features:>6} x {in_features:<5}{n_vectors:9}{made:16.2f}{chained:18.2f}{einsummed:12.2f}"
                f"{chosen:>14}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What building the columns of Quantum-PEFT's circuits costs: our path beside `ketune.circuits.run`.

`run` applies the circuit to K basis states and reads all amplitudes, which serves any circuit on a batch of states;
`CircuitColumns` knows the circuit's layers and any width. One pass is forward and backward for both sides of a square
layer (two sets of angles), K columns each. Where both apply (powers of two) they must agree to 1e-5 first.

    python benchmarks/columns.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from ketune.adapters.circuit_columns import CircuitColumns, count_wires
from ketune.circuits import run, simplified_two_design


def milliseconds(call: Callable[[], object], turns: int) -> float:
    """Median CPU time after a warm-up."""
    call()
    seen = []
    for _ in range(turns):
        start = time.process_time()
        call()
        seen.append(time.process_time() - start)
    return 1e3 * median(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 160, 256, 768, 1024, 4096, 11008])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.rank} columns of both sides, forward and backward, median ms of CPU time, one thread\n")
    print(f"{'width':>6}{'angles':>8}{'ours':>10}{'run':>10}")
    for width in options.widths:
        row(width, options.rank, options.layers, options.turns)


def row(width: int, rank: int, n_layers: int, turns: int) -> None:
    """Check one width, time it and print a line."""
    torch.manual_seed(0)
    columns = CircuitColumns(width, rank, n_layers)
    angles = torch.randn(2, columns.n_angles, requires_grad=True)
    weight = torch.randn(2, width, rank)
    circuit, basis = simplified_two_design(count_wires(width), n_layers), torch.eye(rank)

    def by_run() -> Tensor:
        return torch.stack([run(circuit, basis, each, readout="amplitudes").mT for each in angles])

    ours = milliseconds(lambda: (columns(angles) * weight).sum().backward(), turns)
    theirs = "-"
    if width & (width - 1) == 0:
        assert torch.allclose(by_run(), columns(angles), atol=1e-5), "the two ways differ"
        few = max(1, min(turns, 4096 // width))
        theirs = f"{milliseconds(lambda: (by_run() * weight).sum().backward(), few):.2f}"
    print(f"{width:6}{columns.n_angles:8}{ours:10.2f}{theirs:>10}", flush=True)


if __name__ == "__main__":
    main()

"""QuanTA's update beside the same update as its released code computes it: time, memory, and small updates in bfloat16.

For each list of axes and number of tokens one forward and backward pass of one layer is timed:

- ours gate by gate ("factored"), ours by the matrix ("materialised"), and which of them `execution="auto"` takes;
- the released scheme, written by us: one `einsum` over activations and all gates of the trained circuit, with autograd
  keeping what lies between. It has one circuit only, because the release folds the start circuit into the base weight,
  in the weight's dtype and for good; ours computes the difference of both. With opt_einsum installed the contraction
  path is chosen as in the release (exhaustively, for a stand-in batch of 100), else gates act from left to right;
- the released matrix: the `einsum` without activations, then a product by the matrix;
- LoRA of rank 8.

Before anything is timed, all forms must agree in outputs and gradients. Memory is what autograd keeps from forward to
backward beyond input and weights, and the highest point of a pass. Turns are taken in rotation; figures are medians.

The last table is the error of an update in bfloat16 by the size of the offsets: the difference of the two circuits
against our two streams, both relative to float64.

    python benchmarks/gate_adapters.py
    python benchmarks/gate_adapters.py --axes 16,8,8,4 --tokens 256 1024
"""

from __future__ import annotations

import argparse
import json
import math
import string
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ketune import QuantaConfig
from ketune.tensor_networks.gate_graphs import gate_pairs
from ketune.tensor_networks.two_streams import difference, is_cheaper_dense
from training_step import kept_bytes, peak_bytes, rotate


def equation(n_axes: int, activations: bool) -> str:
    """The circuit of all pairs as one einsum, with activations (z is the token) or as a matrix."""
    fresh = iter(string.ascii_lowercase[:25] + string.ascii_uppercase)
    current = [next(fresh) for _ in range(n_axes)]
    columns = list(current)
    gates = []
    for m, n in gate_pairs("all_pairs", n_axes):
        out = next(fresh), next(fresh)
        gates.append("".join((*out, current[m], current[n])))
        current[m], current[n] = out
    if activations:
        return f"z{''.join(columns)},{','.join(gates)}->z{''.join(current)}"
    return f"{','.join(gates)}->{''.join(current + columns)}"


def contraction(text: str, shapes: list[tuple[int, ...]]) -> Any:
    """A function of the operands, with the path of the release where opt_einsum is there."""
    if find_spec("opt_einsum") is None:
        return lambda *operands: torch.einsum(text, *operands)
    import opt_einsum

    return opt_einsum.contract_expression(text, *shapes, optimize="optimal" if len(shapes) <= 7 else "branch-2")


class Released(nn.Module):
    """The trained circuit alone; the release has subtracted the start from the base weight."""

    def __init__(self, axes: list[int], gates: list[Tensor], dense: bool) -> None:
        super().__init__()
        self.axes, self.dense = axes, dense
        self.gates = nn.ParameterList(gate.clone() for gate in gates)
        shapes = [tuple(gate.shape) for gate in gates]
        if not dense:
            shapes = [(100, *axes), *shapes]
        self.contract = contraction(equation(len(axes), not dense), shapes)

    def forward(self, x: Tensor) -> Tensor:
        if self.dense:
            width = math.prod(self.axes)
            return x @ self.contract(*self.gates).reshape(width, width).T
        return self.contract(x.reshape(-1, *self.axes), *self.gates).reshape(x.shape)


def step(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """One forward and backward pass; the gradient of the input."""
    features = x.clone().requires_grad_()
    module.zero_grad()
    module(features).backward(weight)
    assert features.grad is not None
    return features.grad


def forms(axes: list[int]) -> tuple[dict[str, nn.Module], Any]:
    """The updates by name, with equal gates, and ours."""
    width, generator = math.prod(axes), torch.Generator().manual_seed(0)
    ours: dict[str, Any] = {
        name: QuantaConfig(axes=axes, execution=name).make_update(width, width) for name in ("factored", "materialised")
    }
    for update in ours.values():
        values = 0.05 * torch.randn(update.offsets.shape, generator=generator.manual_seed(1))
        update.offsets.data.copy_(values)
    gates = [gate.detach() for gate in ours["factored"].gates()]
    lora = nn.Sequential(nn.Linear(width, 8, bias=False), nn.Linear(8, width, bias=False))
    modules: dict[str, nn.Module] = {
        "LoRA r=8": lora,
        "ours, factored": ours["factored"],
        "ours, materialised": ours["materialised"],
        "released, einsum": Released(axes, gates, dense=False),
        "released, matrix": Released(axes, gates, dense=True),
    }
    return modules, ours["factored"]


def check(modules: dict[str, nn.Module], ours: Any, width: int) -> None:
    """Outputs and gradients agree, once the start circuit that the release has in the base weight is taken off."""
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(32, width, generator=generator), torch.randn(32, width, generator=generator)
    at_start = Released(
        modules["released, einsum"].axes,  # pyright: ignore[reportArgumentType]
        [s.reshape(gate.shape) for s, gate in zip(ours.start.split(ours.chain.sizes), ours.chain.gates)],
        dense=False,
    )
    out, dx, d_gates = [], [], []
    for name, module in modules.items():
        if name == "LoRA r=8":
            continue
        released = isinstance(module, Released)
        out.append(module(x) - at_start(x) if released else module(x))
        dx.append(step(module, x, weight) - (step(at_start, x, weight) if released else 0))
        pieces = [parameter.grad for parameter in module.parameters()]
        d_gates.append(torch.cat([piece.reshape(-1) for piece in pieces]))  # pyright: ignore[reportOptionalMemberAccess]
    for name, tensors in (("outputs", out), ("input gradients", dx), ("gate gradients", d_gates)):
        scale = float(tensors[0].detach().norm())
        worst = max(float((tensor - tensors[0]).detach().norm()) / scale for tensor in tensors[1:])
        assert worst < 1e-4, f"{name} differ by {worst:.1e}"


def bfloat16_errors(axes: list[int], sizes: list[float]) -> list[tuple[float, float, float]]:
    """(size, error of the difference of circuits, error of the streams), relative in norm to float64."""
    width, generator = math.prod(axes), torch.Generator().manual_seed(3)
    update: Any = QuantaConfig(axes=axes).make_update(width, width)
    chain, start = update.chain, update.start.bfloat16()
    shapes = [gate.shape for gate in chain.gates]
    run = contraction(equation(len(axes), True), [(100, *axes), *shapes])

    def circuit(x: Tensor, entries: Tensor) -> Tensor:
        gates = [piece.reshape(shape) for piece, shape in zip(entries.split(chain.sizes), shapes)]
        return run(x.reshape(-1, *axes), *gates).reshape(x.shape)

    rows = []
    for size in sizes:
        offsets = (size * torch.randn(start.shape, generator=generator)).bfloat16()
        x = torch.randn(64, width, generator=generator).bfloat16()
        exact = circuit(x.double(), start.double() + offsets.double()) - circuit(x.double(), start.double())
        apart = circuit(x, start + offsets) - circuit(x, start)
        streams = difference(chain, x, start, offsets, dense=False)
        errors = [float((found.double() - exact).norm() / exact.norm()) for found in (apart, streams)]
        rows.append((size, *errors))
    return rows  # pyright: ignore[reportReturnType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=["8,5,4", "5,4,4,2", "8,8,4,4"], help="lists with commas")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 1024, 4096])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="with one, CPU time is what is measured")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/gate_adapters.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    records = []
    print(f"opt_einsum: {'yes' if find_spec('opt_einsum') else 'no'}, torch {torch.__version__}")
    for axes in ([int(size) for size in text.split(",")] for text in options.axes):
        width = math.prod(axes)
        modules, ours = forms(axes)
        check(modules, ours, width)
        for tokens in options.tokens:
            x, weight = torch.randn(tokens, width), torch.randn(tokens, width)
            calls = {n: (lambda m=m, x=x, w=weight: (step(m, x, w), None)[1]) for n, m in modules.items()}
            seconds = rotate(calls, options.turns, wall=options.threads > 1)
            kept = {name: kept_bytes(module, x) for name, module in modules.items()}
            peak = {name: peak_bytes(lambda m=m, x=x, w=weight: step(m, x, w)) for name, m in modules.items()}
            choice = "materialised" if is_cheaper_dense(ours.chain, tokens, True) else "factored"
            print(f"\naxes {'-'.join(map(str, axes))} (width {width}), {tokens} tokens; auto takes {choice}\n")
            print(f"{'':22}{'ms':>10}{'kept KiB':>12}{'peak KiB':>12}")
            for name in modules:
                print(f"{name:22}{1e3 * seconds[name]:10.2f}{kept[name] // 1024:12,}{peak[name] // 1024:12,}")
            records.append(
                {"axes": axes, "tokens": tokens, "auto": choice, "seconds": seconds, "kept": kept, "peak": peak}
            )
    errors = bfloat16_errors([8, 8, 4, 4], [1e-4, 1e-3, 1e-2])
    print("\nRelative error of the update in bfloat16, width 1024, axes 8-8-4-4\n")
    print(f"{'offsets':>10}{'difference of circuits':>26}{'two streams':>14}")
    for size, apart, streams in errors:
        print(f"{size:10g}{apart:26.3g}{streams:14.3g}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    staged = options.json.with_suffix(".tmp")
    staged.write_text(json.dumps({"passes": records, "bfloat16": errors}, indent=2))
    staged.replace(options.json)
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()

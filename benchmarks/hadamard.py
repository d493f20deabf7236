"""What turning activations costs: `ketune.quantization.Rotation` beside other ways to do the same.

The dense product multiplies by the matrix itself. The butterfly is the textbook's: log2(width) passes of sums and
differences, on a Paley base where the width is no power of two. `fast_hadamard_transform` (Dao-AILab, CUDA) joins where
it is installed and the width is a power of two. One pass is forward and backward. Values and gradients of all must
agree first, to 1e-4 of the largest in float32. Ours computes in float32 whatever the dtype. Times are medians of turns
that take one way after the other; ratios are to ours, above 1 where ours is faster.

    python benchmarks/hadamard.py
    python benchmarks/hadamard.py --device cuda --rows 16384 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from ketune.quantization.hadamard import Rotation
from ketune.quantization.hadamard_matrices import hadamard_base, paley

Way = Callable[[Tensor], Tensor]
WIDTHS = [64, 128, 256, 512, 896, 1024, 2048, 4096, 4864, 8192, 9728, 11008, 14336, 18944]


def dense(width: int, device: str, dtype: torch.dtype) -> Way:
    """The product with the matrix."""
    matrix = Rotation(width).matrix(torch.float64).to(device, dtype)
    return lambda x: x @ matrix


def butterfly(width: int, device: str, dtype: torch.dtype) -> Way:
    """Sums and differences of halves, over and over."""
    base = hadamard_base(width) or 0
    matrix = (paley(base).double() if base > 1 else torch.ones(1, 1)).to(device, dtype)

    def apply(x: Tensor) -> Tensor:
        y = (x.reshape(-1, base) @ matrix).view(x.shape) if base > 1 else x
        half = base
        while half < width:
            first, second = y.view(*x.shape[:-1], -1, 2, half).unbind(-2)
            y = torch.stack((first + second, first - second), -2).view(x.shape)
            half *= 2
        return y * width**-0.5

    return apply


def installed(width: int, device: str) -> Way | None:
    """The kernel of fast-hadamard-transform, for powers of two."""
    if device != "cuda" or width & (width - 1):
        return None
    try:
        from fast_hadamard_transform import hadamard_transform  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return lambda x: hadamard_transform(x, width**-0.5)


def seconds(way: Way, x: Tensor, weight: Tensor) -> float:
    """Of one pass forward and backward; of the processor where there is no device to wait for."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    x = x.detach().requires_grad_()
    if x.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    way(x).backward(weight)
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def row(width: int, options: argparse.Namespace, dtype: torch.dtype) -> None:
    """Check one width, time it and print a line."""
    device = options.device
    x, weight = (torch.randn(options.rows, width).to(device, dtype) for _ in range(2))
    ours: Way = Rotation(width)
    others = {"dense": dense(width, device, dtype), "butterfly": butterfly(width, device, dtype)}
    if (kernel := installed(width, device)) is not None:
        others["fast_hadamard_transform"] = kernel
    ways = {"ours": ours, **others}
    few = x[:16].detach().float().requires_grad_()
    expected = ours(few)
    (slope,) = torch.autograd.grad(expected, few, weight[:16].float())
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for name, way in others.items():
        part = x[:16].detach().requires_grad_()
        theirs = way(part)
        (their_slope,) = torch.autograd.grad(theirs, part, weight[:16])
        for mine, other in ((expected, theirs), (slope, their_slope)):
            assert (mine - other).abs().max() < tolerance * mine.abs().max(), f"{name} differs at width {width}"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.turns + 1):
        for name, way in ways.items():
            spent = seconds(way, x, weight)
            if turn:  # the first one warms up
                times[name].append(spent)
    mine = median(times["ours"])
    line = f"{width:6}{1e3 * mine:10.2f}"
    for name in ("dense", "butterfly", "fast_hadamard_transform"):
        spent = median(times[name]) if name in times else None
        line += f"{'-':>19}" if spent is None else f"{1e3 * spent:11.2f} ({spent / mine:4.1f}x)"
    print(f"{line}   {ours}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    where = "ms" if options.device == "cuda" else "ms of CPU time"
    print(f"forward and backward of {options.rows} rows of {options.dtype} on {options.device}, median {where}\n")
    print(f"{'width':>6}{'ours':>10}{'dense':>19}{'butterfly':>19}{'fast_hadamard_t.':>19}")
    for width in options.widths:
        row(width, options, getattr(torch, options.dtype))


if __name__ == "__main__":
    main()

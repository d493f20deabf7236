"""A width as a product of axis sizes: how a vector of d numbers becomes a tensor of d_1 x ... x d_N."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations, combinations_with_replacement

Axes = tuple[int, ...]


def pair_weight(sizes: Axes) -> int:
    """The sum of (d_m d_n)^2 over all pairs of axes: the parameters of one square gate on each pair."""
    return sum((m * n) ** 2 for m, n in combinations(sizes, 2))


def factorisations(width: int, n_axes: int, smallest: int = 1) -> list[Axes]:
    """Every way to write `width` as a product of `n_axes` sizes, largest size first.

    Args:
        width: the product, at least 1.
        n_axes: number of sizes, at least 1.
        smallest: no size is below this.
    """
    return _descending(width, width, n_axes, smallest, width)


def near_factorisations(width: int, slack: int, n_axes: int) -> list[Axes]:
    """Every list of `n_axes` sizes of 2 or more, largest first, whose product is from `width` to `width + slack`."""
    return _descending(width, width + slack, n_axes, 2, width + slack)


def _descending(low: int, high: int, n_axes: int, smallest: int, largest: int) -> list[Axes]:
    """Lists of `n_axes` sizes from `smallest` to `largest`, not growing, with a product from `low` to `high`."""
    if n_axes == 1:
        return [(size,) for size in range(max(low, smallest), min(high, largest) + 1)]
    found: list[Axes] = []
    first = max(smallest, math.ceil(low ** (1 / n_axes) - 1e-9))  # the largest is at least the geometric mean
    for size in range(first, min(largest, high // smallest ** (n_axes - 1)) + 1):
        if low == high and low % size:
            continue
        rest = _descending(-(-low // size), high // size, n_axes - 1, smallest, size)
        found += [(size, *sizes) for sizes in rest]
    return found


@lru_cache(maxsize=1024)
def balanced_axes(width: int, n_axes: int) -> Axes:
    """The `n_axes` sizes, largest first, whose gates on all pairs have the fewest parameters.

    Their product is `width` where that costs at most twice the parameters of the best sizes with a product above it,
    which stand for zeros at the end of the vector. So 4096 is 8 x 8 x 8 x 8, 10 is 5 x 2 x 1 and the prime 17 is
    3 x 3 x 2 with one zero.
    """
    exact = min(factorisations(width, n_axes), key=pair_weight)
    root = int(width ** (1 / n_axes))
    around = range(max(1, root - 1), root + 4)
    padded = [
        tuple(reversed(sizes)) for sizes in combinations_with_replacement(around, n_axes) if math.prod(sizes) >= width
    ]
    best = min(padded, key=lambda sizes: (pair_weight(sizes), math.prod(sizes)))
    return exact if pair_weight(exact) <= 2 * pair_weight(best) else best

"""How a width splits into the modes of a tensor network."""

from __future__ import annotations

import math
from functools import lru_cache

_MOST_UNEVEN = 1.35
"""How far the sum of the modes may lie above that of equal modes; 37 x 8 x 8 x 8 = 18944 has 1.30."""


@lru_cache(maxsize=4096)
def balanced_modes(size: int, n_modes: int = 4) -> tuple[int, ...]:
    """Factors of a width, as equal as they come, largest first.

    The parameters of a tensor train grow with the sum of its modes, so among all factorisations the one with the
    smallest sum is taken. A width whose factors are too uneven (a prime, or twice a prime) is padded: the modes are
    those of the next larger width that has even ones, and their product exceeds `size`.

    Args:
        size: the width, at least 1.
        n_modes: number of factors, at least 1; small widths get modes of 1.

    Returns:
        `n_modes` factors with a product of at least `size`.

    Raises:
        ValueError: for a width or a number of modes below 1.

    Example:
        >>> balanced_modes(3584), balanced_modes(4096)
        ((8, 8, 8, 7), (8, 8, 8, 8))
        >>> balanced_modes(7919)  # a prime, padded to 7920
        (11, 10, 9, 8)
    """
    if size < 1 or n_modes < 1:
        raise ValueError(f"balanced_modes(size={size}, n_modes={n_modes}): both must be at least 1")
    padded = size
    while True:
        modes = _most_equal(padded, n_modes, padded)
        assert modes is not None  # no factor is larger than the whole
        if sum(modes) <= _MOST_UNEVEN * n_modes * padded ** (1 / n_modes):
            return modes
        padded += 1


def _most_equal(size: int, n_modes: int, largest: int) -> tuple[int, ...] | None:
    """The factors of `size`, none above `largest`, in falling order, with the smallest sum; None if there are none."""
    if n_modes == 1:
        return (size,) if size <= largest else None
    best: tuple[int, ...] | None = None
    # The largest factor is at least the geometric mean.
    for first in range(max(1, math.floor(size ** (1 / n_modes))), min(size, largest) + 1):
        if best is not None and first >= sum(best):
            break
        if size % first or first**n_modes < size:
            continue
        rest = _most_equal(size // first, n_modes - 1, first)
        if rest is not None and (best is None or first + sum(rest) < sum(best)):
            best = (first, *rest)
    return best

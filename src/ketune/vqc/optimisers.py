"""Optimisers for circuits, by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor

from ketune.errors import KetuneError
from ketune.optim import SuperpositionalAdamW

OPTIMISERS: dict[str, Callable[[list[Tensor], float, int], torch.optim.Optimizer]] = {
    "adam": lambda angles, lr, seed: torch.optim.Adam(angles, lr=lr),
    "sgd": lambda angles, lr, seed: torch.optim.SGD(angles, lr=lr),
    "superpositional": lambda angles, lr, seed: _bent(angles, lr, seed, "circuit"),
    "superpositional-random-sign": lambda angles, lr, seed: _bent(angles, lr, seed, "random_sign"),
    "superpositional-gaussian": lambda angles, lr, seed: _bent(angles, lr, seed, "gaussian"),
}
"""Makers of optimisers: angles, learning rate and seed. The superpositional ones have strength 0.5 on all angles; the
last two are its controls, see `SuperpositionalAdamW`."""


class OptimiserError(KetuneError, ValueError):
    """An optimiser that is not known."""


def make_optimiser(name: str, lr: float, seed: int = 0) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    """What `minimise` takes, from a name of `OPTIMISERS`.

    Raises:
        OptimiserError: for another name or a rate that is not above zero.
    """
    if name not in OPTIMISERS:
        near = difflib.get_close_matches(name, OPTIMISERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise OptimiserError(f"optimiser {name!r}: choose one of {', '.join(map(repr, OPTIMISERS))}{hint}")
    if not lr > 0:
        raise OptimiserError(f"learning rate {lr}: must be above zero")
    return lambda angles: OPTIMISERS[name](angles, lr, seed)


def _bent(angles: list[Tensor], lr: float, seed: int, perturbation: str) -> torch.optim.Optimizer:
    return SuperpositionalAdamW(angles, lr=lr, strength=0.5, scope="all", perturbation=perturbation, seed=seed)

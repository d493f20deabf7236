"""The circuits that CL-QAS chooses from: two to four layers, each with one of four entanglers.

"Continual quantum architecture search with tensor-train encoding", arXiv 2601.06392, in the revised form of the
authors' code: 16 + 64 + 256 = 336 circuits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch

from ketune.errors import KetuneError
from ketune.vqc.architecture import ENTANGLERS, MOST_LAYERS, ROTATIONS, Architecture, check_layer, entangling_pairs


class SearchError(KetuneError, ValueError):
    """A search that is not possible as asked."""


@dataclass(frozen=True)
class SearchSpace:
    """All architectures with some depths and some entanglers.

    Args:
        depths: the numbers of layers to choose from, ascending.
        entanglers: the entanglers that each layer chooses from.
        order, rotations: of every architecture, see `Architecture`.

    Raises:
        SearchError: for no depth or entangler, one given twice, or a depth outside 1 to 64.
        ArchitectureError: for an unknown name.

    Example:
        >>> len(SearchSpace()), len(SearchSpace(depths=(1, 2), entanglers=("ring", "linear")))
        (336, 6)
    """

    depths: tuple[int, ...] = (2, 3, 4)
    entanglers: tuple[str, ...] = ENTANGLERS
    order: str = "rotations_first"
    rotations: tuple[str, ...] = ROTATIONS

    def __post_init__(self) -> None:
        for field in ("depths", "entanglers", "rotations"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        depths = self.depths
        if not depths or list(depths) != sorted(set(depths)) or not 1 <= depths[0] <= depths[-1] <= MOST_LAYERS:
            raise SearchError(f"SearchSpace(depths={depths}): pass ascending numbers from 1 to {MOST_LAYERS}")
        if not self.entanglers or len(set(self.entanglers)) < len(self.entanglers):
            raise SearchError(f"SearchSpace(entanglers={self.entanglers}): name at least one, and each once")
        for name in self.entanglers:
            entangling_pairs(2, name)
        check_layer(self.order, self.rotations)

    def __len__(self) -> int:
        return sum(len(self.entanglers) ** depth for depth in self.depths)

    def __contains__(self, architecture: object) -> bool:
        return (
            isinstance(architecture, Architecture)
            and architecture.depth in self.depths
            and set(architecture.entanglers) <= set(self.entanglers)
            and (architecture.order, architecture.rotations) == (self.order, self.rotations)
        )

    @property
    def max_depth(self) -> int:
        return self.depths[-1]

    @cached_property
    def architectures(self) -> tuple[Architecture, ...]:
        """All of them, the shallow ones first."""
        return tuple(self.build(names) for depth in self.depths for names in product(self.entanglers, repeat=depth))

    def build(self, entanglers: Sequence[str]) -> Architecture:
        """The architecture of this space with these entanglers."""
        return Architecture(tuple(entanglers), self.order, self.rotations)

    def sample(self, n: int, generator: torch.Generator | None = None, *, by_depth: bool = False) -> list[Architecture]:
        """Different architectures in random order, all equally likely.

        Args:
            n: how many.
            generator: source of randomness.
            by_depth: draw the depth first, all depths equally likely, then a circuit of this depth that has not been
                drawn yet. Otherwise deep circuits prevail, because there are more of them.

        Raises:
            SearchError: for fewer than one, or more than there are.
        """
        if not 1 <= n <= len(self):
            raise SearchError(f"{n} different architectures: this space has {len(self)}")
        order = torch.randperm(len(self), generator=generator).tolist()
        shuffled = [self.architectures[k] for k in order]
        if not by_depth:
            return shuffled[:n]
        piles = {depth: [a for a in shuffled if a.depth == depth] for depth in self.depths}
        drawn: list[Architecture] = []
        while len(drawn) < n:
            left = [pile for pile in piles.values() if pile]
            drawn.append(left[int(torch.randint(len(left), (), generator=generator))].pop())
        return drawn

    def to_dict(self) -> dict[str, Any]:
        """The space as JSON can hold it."""
        fields: dict[str, Any] = {"depths": list(self.depths), "entanglers": list(self.entanglers)}
        return fields | {"order": self.order, "rotations": list(self.rotations)}

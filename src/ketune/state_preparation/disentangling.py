"""AQER's first step: one block after another, each on the pair of wires where it takes most entanglement away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ketune.state_preparation._pair_chain import Layouts, apply_blocks
from ketune.state_preparation._pair_statistics import PairStatistics
from ketune.state_preparation.block_search import best_blocks, eigenbasis_blocks
from ketune.state_preparation.blocks import block_of
from ketune.state_preparation.errors import LoadingError

SEARCHED = ("rzz", "cz", "su4", "so4")
"""Kinds of blocks that `disentangle` can look for."""

_DONE = 1e-8  # bits; a product state is then within 4e-9 of the state
_GAIN = 1e-10  # bits; less is rounding


class States(Protocol):
    """A batch of states that gates on two wires act on, and what is known about their wires."""

    @property
    def bloch(self) -> Tensor:
        """(B, n, 3) Bloch vectors."""
        ...

    @property
    def correlations(self) -> Tensor:
        """(B, n, n, 3, 3) correlations of each pair of wires."""
        ...

    def apply(self, pairs: Tensor, matrices: Tensor) -> None:
        """Applies (B, 4, 4) unitaries to (B, 2) wires and measures again what has changed."""
        ...


class DenseStates:
    """States as vectors of all amplitudes.

    Args:
        states: (B, 2 ** n) complex128 unit vectors.

    Attributes:
        vectors: the states now.
    """

    def __init__(self, states: Tensor) -> None:
        self.vectors = states
        self._statistics = PairStatistics(states)

    @property
    def bloch(self) -> Tensor:
        """(B, n, 3) Bloch vectors."""
        return self._statistics.bloch

    @property
    def correlations(self) -> Tensor:
        """(B, n, n, 3, 3) correlations."""
        return self._statistics.correlations

    def apply(self, pairs: Tensor, matrices: Tensor) -> None:
        """As `States.apply`."""
        layouts = Layouts(pairs[:, None], self.bloch.shape[1])
        self.vectors = apply_blocks(self.vectors, matrices[:, None], layouts)
        self._statistics.update(self.vectors, pairs)


@dataclass(frozen=True, eq=False)
class Disentangled:
    """What `disentangle` found for one state.

    Args:
        pairs: the wires of each block, in the order in which they were undone.
        blocks: for "rzz" and "cz" (T, d) angles of the blocks as a loader applies them; for "su4" and "so4" (T, 4, 4)
            the unitaries that were applied to the state, whose inverses a loader applies.
        entanglement: (T + 1,) the sum of entropies before each block and behind the last.
        bloch: (n, 3) Bloch vectors behind the last block.
    """

    pairs: tuple[tuple[int, int], ...]
    blocks: Tensor
    entanglement: Tensor
    bloch: Tensor = field(repr=False)


def allowed_pairs(connectivity: str | Sequence[tuple[int, int]], n_wires: int) -> list[tuple[int, int]]:
    """The pairs of wires that may have a block.

    Args:
        connectivity: "all", "line" (neighbours), "ring" or the pairs themselves, such as a device's coupling map.
        n_wires: number of wires.

    Returns:
        each pair once, the smaller wire first.

    Raises:
        LoadingError: for another word, or pairs that are none or leave wires out.
    """
    if isinstance(connectivity, str):
        line = [(wire, wire + 1) for wire in range(n_wires - 1)]
        if connectivity == "all":
            return [(first, second) for first in range(n_wires) for second in range(first + 1, n_wires)]
        if connectivity == "line":
            return line
        if connectivity == "ring":
            return sorted({*line, (0, n_wires - 1)}) if n_wires > 2 else line
        raise LoadingError(f"connectivity={connectivity!r}: choose 'all', 'line', 'ring' or pass pairs of wires")
    pairs = sorted({(min(pair), max(pair)) for pair in connectivity})
    for pair in pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not 0 <= pair[0] < pair[1] < n_wires:
            raise LoadingError(f"connectivity contains {pair}: take pairs of different wires of 0..{n_wires - 1}")
    if n_wires > 1 and len({wire for pair in pairs for wire in pair}) < n_wires:
        missing = min(set(range(n_wires)) - {wire for pair in pairs for wire in pair})
        raise LoadingError(f"connectivity leaves out wire {missing}; each of {n_wires} wires needs a partner")
    return pairs


def disentangle(
    states: States,
    n_blocks: int,
    *,
    block: str = "rzz",
    connectivity: str | Sequence[tuple[int, int]] = "all",
    search: str = "gradient",
    n_starts: int = 8,
    seed: int = 0,
    on_block: Callable[[int, Tensor], None] | None = None,
) -> list[Disentangled]:
    """Greedy entanglement reduction (step 1 of Zhang et al., arXiv 2602.02165) of a batch of states.

    A block changes the reduced states of pairs that touch its wires, 2n - 3 of n (n - 1) / 2; only those are searched
    anew, for all states of the batch at once. A state that is a product stops. Where no block lowers the measure (in
    some states any two wires are uncorrelated), blocks that do nothing yet are put where entropy is largest, for
    `polish` to use; "cz", which cannot do nothing, takes the block that raises it least.

    Args:
        states: `DenseStates` or `TrainStates`; they are changed in place.
        n_blocks: blocks for each state, at most.
        block: "rzz", "cz", "su4" (any unitary, in closed form) or "so4" (any real one, for states that are real).
        connectivity: as `allowed_pairs`.
        search: as `best_blocks`; "su4" and "so4" have none.
        n_starts: as `best_blocks`.
        seed: of the starts.
        on_block: called after each block with its number and the (B,) entanglement left.

    Returns:
        one for each state.

    Raises:
        LoadingError: for a block that cannot be searched, or as `allowed_pairs`.
    """
    if block not in SEARCHED:
        raise LoadingError(f"block={block!r}: choose one of {', '.join(map(repr, SEARCHED))}")
    n_states, n_wires = states.bloch.shape[:2]
    device = states.bloch.device
    pairs = torch.tensor(allowed_pairs(connectivity, n_wires), device=device).view(-1, 2)
    rows = torch.arange(n_states, device=device)
    generator = torch.Generator().manual_seed(seed)
    table = _Candidates(block, n_states, pairs, search, n_starts, generator)
    table.search(states, torch.ones(n_states, len(pairs), dtype=torch.bool, device=device))
    used = torch.zeros(n_states, len(pairs), device=device)
    chosen, found, history, running = [], [], [_total(states)], []
    for number in range(n_blocks if len(pairs) else 0):
        entropies = _entropies(states)
        gains = entropies[:, pairs].sum(-1) - table.values
        best = gains.argmax(1)
        stuck = gains[rows, best] <= _GAIN
        if block != "cz":
            waiting = (entropies[:, pairs].sum(-1) - 2 * used).argmax(1)
            best = torch.where(stuck, waiting, best)
        live = history[-1] > _DONE
        if not bool(live.any()):
            break
        blocks = table.blocks[rows, best]
        idle = ~live if block == "cz" else ~live | stuck
        blocks = torch.where(idle.view(-1, *(1,) * (blocks.ndim - 1)), table.identity, blocks)
        used[rows, best] += 1
        inverse = table.inverses(blocks)
        inverse = torch.where(live[:, None, None], inverse, torch.eye(4, dtype=inverse.dtype, device=device))
        states.apply(pairs[best], inverse)
        touched = (pairs[None, :, :, None] == pairs[best][:, None, None, :]).any((-1, -2))
        table.search(states, touched & (~idle)[:, None])
        chosen.append(pairs[best])
        found.append(blocks)
        running.append(live)
        history.append(_total(states))
        if on_block is not None:
            on_block(number + 1, history[-1])
    lengths = torch.stack(running).sum(0).tolist() if running else [0] * n_states
    all_pairs = torch.stack(chosen, 1).tolist() if chosen else [[]] * n_states
    all_blocks = torch.stack(found, 1) if found else table.identity.new_zeros(n_states, 0, *table.identity.shape)
    totals = torch.stack(history, 1)
    return [
        Disentangled(
            tuple((first, second) for first, second in all_pairs[row][:length]),
            all_blocks[row, :length],
            totals[row, : length + 1],
            states.bloch[row].clone(),
        )
        for row, length in enumerate(lengths)
    ]


class _Candidates:
    """The best block of each pair of wires, for every state."""

    def __init__(
        self, block: str, n_states: int, pairs: Tensor, search: str, n_starts: int, generator: torch.Generator
    ) -> None:
        self.block, self.pairs = block, pairs
        self._how = {"search": search, "n_starts": n_starts, "generator": generator}
        self.in_closed_form = block in ("su4", "so4")
        if self.in_closed_form:
            self.identity = torch.eye(4, dtype=torch.complex128, device=pairs.device)
        else:
            self.identity = torch.zeros(block_of(block).n_angles, dtype=torch.float64, device=pairs.device)
        self.values = torch.zeros(n_states, len(pairs), dtype=torch.float64, device=pairs.device)
        self.blocks = self.identity.expand(n_states, len(pairs), *self.identity.shape).clone()

    def search(self, states: States, which: Tensor) -> None:
        """Looks again at pairs of wires, (B, pairs) bool."""
        row, column = which.nonzero(as_tuple=True)
        if not len(row):
            return
        first, second = self.pairs[column].unbind(1)
        parts = states.bloch[row, first], states.bloch[row, second], states.correlations[row, first, second]
        if self.in_closed_form:
            blocks, values = eigenbasis_blocks(*parts, real=self.block == "so4")
        else:
            blocks, values = best_blocks(self.block, *parts, **self._how)
        self.blocks[row, column], self.values[row, column] = blocks.to(self.blocks.dtype), values

    def inverses(self, blocks: Tensor) -> Tensor:
        """The unitaries that undo blocks: (B, 4, 4)."""
        return blocks if self.in_closed_form else block_of(self.block).matrices(blocks).mH


def _entropies(states: States) -> Tensor:
    return 1 - torch.log1p(states.bloch.square().sum(-1)) / torch.log(states.bloch.new_tensor(2.0))


def _total(states: States) -> Tensor:
    return _entropies(states).sum(-1)

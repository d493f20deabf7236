"""One disentangler for many vectors: a fixed circuit, in front of which only one-wire rotations change.

Per-vector AQER takes seconds to minutes a vector. Here blocks are learned once, on a batch of vectors of one kind (the
activations of a layer, say), so that they leave little entanglement on average; a new vector then costs one pass
through them and AQER's product state in closed form. This form is ours; how much fidelity it gives up against circuits
of each vector's own is shown by `benchmarks/aqer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ketune.state_preparation._batched_bfgs import minimise_batch
from ketune.state_preparation._pair_chain import Layouts, apply_blocks
from ketune.state_preparation._pair_statistics import PairStatistics
from ketune.state_preparation.aqer import OnProgress
from ketune.state_preparation.block_search import pair_entropies
from ketune.state_preparation.blocks import block_of
from ketune.state_preparation.disentangling import allowed_pairs
from ketune.state_preparation.entanglement import as_states, bloch_vectors, count_wires, entanglement, product_angles
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.pair_circuit import PairCircuit, infidelities

_GAIN = 1e-9  # bits


@dataclass(frozen=True, eq=False)
class SharedLoader:
    """Blocks that all vectors share.

    Args:
        n_wires: number of wires.
        block: "rzz" or "cz".
        pairs: wires of the blocks, in the order in which a loading circuit applies them.
        angles: (T, d) their angles.
        entanglement: mean over the vectors that it was learned on, before the first block and behind the last.
    """

    n_wires: int
    block: str
    pairs: tuple[tuple[int, int], ...]
    angles: Tensor
    entanglement: tuple[float, float]

    def start_angles(self, vectors: Tensor) -> Tensor:
        """The angles of RY and RZ in front of the blocks that load vectors best: (B, n_wires, 2), in closed form.

        Args:
            vectors: (B, n_features), padded with zeros to 2 ** n_wires.

        Raises:
            LoadingError: for vectors of another size, or without a direction.
        """
        states = as_states(vectors.detach())
        if count_wires(states) != self.n_wires:
            raise LoadingError(f"vectors of {vectors.shape[-1]} entries; this loader has {self.n_wires} wires")
        return product_angles(bloch_vectors(_undone(states, self.block, self.pairs, self.angles)))

    def circuits(self, vectors: Tensor) -> list[PairCircuit]:
        """The loading circuit of each vector: they differ in their first rotations only."""
        return [
            PairCircuit(self.n_wires, self.block, self.pairs, start, self.angles)
            for start in self.start_angles(vectors)
        ]

    def infidelities(self, vectors: Tensor) -> Tensor:
        """(B,) what the loader leaves of each vector."""
        return infidelities(self.circuits(vectors), as_states(vectors.detach()))


def learn_shared_loader(
    vectors: Tensor,
    n_blocks: int,
    *,
    block: str = "rzz",
    connectivity: str | Sequence[tuple[int, int]] = "all",
    n_starts: int = 4,
    n_steps: int = 300,
    lr: float = 0.02,
    batch_size: int = 64,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> SharedLoader:
    """Learns blocks that leave little entanglement in all vectors.

    First greedily, as AQER's first step but with one block for all vectors, the one that lowers their mean entanglement
    most; then all angles together by Adam on the mean entanglement of batches.

    Args:
        vectors: (B, n_features) vectors of the kind that will be loaded; a few hundred are enough for some ten wires.
        n_blocks: number of blocks.
        block: "rzz" or "cz".
        connectivity: as `aqer`.
        n_starts: random starts of the search for each pair of wires, besides the one at zero.
        n_steps: steps of Adam.
        lr: its learning rate.
        batch_size: vectors in each step, and in the search.
        seed: of the starts and batches.
        on_progress: as `aqer`.

    Returns:
        the loader.

    Raises:
        LoadingError: for a block that cannot be shared, or as `aqer`.
    """
    if block not in ("rzz", "cz"):
        raise LoadingError(f"block={block!r}: choose 'rzz' or 'cz'")
    states = as_states(vectors.detach())
    if states.ndim != 2:
        raise LoadingError(f"vectors have shape {tuple(vectors.shape)}; take (B, n_features)")
    report = on_progress or (lambda *_: None)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(states), generator=generator)[:batch_size]
    pairs, angles = _greedy(states[rows], n_blocks, block, connectivity, n_starts, generator, report)
    angles = _tuned(states, block, pairs, angles, n_steps, lr, batch_size, generator, report)
    left = entanglement(_undone(states, block, pairs, angles)).mean()
    return SharedLoader(count_wires(states), block, pairs, angles, (float(entanglement(states).mean()), float(left)))


def _greedy(
    states: Tensor,
    n_blocks: int,
    block: str,
    connectivity: str | Sequence[tuple[int, int]],
    n_starts: int,
    generator: torch.Generator,
    report: OnProgress,
) -> tuple[tuple[tuple[int, int], ...], Tensor]:
    kind, n_wires = block_of(block), count_wires(states)
    device = states.device
    candidates = torch.tensor(allowed_pairs(connectivity, n_wires), device=device).view(-1, 2)
    statistics = PairStatistics(states)
    chosen: list[tuple[int, int]] = []
    found: list[Tensor] = []
    values = torch.zeros(len(candidates), dtype=torch.float64, device=device)
    angles = torch.zeros(len(candidates), kind.n_angles, dtype=torch.float64, device=device)
    stale = torch.ones(len(candidates), dtype=torch.bool, device=device)
    for number in range(n_blocks if len(candidates) else 0):
        first, second = candidates[stale].unbind(1)
        parts = statistics.bloch[:, first], statistics.bloch[:, second], statistics.correlations[:, first, second]
        angles[stale], values[stale] = _search(block, parts, n_starts, generator)
        entropies = (1 - torch.log1p(statistics.bloch.square().sum(-1)) / math.log(2)).mean(0)
        gains = entropies[candidates].sum(-1) - values
        best = int(gains.argmax())
        if block == "rzz" and gains[best] <= _GAIN:
            break
        pair = candidates[best]
        inverse = kind.matrices(angles[best]).mH.expand(len(states), 4, 4)
        states = apply_blocks(states, inverse[:, None], Layouts(pair.view(1, 1, 2), n_wires))
        statistics.update(states, pair[None])
        stale = (candidates[:, :, None] == pair).any(-1).any(-1)
        chosen.append((int(pair[0]), int(pair[1])))
        found.append(angles[best].clone())
        report("blocks", number + 1, n_blocks)
    stacked = torch.stack(found[::-1]) if found else angles[:0]
    return tuple(chosen[::-1]), stacked


def _search(
    block: str, parts: tuple[Tensor, Tensor, Tensor], n_starts: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The block of each pair that leaves least entropy on average: (P, d) angles and (P,) means."""
    n_pairs, n_angles = parts[0].shape[1], block_of(block).n_angles
    starts = 2 * math.pi * torch.rand(n_starts + 1, n_pairs, n_angles, generator=generator, dtype=torch.float64)
    starts[0] = 0

    def objective(points: Tensor, live: Tensor) -> Tensor:
        each = [part[:, live % n_pairs] for part in parts]
        return pair_entropies(block, points[..., None, :, :], *each).mean(-2)

    points, values = minimise_batch(objective, starts.flatten(0, 1).to(parts[0].device), 25)
    best = values.view(n_starts + 1, n_pairs).argmin(0)
    column = torch.arange(n_pairs)
    return points.view(n_starts + 1, n_pairs, -1)[best, column], values.view(n_starts + 1, n_pairs)[best, column]


def _tuned(
    states: Tensor,
    block: str,
    pairs: tuple[tuple[int, int], ...],
    angles: Tensor,
    n_steps: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
    report: OnProgress,
) -> Tensor:
    if not pairs:
        return angles
    layouts = Layouts(torch.tensor(pairs[::-1], device=states.device)[None], count_wires(states))
    tuned = angles.clone().requires_grad_()
    optimizer = torch.optim.Adam([tuned], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, n_steps))
    for step in range(n_steps):
        rows = torch.randint(len(states), (min(batch_size, len(states)),), generator=generator)
        inverse = block_of(block).matrices(tuned).mH.flip(0)
        loss = entanglement(apply_blocks(states[rows], inverse[None].expand(len(rows), -1, -1, -1), layouts)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report("polish", step + 1, n_steps)
    tuned = tuned.detach()
    # Batches scatter: what was found first is kept where it is better on all vectors.
    means = [entanglement(_undone(states, block, pairs, each)).mean() for each in (angles, tuned)]
    return tuned if means[1] <= means[0] else angles


def _undone(states: Tensor, block: str, pairs: tuple[tuple[int, int], ...], angles: Tensor) -> Tensor:
    """The states with all blocks undone, last first."""
    if not pairs:
        return states
    inverse = block_of(block).matrices(angles).mH.flip(0)
    layouts = Layouts(torch.tensor(pairs[::-1], device=states.device)[None], count_wires(states))
    return apply_blocks(states, inverse[None].expand(len(states), -1, -1, -1), layouts)

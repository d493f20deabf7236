"""`PairCircuit`: rotations of every wire, then blocks on pairs of wires. What approximate loaders make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ketune.circuits import Circuit, Gate
from ketune.state_preparation._pair_chain import Layouts, apply_blocks, overlaps, product_vectors
from ketune.state_preparation.blocks import Block, block_of
from ketune.state_preparation.errors import LoadingError


@dataclass(frozen=True, eq=False)
class PairCircuit:
    """A circuit of one kind of block, with its angles.

    Args:
        n_wires: number of wires; wire 0 is the most significant bit.
        block: kind of block: "rzz", "cz", "cx", "su4" or "so4".
        pairs: the two wires of each block, in the order of application.
        start: (n_wires, 2) angles of RY and RZ in front of all blocks; (n_wires, 1), RY only, for "so4".
        angles: (len(pairs), angles of a block), in the order of the block's gates.

    Raises:
        LoadingError: for an unknown block, pairs that are none, or angles of another shape.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import PairCircuit
        >>> loader = PairCircuit(2, "cz", ((0, 1),), torch.zeros(2, 2), torch.zeros(1, 4))
        >>> loader.circuit.count_gates(), loader.state()[0].item()
        ({'RY': 4, 'RZ': 4, 'CZ': 1}, (1+0j))
    """

    n_wires: int
    block: str
    pairs: tuple[tuple[int, int], ...]
    start: Tensor
    angles: Tensor

    def __post_init__(self) -> None:
        kind = block_of(self.block)
        pairs = tuple((int(first), int(second)) for first, second in self.pairs)
        object.__setattr__(self, "pairs", pairs)
        for pair in pairs:
            if pair[0] == pair[1] or not all(0 <= wire < self.n_wires for wire in pair):
                raise LoadingError(f"pairs contain {pair}: take two different wires of 0..{self.n_wires - 1}")
        wanted = {"start": (self.n_wires, len(kind.start)), "angles": (len(pairs), kind.n_angles)}
        for name, shape in wanted.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise LoadingError(f"{name} have shape {found}; {len(pairs)} blocks {self.block!r} take {shape}")

    @property
    def kind(self) -> Block:
        """The kind of block."""
        return block_of(self.block)

    @property
    def flat_angles(self) -> Tensor:
        """(circuit.n_angles,) the angles as `circuit` counts them."""
        return torch.cat((self.start.flatten(), self.angles.flatten()))

    @property
    def circuit(self) -> Circuit:
        """The same as gates with free angles, whose values are `flat_angles`."""
        kind = self.kind
        gates = [
            Gate(name, (wire,), wire * len(kind.start) + place)
            for wire in range(self.n_wires)
            for place, name in enumerate(kind.start)
        ]
        for number, pair in enumerate(self.pairs):
            gates += kind.gates(pair, self.start.numel() + number * kind.n_angles)
        return Circuit(self.n_wires, tuple(gates))

    def state(self) -> Tensor:
        """What the circuit makes of |0...0>: (2 ** n_wires,) complex. Differentiable in the angles by torch."""
        kind = self.kind
        pairs = torch.tensor(self.pairs, dtype=torch.long, device=self.angles.device).view(1, -1, 2)
        product = product_vectors(kind.product_states(self.start)[None])
        return apply_blocks(product, kind.matrices(self.angles)[None], Layouts(pairs, self.n_wires))[0]


def infidelities(circuits: Sequence[PairCircuit], vectors: Tensor) -> Tensor:
    """`1 - |<vector|circuit|0>|^2` of each circuit with its vector.

    Args:
        circuits: of one kind of block and one number of blocks.
        vectors: (B, 2 ** n_wires) unit vectors.

    Returns:
        (B,) float64, in the order of the circuits. Below about 1e-15 it is rounding.
    """
    batch = CircuitBatch.of(circuits, vectors)
    return batch.infidelity(batch.start, batch.angles).detach()


@dataclass(frozen=True, eq=False)
class CircuitBatch:
    """Circuits of one kind of block and one length beside their targets, as tensors with a leading dimension.

    Args:
        kind: the block.
        pairs: (B, T, 2) int64.
        start: (B, n_wires, rotations).
        angles: (B, T, angles of a block).
        targets: (B, 2 ** n_wires) complex unit vectors.
        layouts: of the pairs.
    """

    kind: Block
    pairs: Tensor
    start: Tensor
    angles: Tensor
    targets: Tensor
    layouts: Layouts

    @classmethod
    def of(cls, circuits: Sequence[PairCircuit], vectors: Tensor) -> CircuitBatch:
        """Batches circuits.

        Raises:
            LoadingError: for circuits that differ in wires, kind or number of blocks, or not one vector each.
        """
        if not circuits:
            raise LoadingError("circuits=[]: pass at least one")
        first = circuits[0]
        if any((c.n_wires, c.block, len(c.pairs)) != (first.n_wires, first.block, len(first.pairs)) for c in circuits):
            raise LoadingError("circuits in one batch have the same wires, kind of block and number of blocks")
        if tuple(vectors.shape) != (len(circuits), 2**first.n_wires):
            raise LoadingError(
                f"vectors have shape {tuple(vectors.shape)}; {len(circuits)} circuits on {first.n_wires} wires take "
                f"({len(circuits)}, {2**first.n_wires})"
            )
        pairs = torch.tensor([c.pairs for c in circuits], dtype=torch.long, device=vectors.device)
        pairs = pairs.view(len(circuits), len(first.pairs), 2)
        return cls(
            first.kind,
            pairs,
            torch.stack([c.start for c in circuits]).to(vectors.device, torch.float64),
            torch.stack([c.angles for c in circuits]).to(vectors.device, torch.float64),
            vectors.to(torch.complex128),
            Layouts(pairs[:1] if bool((pairs == pairs[:1]).all()) else pairs, first.n_wires),
        )

    def infidelity(self, start: Tensor, angles: Tensor) -> Tensor:
        """(B,) of other angles, differentiable in them."""
        products = product_vectors(self.kind.product_states(start))
        amplitude = overlaps(self.targets, products, self.kind.matrices(angles), self.layouts)
        return 1 - (amplitude.conj() * amplitude).real

    def circuits(self, start: Tensor, angles: Tensor) -> list[PairCircuit]:
        """The circuits with these angles, apart again."""
        n_wires = start.shape[1]
        return [
            PairCircuit(n_wires, self.kind.name, tuple(map(tuple, pairs)), start[b].detach(), angles[b].detach())
            for b, pairs in enumerate(self.pairs.tolist())
        ]

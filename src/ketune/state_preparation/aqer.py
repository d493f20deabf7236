"""AQER: circuits that load vectors approximately, shorter than exact ones.

Kaining Zhang, Xinbiao Wang, Yuxuan Du and Min-Hsiu Hsieh, Dacheng Tao: "AQER: a scalable and efficient data loader for
digital quantum computers", ICLR 2026, arXiv 2602.02165. Three steps: blocks that take entanglement away, one by one
(`disentangle`); the product state that is left, in closed form (`product_angles`); all angles together (`polish`).

Where we deviate: step 1 finds its blocks by gradients from several starts, on the reduced states of two wires, which
hold all that a block can change; the paper runs Nelder-Mead from zero on the whole state (`search="nelder-mead"`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ketune.state_preparation.disentangling import DenseStates, Disentangled, disentangle
from ketune.state_preparation.entanglement import as_states, is_real, product_angles
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.pair_circuit import PairCircuit, infidelities
from ketune.state_preparation.polishing import polish
from ketune.state_preparation.unitary_blocks import circuit_from_unitaries

OnProgress = Callable[[str, int, int], None]
"""Called with the step's name ("blocks" or "polish"), how much is done, and of how much."""


@dataclass(frozen=True, eq=False)
class Loader:
    """A circuit that loads one vector, and how it came about.

    Args:
        circuit: the circuit.
        infidelity: `1 - |<vector|circuit|0>|^2`.
        before: the same before all angles were tuned together.
        entanglement: (T + 1,) entanglement before each block was found and behind the last; it never rises but for
            blocks "cz".
    """

    circuit: PairCircuit
    infidelity: float
    before: float
    entanglement: Tensor


def aqer(
    vectors: Tensor,
    n_blocks: int,
    *,
    block: str = "rzz",
    connectivity: str | Sequence[tuple[int, int]] = "all",
    search: str = "gradient",
    n_starts: int = 8,
    n_steps: int = 2000,
    lr: float = 0.01,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> list[Loader]:
    """Loading circuits for a batch of vectors.

    Args:
        vectors: (B, n_features) or (n_features,), real or complex, of any norm; padded with zeros to a power of two.
            16 wires take about 2 GB for a vector with 200 blocks.
        n_blocks: blocks of each circuit, at most; a vector that needs fewer has fewer.
        block: "rzz" (the paper's, two CNOTs), "cz" (one), "su4" (three), or for real vectors "so4" (two).
        connectivity: "all", "line", "ring" or the allowed pairs.
        search: "gradient", or the paper's "nelder-mead".
        n_starts: random starts of the search for each pair.
        n_steps: steps of Adam on all angles, at most (`polish`); 0 leaves them as they are found.
        lr: its learning rate.
        seed: of the starts.
        on_progress: called as the work goes on.

    Returns:
        one `Loader` for each vector.

    Raises:
        LoadingError: for vectors without a direction, fewer than 0 blocks, or settings as `disentangle`.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import aqer
        >>> loader = aqer(torch.tensor([0.6, 0.0, 0.0, 0.8]), n_blocks=1)[0]
        >>> loader.infidelity < 1e-10, loader.circuit.circuit.n_two_wire_gates
        (True, 1)
    """
    if n_blocks < 0:
        raise LoadingError(f"n_blocks={n_blocks}: take at least 0")
    states = as_states(vectors.detach())
    states = states[None] if states.ndim == 1 else states
    if states.ndim != 2:
        raise LoadingError(f"vectors have shape {tuple(vectors.shape)}; take (B, n_features) or (n_features,)")
    if block == "so4" and not is_real(states):
        raise LoadingError("block='so4' is for real vectors; take 'rzz', 'cz' or 'su4' for complex ones")
    report = on_progress or (lambda *_: None)
    found = disentangle(
        DenseStates(states),
        n_blocks,
        block=block,
        connectivity=connectivity,
        search=search,
        n_starts=n_starts,
        seed=seed,
        on_block=lambda done, _: report("blocks", done, n_blocks),
    )
    circuits = [loading_circuit(each, block) for each in found]
    before: list[float] = [0.0] * len(circuits)
    after: list[float] = [0.0] * len(circuits)
    for length in sorted({len(circuit.pairs) for circuit in circuits}):
        rows = [row for row, circuit in enumerate(circuits) if len(circuit.pairs) == length]
        group, targets = [circuits[row] for row in rows], states[rows]
        first = infidelities(group, targets)
        if n_steps:
            group = polish(
                group,
                targets,
                n_steps=n_steps,
                lr=lr,
                on_step=lambda done, _: report("polish", done, n_steps),
            )
        last = infidelities(group, targets)
        for place, row in enumerate(rows):
            circuits[row], before[row], after[row] = group[place], float(first[place]), float(last[place])
    return [
        Loader(circuit, last, first, each.entanglement)
        for circuit, last, first, each in zip(circuits, after, before, found)
    ]


def loading_circuit(found: Disentangled, block: str) -> PairCircuit:
    """The circuit that step 1 and step 2 give: the product state, then the blocks in reverse."""
    pairs = found.pairs[::-1]
    start = product_angles(found.bloch)
    if block in ("su4", "so4"):
        return circuit_from_unitaries(start, pairs, found.blocks.flip(0).mH, block)
    return PairCircuit(len(found.bloch), block, pairs, start, found.blocks.flip(0))

"""AQER on states of many wires, kept as tensor trains: up to 50 wires and more where entanglement is small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ketune.state_preparation.aqer import Loader, OnProgress, loading_circuit
from ketune.state_preparation.disentangling import disentangle
from ketune.state_preparation.pair_circuit import PairCircuit
from ketune.tensor_networks import TrainState

_PAULIS = torch.tensor(
    [[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128
)  # rows act from the left


class TrainStates:
    """One state as a tensor train, as `disentangle` wants it.

    Args:
        state: the state; it is changed by gates.

    Attributes:
        state: the state now.
        bloch: (1, n, 3) Bloch vectors.
        correlations: (1, n, n, 3, 3) correlations.
    """

    def __init__(self, state: TrainState) -> None:
        self.state = state
        n_wires = state.n_wires
        self.bloch = torch.zeros(1, n_wires, 3, dtype=torch.float64)
        self.correlations = torch.zeros(1, n_wires, n_wires, 3, 3, dtype=torch.float64)
        self._measure(range(n_wires))

    def apply(self, pairs: Tensor, matrices: Tensor) -> None:
        """(1, 4, 4) on (1, 2) wires."""
        first, second = pairs[0].tolist()
        self.state.apply(matrices[0], first, second)
        self._measure((first, second))

    def _measure(self, wires: Sequence[int]) -> None:
        """What has to do with these wires."""
        cores = self.state.cores
        left, right = _environments(cores, cores)
        turned = [torch.einsum("pst,atb->pasb", _PAULIS.to(core), core) for core in cores]
        for wire in wires:
            table = self.correlations[0, wire]
            bras = cores[wire].conj()
            ahead = torch.einsum("ab,asc,pbsd->pcd", left[wire], bras, turned[wire])
            self.bloch[0, wire] = torch.einsum("pcd,cd->p", ahead, right[wire + 1]).real
            for other in range(wire + 1, len(cores)):
                closed = torch.einsum("qbsd,cd->qbsc", turned[other], right[other + 1])
                table[other] = torch.einsum("pab,asc,qbsc->pq", ahead, cores[other].conj(), closed).real
                ahead = torch.einsum("pab,asc,bsd->pcd", ahead, cores[other].conj(), cores[other])
            behind = torch.einsum("cd,asc,pbsd->pab", right[wire + 1], bras, turned[wire])
            for other in range(wire - 1, -1, -1):
                opened = torch.einsum("ab,qbsd->qasd", left[other], turned[other])
                table[other] = torch.einsum("pcd,asc,qasd->pq", behind, cores[other].conj(), opened).real
                behind = torch.einsum("pcd,asc,bsd->pab", behind, cores[other].conj(), cores[other])
            self.correlations[0, :, wire] = table.mT


def aqer_train(
    state: TrainState,
    n_blocks: int,
    *,
    block: str = "rzz",
    connectivity: str | Sequence[tuple[int, int]] = "all",
    search: str = "gradient",
    n_starts: int = 8,
    n_steps: int = 100,
    lr: float = 0.01,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Loader:
    """`aqer` for one state of many wires.

    Args:
        state: what to load; its `max_bond` and `cutoff` hold for all that is computed with it. It stays as it is.
        n_blocks: as `aqer`, and so are the other arguments.
        n_steps: steps of `polish_train`, each of which applies all blocks twice.

    Returns:
        the loader. Its infidelities are those of the trains, exact but for what they cut.
    """
    report = on_progress or (lambda *_: None)
    found = disentangle(
        TrainStates(state.copy()),
        n_blocks,
        block=block,
        connectivity=connectivity,
        search=search,
        n_starts=n_starts,
        seed=seed,
        on_block=lambda done, _: report("blocks", done, n_blocks),
    )[0]
    circuit = loading_circuit(found, block)
    before = train_infidelity(circuit, state)
    if not n_steps:
        return Loader(circuit, before, before, found.entanglement)
    polished = polish_train(
        circuit, state, n_steps=n_steps, lr=lr, on_step=lambda done, _: report("polish", done, n_steps)
    )
    return Loader(polished, train_infidelity(polished, state), before, found.entanglement)


def load_train(circuit: PairCircuit, max_bond: int = 64, cutoff: float = 1e-12) -> TrainState:
    """What a circuit makes of |0...0>, as a train."""
    state = TrainState.product(circuit.kind.product_states(circuit.start.double()), max_bond, cutoff)
    for matrix, pair in zip(circuit.kind.matrices(circuit.angles.double()), circuit.pairs):
        state.apply(matrix, *pair)
    return state


def train_infidelity(circuit: PairCircuit, state: TrainState) -> float:
    """`1 - |<state|circuit|0>|^2`."""
    return 1 - float(state.overlap(load_train(circuit, state.max_bond, state.cutoff)).abs()) ** 2


def polish_train(
    circuit: PairCircuit,
    state: TrainState,
    *,
    n_steps: int = 100,
    lr: float = 0.01,
    on_step: Callable[[int, float], None] | None = None,
) -> PairCircuit:
    """`polish` for a state of many wires: Adam on all angles, the gradients from trains.

    The best angles that were met are kept.

    Args:
        circuit: the circuit.
        state: the state that it should load.
        n_steps: steps of Adam.
        lr: its learning rate, in radians.
        on_step: called after each step with its number and the infidelity before it.
    """
    kind, start, angles = circuit.kind, circuit.start.double().clone(), circuit.angles.double().clone()
    start.requires_grad_()
    angles.requires_grad_()
    optimizer = torch.optim.Adam([start, angles], lr=lr)
    best, kept = float("inf"), circuit
    for step in range(n_steps + 1):
        products, matrices = kind.product_states(start), kind.matrices(angles)
        overlap, of_products, of_matrices = _overlap_and_slopes(
            products.detach(), matrices.detach(), circuit.pairs, state, step < n_steps
        )
        infidelity = 1 - float(overlap.abs()) ** 2
        if infidelity < best:
            best = infidelity
            now = start.detach().clone(), angles.detach().clone()
            kept = PairCircuit(circuit.n_wires, circuit.block, circuit.pairs, *now)
        if step == n_steps:
            break
        optimizer.zero_grad()
        # d(1 - |o|^2) = -2 Re(conj(o) do), and torch's gradient of a real function is the conjugate of that factor.
        torch.autograd.backward(
            [products, matrices], [-2 * overlap * slope.conj() for slope in (of_products, of_matrices)]
        )
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, infidelity)
    return kept


def _overlap_and_slopes(
    products: Tensor, matrices: Tensor, pairs: Sequence[tuple[int, int]], target: TrainState, slopes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The overlap, and its derivatives in the amplitudes of each wire and in each matrix."""
    states = [TrainState.product(products, target.max_bond, target.cutoff)]
    for matrix, pair in zip(matrices, pairs):
        state = states[-1].copy()
        state.apply(matrix, *pair)
        states.append(state)
    overlap = target.overlap(states[-1])
    of_matrices = torch.empty_like(matrices)
    of_products = torch.empty_like(products)
    if not slopes:
        return overlap, of_products, of_matrices
    bra = target.copy()
    for number in range(len(pairs) - 1, -1, -1):
        of_matrices[number] = _open_pair(bra, states[number], *pairs[number])
        bra.apply(matrices[number].mH, *pairs[number])
    left, right = _environments(bra.cores, states[0].cores)
    for wire, core in enumerate(bra.cores):
        rest = torch.einsum("ab,asc,cd->bsd", left[wire], core.conj(), right[wire + 1])
        # The train's cores are the products up to phases and norms of one wire, which its neighbours carry.
        of_products[wire] = rest.flatten() * (states[0].cores[wire].flatten() @ products[wire].conj())
    return overlap, of_products, of_matrices


def _open_pair(bra: TrainState, ket: TrainState, first: int, second: int) -> Tensor:
    """<bra| with the two wires open|ket>: (4, 4), rows of the bra's wires."""
    low, high = min(first, second), max(first, second)
    left = bra.cores[0].new_ones(1, 1)
    for mine, theirs in zip(bra.cores[:low], ket.cores[:low]):
        left = torch.einsum("ab,asc,bsd->cd", left, mine.conj(), theirs)
    right = bra.cores[0].new_ones(1, 1)
    for mine, theirs in zip(bra.cores[:high:-1], ket.cores[:high:-1]):
        right = torch.einsum("cd,asc,bsd->ab", right, mine.conj(), theirs)
    opened = torch.einsum("ab,asc,btd->stcd", left, bra.cores[low].conj(), ket.cores[low])
    for mine, theirs in zip(bra.cores[low + 1 : high], ket.cores[low + 1 : high]):
        opened = torch.einsum("stab,auc,bud->stcd", opened, mine.conj(), theirs)
    table = torch.einsum("stab,auc,bvd,cd->sutv", opened, bra.cores[high].conj(), ket.cores[high], right)
    if first > second:
        table = table.permute(1, 0, 3, 2)
    return table.reshape(4, 4)


def _environments(bras: Sequence[Tensor], kets: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Overlaps of all cores to the left of each wire, and to the right of the wire before it."""
    left, right = [bras[0].new_ones(1, 1)], [bras[0].new_ones(1, 1)]
    for bra, ket in zip(bras, kets):
        left.append(torch.einsum("ab,asc,bsd->cd", left[-1], bra.conj(), ket))
    for bra, ket in zip(reversed(bras), reversed(kets)):
        right.append(torch.einsum("cd,asc,bsd->ab", right[-1], bra.conj(), ket))
    return left, right[::-1]

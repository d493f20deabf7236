"""Automatic quantum circuit encoding: gates on any two wires, each the best one while the others stand still.

Tomonori Shirakawa, Hiroshi Ueda and Seiji Yunoki, Phys. Rev. Research 6, 043008 (2024), arXiv 2112.14524. The overlap
of state and circuit is linear in each gate, so that its best value is given by the singular value decomposition of a
4 x 4 matrix, for each pair of wires; the pair that does best is taken. Gates are added one by one, and all of them are
chosen anew in sweeps, forth and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ketune.state_preparation._pair_chain import Layouts, apply_blocks
from ketune.state_preparation.disentangling import allowed_pairs
from ketune.state_preparation.entanglement import as_states, count_wires, is_real
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.pair_circuit import PairCircuit
from ketune.state_preparation.unitary_blocks import circuit_from_unitaries


def aqce(
    vector: Tensor,
    n_gates: int,
    *,
    connectivity: str | Sequence[tuple[int, int]] = "all",
    n_sweeps: int = 20,
    sweeps_between: int = 2,
    tolerance: float = 1e-6,
    on_gate: Callable[[int, float], None] | None = None,
) -> PairCircuit:
    """A circuit of `n_gates` two-wire unitaries that loads a vector approximately.

    Args:
        vector: (n_features,) real or complex, padded with zeros to a power of two.
        n_gates: gates: "so4" (two CNOTs) for real vectors, "su4" (three) for complex ones.
        connectivity: "all", "line", "ring" or the allowed pairs.
        n_sweeps: sweeps over all gates at the end, at most.
        sweeps_between: sweeps after each new gate.
        tolerance: sweeps end when one lowers the infidelity by less than this share of it.
        on_gate: called with the number of gates so far and the infidelity.

    Returns:
        the circuit; its infidelity never rises from sweep to sweep.

    Raises:
        LoadingError: for fewer than 0 gates, a vector without a direction, or pairs as `allowed_pairs`.

    Example:
        >>> import torch
        >>> from ketune.state_preparation import aqce, infidelities
        >>> bell = torch.tensor([[1.0, 0.0, 0.0, 1.0]]) / 2**0.5
        >>> float(infidelities([aqce(bell[0], 1)], bell)) < 1e-6
        True
    """
    if n_gates < 0:
        raise LoadingError(f"n_gates={n_gates}: take at least 0")
    search = _Search(as_states(vector.detach()), connectivity)
    for number in range(n_gates if search.pairs else 0):
        search.add()
        for _ in range(sweeps_between):
            search.sweep()
        if on_gate is not None:
            on_gate(number + 1, search.infidelity)
    for _ in range(n_sweeps):
        before = search.infidelity
        search.sweep()
        if before - search.infidelity <= tolerance * before:
            break
    return search.circuit()


class _Search:
    """Gates in the order in which they undo the state: the circuit applies them in reverse."""

    def __init__(self, state: Tensor, connectivity: str | Sequence[tuple[int, int]]) -> None:
        self.n_wires = count_wires(state)
        self.pairs = allowed_pairs(connectivity, self.n_wires)
        self.real = is_real(state)
        self.state = state.real if self.real else state
        self.zero = torch.zeros_like(self.state)
        self.zero[0] = 1
        table = torch.tensor(self.pairs).view(-1, 1, 2)
        self.layouts = [Layouts(pair[None], self.n_wires) for pair in table]
        self.places = torch.cat([layout.last for layout in self.layouts]) if self.pairs else torch.zeros(0)
        self.chosen: list[int] = []
        self.gates: list[Tensor] = []
        self.infidelity = 1 - float(self.state[0].abs()) ** 2

    def add(self) -> None:
        """One more gate, where |0...0> meets what is left of the state."""
        left = self.state
        for number, gate in zip(self.chosen, self.gates):
            left = self._applied(left, gate.mH, number)
        number, gate = self._best(left, self.zero)
        self.chosen.append(number)
        self.gates.append(gate)

    def sweep(self) -> None:
        """Every gate anew, from the state to |0...0> and back."""
        for backwards in (False, True):
            order = range(len(self.gates))
            if backwards:
                self.chosen.reverse()
                self.gates = [gate.mH for gate in reversed(self.gates)]
            # On the way back the roles are changed: the circuit is undone from |0...0>.
            near, far = (self.zero, self.state) if backwards else (self.state, self.zero)
            rest = [far]
            for number, gate in zip(reversed(self.chosen), reversed(self.gates)):
                rest.append(self._applied(rest[-1], gate, number))
            for place in order:
                number, gate = self._best(near, rest[-2 - place])
                self.chosen[place], self.gates[place] = number, gate
                near = self._applied(near, gate.mH, number)
            self.infidelity = 1 - float((near.conj() @ far).abs()) ** 2
            if backwards:
                self.chosen.reverse()
                self.gates = [gate.mH for gate in reversed(self.gates)]

    def circuit(self) -> PairCircuit:
        """The circuit as blocks."""
        start = torch.zeros(self.n_wires, 2, dtype=torch.float64)
        block = "so4" if self.real else "su4"
        pairs = [self.pairs[number] for number in reversed(self.chosen)]
        gates = torch.stack(self.gates[::-1]) if self.gates else torch.zeros(0, 4, 4, dtype=torch.float64)
        return circuit_from_unitaries(start, pairs, gates, block)

    def _best(self, bra: Tensor, ket: Tensor) -> tuple[int, Tensor]:
        """The pair and the gate with the largest |<bra|gate|ket>|."""
        split = [each[self.places].view(len(self.pairs), 4, -1) for each in (bra, ket)]
        table = split[1] @ split[0].mH  # overlap = tr(gate @ table)
        u, s, v = torch.linalg.svd(table)
        values = s.sum(-1)
        gates = v.mH @ u.mH
        if self.real:  # of determinant 1, so that two CNOTs do
            sign = torch.linalg.det(gates).sign()
            values = values - (1 - sign) * s[:, -1]
            v = torch.cat((v[:, :-1], sign[:, None, None] * v[:, -1:]), 1)
            gates = v.mH @ u.mH
        best = int(values.argmax())
        return best, gates[best]

    def _applied(self, state: Tensor, gate: Tensor, number: int) -> Tensor:
        return apply_blocks(state[None], gate[None, None], self.layouts[number])[0]

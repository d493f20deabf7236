"""Several energy problems on one circuit, evaluated in one run: what meta-training and comparisons live on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ketune.circuits import MAX_WIRES, Circuit, run
from ketune.vqc.problems.base import EnergyProblem


@dataclass(frozen=True, eq=False)
class EnergyBatch:
    """Problems that share a circuit and differ in their Hamiltonians.

    All Pauli words are measured in one run, and each problem weighs them with its own coefficients: a batch of
    problems costs little more than one of them. `minimise` takes a batch in place of a problem.

    Args:
        problems: at least one, all on the same circuit.

    Attributes:
        name: for messages.
        circuit: their circuit.
        ground_energies: (n_problems,) in float64.

    Raises:
        ValueError: for no problems, or problems on different circuits.

    Example:
        >>> from ketune.circuits import heisenberg, ry_ring
        >>> chains = [EnergyProblem("chain", ry_ring(3), heisenberg(3, (1, 1, z)), -4.0, (z,)) for z in (0.5, 1.0)]
        >>> EnergyBatch(chains).energy(torch.zeros(2, 3))
        tensor([1., 2.])
    """

    problems: Sequence[EnergyProblem]
    name: str = field(init=False)
    circuit: Circuit = field(init=False)
    ground_energies: Tensor = field(init=False, repr=False)
    _words: tuple[str, ...] = field(init=False, repr=False)
    _coefficients: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        problems = tuple(self.problems)
        if not problems:
            raise ValueError("EnergyBatch([]): give at least one problem")
        first = problems[0]
        for problem in problems:
            if problem.circuit != first.circuit:
                raise ValueError(
                    f"EnergyBatch: {problem.name!r} has another circuit than {first.name!r}; group_by_circuit sorts "
                    "problems into batches"
                )
        words = tuple(sorted({word for problem in problems for word in problem.hamiltonian.words}))
        terms = [dict(zip(problem.hamiltonian.words, problem.hamiltonian.coefficients)) for problem in problems]
        coefficients = torch.tensor([[its.get(word, 0.0) for word in words] for its in terms], dtype=torch.float64)
        grounds = torch.tensor([problem.ground_energy for problem in problems], dtype=torch.float64)
        for name, value in {
            "problems": problems,
            "name": f"{len(problems)} problems like {first.name}",
            "circuit": first.circuit,
            "ground_energies": grounds,
            "_words": words,
            "_coefficients": coefficients,
        }.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.problems)

    def energy(self, angles: Tensor) -> Tensor:
        """The energy of each problem at its own angles: (..., n_problems, n_angles) to (..., n_problems).

        Differentiable twice, as `run` is. Problems on more than 14 wires are evaluated one after another.

        Raises:
            ValueError: for angles of another shape.
        """
        if angles.shape[-2:] != (len(self), self.circuit.n_angles):
            raise ValueError(
                f"angles of shape {tuple(angles.shape)}; {self.name} take (..., {len(self)}, {self.circuit.n_angles})"
            )
        if self.circuit.n_wires > MAX_WIRES:
            each = angles.unbind(-2)
            return torch.stack([problem.energy(own) for problem, own in zip(self.problems, each)], -1)
        measured = run(self.circuit, None, angles, readout=self._words)
        return (measured * self._coefficients.to(measured)).sum(-1)

    def tasks(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The descriptors, (n_problems, n_task).

        Raises:
            ValueError: for descriptors of different lengths.
        """
        lengths = {len(problem.descriptor) for problem in self.problems}
        if len(lengths) > 1:
            raise ValueError(
                f"{self.name} have descriptors of {sorted(lengths)} numbers; a family's are all as long, pad with zeros"
            )
        return torch.tensor([problem.descriptor for problem in self.problems], dtype=dtype)


def group_by_circuit(problems: Iterable[EnergyProblem]) -> list[EnergyBatch]:
    """Sorts problems into batches of equal circuits, in the order in which the circuits first come."""
    groups: dict[str, list[EnergyProblem]] = {}
    for problem in problems:
        groups.setdefault(problem.circuit.text, []).append(problem)
    return [EnergyBatch(group) for group in groups.values()]

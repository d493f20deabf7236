"""What a variational circuit is trained on: an energy to minimise, or labelled rows to tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ketune.circuits import MAX_WIRES, Circuit, Hamiltonian, expectation, run

_MAX_SETTINGS = 48  # LiH on 6 wires has 36, on 12 wires 151, where `expectation` needs 1.4 s a gradient at once


@dataclass(frozen=True, eq=False)
class EnergyProblem:
    """Find the angles at which a circuit's state has the lowest energy (VQE, QAOA).

    Args:
        name: what it is called in tables, `heisenberg-6`.
        circuit: the circuit; whatever prepares its reference state (X gates for a filling, H for QAOA) is part of it.
        hamiltonian: the energy, on as many wires.
        ground_energy: the lowest energy among states that the circuit's symmetry lets it reach, known exactly.
        descriptor: numbers that tell this problem from others of its family, such as couplings; what Q-MAML and FLIP
            are told about it. As long for every member of a family.

    Raises:
        ValueError: for a Hamiltonian on other wires than the circuit's.
    """

    name: str
    circuit: Circuit
    hamiltonian: Hamiltonian
    ground_energy: float
    descriptor: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.hamiltonian.n_wires != self.circuit.n_wires:
            raise ValueError(
                f"EnergyProblem({self.name!r}): a Hamiltonian on {self.hamiltonian.n_wires} wires for a circuit on "
                f"{self.circuit.n_wires}"
            )

    @property
    def n_wires(self) -> int:
        return self.circuit.n_wires

    def energy(self, angles: Tensor) -> Tensor:
        """The energy at (..., n_angles) angles in radians: (...), differentiable twice."""
        if self._runs:
            return run(self.circuit, None, angles, readout=self.hamiltonian)[..., 0]
        return expectation(self.circuit, self.hamiltonian, angles)

    @cached_property
    def _runs(self) -> bool:
        """Whether `run` takes the circuit: it compiles a program for each measurement setting, a third of a second."""
        return self.n_wires <= MAX_WIRES and len(self.hamiltonian.groups()) <= _MAX_SETTINGS

    def task(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The descriptor as a tensor (n,)."""
        return torch.tensor(self.descriptor, dtype=dtype)


Family = Callable[[torch.Generator | None], EnergyProblem]
"""A source of randomness (torch's own when None) to one problem of a family; all have descriptors of one length."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of features and their classes.

    Args:
        x: (n, n_features) features.
        y: (n,) classes, int64.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Rows to tell apart, split once and for all: nothing is ever fitted on validation or test rows.

    Args:
        name: what it is called in tables.
        train: rows to learn from.
        validation: rows to choose by.
        test: rows to report on, looked at once.
        n_classes: number of classes.
        shape: the features of a row as they lie, such as (50, 50) for an image; their product is `n_features`.
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows
    n_classes: int
    shape: tuple[int, ...]

    @property
    def n_features(self) -> int:
        return self.train.x.shape[-1]

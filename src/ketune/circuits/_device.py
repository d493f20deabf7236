"""`Device`: what runs circuits for us elsewhere, and the few values that pass between us and it.

A device gets programs, each one circuit with rows of angles and, for amplitude encoding, a starting state for each row.
It gives back the chances of all basis states for each row, estimated from shots or exact. Everything else (readouts,
mitigation, gradients, costs) is computed from those, once for all devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ketune.circuits.circuit import Circuit, Gate
from ketune.errors import KetuneError

MAX_DEVICE_WIRES = 20
"""Largest circuit whose 2 ** n_wires chances are kept for each row."""


class DeviceError(KetuneError, ValueError):
    """A device that cannot be opened, or that cannot do what was asked of it."""


@dataclass(frozen=True, eq=False)
class Program:
    """Circuits of one structure, one for each row of angles.

    Args:
        circuit: gates that load features, the gates of the circuit, and a change of basis, in this order.
        angles: (rows, circuit.n_angles) angles in radians, float64 on the CPU.
        states: (rows, 2 ** n_wires) normalised amplitudes to start from, float64 on the CPU; |0...0> when None.
        n_loading: how many gates in front load features.
        n_basis: how many gates at the end change the basis.
    """

    circuit: Circuit
    angles: Tensor
    states: Tensor | None = None
    n_loading: int = 0
    n_basis: int = 0

    @property
    def n_rows(self) -> int:
        """Number of circuits."""
        return len(self.angles)

    def part(self, start: int, stop: int) -> Program:
        """The rows from `start` to `stop`."""
        states = None if self.states is None else self.states[start:stop]
        return replace(self, angles=self.angles[start:stop], states=states)

    def starts(self) -> list[tuple[Tensor | None, list[int]]]:
        """Each different starting state with the rows that start there; `(None, all rows)` for |0...0>."""
        if self.states is None:
            return [(None, list(range(self.n_rows)))]
        rows: dict[bytes, list[int]] = {}
        for row, state in enumerate(self.states):
            rows.setdefault(state.numpy().tobytes(), []).append(row)
        return [(self.states[members[0]], members) for members in rows.values()]


@dataclass(frozen=True)
class RunOptions:
    """How programs are run.

    Args:
        shots: measurements of each circuit; exact chances when None.
        seed: of simulated measurements; drawn by the device when None.
        optimization_level: of Qiskit's transpiler, 0 to 3; PennyLane takes no notice.
    """

    shots: int | None = None
    seed: int | None = None
    optimization_level: int = 1


@dataclass(frozen=True)
class Profile:
    """What one circuit is on a device, after it was rewritten in the device's own gates.

    Args:
        depth: time steps, measurement included where the device counts it.
        n_two_wire_gates: gates on two wires.
        seconds: of one shot; None where the device does not say.
        reason: why there are no seconds.
    """

    depth: int
    n_two_wire_gates: int
    seconds: float | None = None
    reason: str | None = None


class Device(ABC):
    """Runs programs; `open_device` makes one by name.

    Attributes:
        name: what it is called in messages.
        is_exact: True when it gives exact chances where no shots are asked for.
        is_hardware: True when running costs the time of a machine that others use, or money.
        max_circuits: circuits of one job.
    """

    name: str
    is_exact: bool = True
    is_hardware: bool = False
    max_circuits: int = 1000

    def measure(self, programs: Sequence[Program], options: RunOptions) -> list[Tensor]:
        """Runs all programs, in as few jobs as `max_circuits` allows.

        Args:
            programs: what to run.
            options: shots, seed, optimisation level.

        Returns:
            for each program the chances of the basis states, (rows, 2 ** n_wires) float64.

        Raises:
            DeviceError: without shots on a device that has nothing exact to give, or for too many wires.
        """
        self.check(programs, options)
        results: list[list[Tensor]] = [[] for _ in programs]
        for number, job in enumerate(self.jobs(programs)):
            seed = None if options.seed is None else (options.seed + number) % 2**31
            found = self._run([program for _, program in job], replace(options, seed=seed))
            for (place, _), chances in zip(job, found):
                results[place].append(chances)
        return [torch.cat(parts) for parts in results]

    def check(self, programs: Sequence[Program], options: RunOptions) -> None:
        """Refuses what `measure` cannot run."""
        if options.shots is None and not self.is_exact:
            raise DeviceError(f"{self.name} measures, it computes nothing exactly: pass shots=, for example shots=1000")
        if options.shots is not None and options.shots < 1:
            raise DeviceError(f"shots={options.shots}: take at least 1")
        if options.optimization_level not in range(4):
            raise DeviceError(f"optimization_level={options.optimization_level}: choose 0, 1, 2 or 3")
        for program in programs:
            if program.circuit.n_wires > MAX_DEVICE_WIRES:
                raise DeviceError(f"a circuit on {program.circuit.n_wires} wires: at most {MAX_DEVICE_WIRES} are read")

    def jobs(self, programs: Sequence[Program]) -> list[list[tuple[int, Program]]]:
        """The programs cut into jobs, each a list of parts with the number of the program that they belong to."""
        jobs: list[list[tuple[int, Program]]] = []
        room = 0
        for place, program in enumerate(programs):
            start = 0
            while start < program.n_rows:
                if room == 0:
                    jobs.append([])
                    room = self.max_circuits
                stop = min(program.n_rows, start + room)
                jobs[-1].append((place, program.part(start, stop)))
                room -= stop - start
                start = stop
        return jobs

    def qubits(self, program: Program, options: RunOptions) -> list[tuple[int, ...]]:
        """For each row, the device's own number of the qubit that each wire is measured on."""
        return [tuple(range(program.circuit.n_wires))] * program.n_rows

    def calibrate_readout(self, qubits: Sequence[int], options: RunOptions) -> dict[int, Tensor]:
        """Prepares all qubits in |0>, then all in |1>, and measures how often each one is misread.

        Args:
            qubits: numbers that `qubits` gave.
            options: shots, seed.

        Returns:
            for each qubit the (2, 2) float64 chances to read i where j was prepared, at [i, j].
        """
        n_wires = max(qubits) + 1
        ones = tuple(Gate("X", (wire,)) for wire in range(n_wires))
        empty = torch.zeros(1, 0, dtype=torch.float64)
        found = self.measure([Program(Circuit(n_wires, gates), empty) for gates in ((), ones)], options)
        columns = [[_chance_of_one(chances[0], n_wires, qubit) for chances in found] for qubit in qubits]
        return {qubit: confusion_matrix(*column) for qubit, column in zip(qubits, columns)}

    @abstractmethod
    def _run(self, programs: Sequence[Program], options: RunOptions) -> list[Tensor]:
        """`measure`, in one job."""

    @abstractmethod
    def profile(self, program: Program, options: RunOptions) -> Profile:
        """Size and duration of the program's first circuit on this device."""


def confusion_matrix(one_of_zero: float, one_of_one: float) -> Tensor:
    """The (2, 2) chances to read i where j was prepared, from the chances to read 1 in both cases."""
    return torch.tensor([[1 - one_of_zero, 1 - one_of_one], [one_of_zero, one_of_one]], dtype=torch.float64)


def _chance_of_one(chances: Tensor, n_wires: int, wire: int) -> float:
    return chances.reshape(2**wire, 2, 2 ** (n_wires - wire - 1))[:, 1].sum().item()

"""Qiskit's exact statevector, and any Qiskit backend through a sampler: fake ones, simulators, IBM's machines."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._device import Device, DeviceError, Profile, Program, RunOptions, confusion_matrix
from ketune.circuits._optional import library
from ketune.circuits._qiskit_programs import (
    bound_circuit,
    in_rows,
    measured_circuit,
    profile_of,
    sampled,
    whole_circuit,
)
from ketune.circuits.circuit import Circuit

_KEPT_CIRCUITS = 1024
_SIMULATOR = "a simulator has no durations"


class StatevectorDevice(Device):
    """Qiskit's `Statevector`, exact, or sampled by its `StatevectorSampler`. No noise, nothing transpiled."""

    name = "statevector"

    def __init__(self) -> None:
        library("qiskit")

    def _run(self, programs: Sequence[Program], options: RunOptions) -> list[Tensor]:
        if options.shots is None:
            return [self._exact(program) for program in programs]
        # A generator rather than a number, from which the sampler would draw the same shots for every row.
        sampler = library("qiskit.primitives").StatevectorSampler(seed=np.random.default_rng(options.seed))
        results = []
        for program in programs:
            starts = program.starts()
            pubs = [(measured_circuit(program, state), program.angles[rows]) for state, rows in starts]
            found = sampled(sampler, pubs, options.shots, [program.circuit.n_wires] * len(pubs))
            results.append(in_rows([(rows, each) for (_, rows), each in zip(starts, found)], program.n_rows))
        return results

    def _exact(self, program: Program) -> Tensor:
        statevector = library("qiskit.quantum_info").Statevector
        circuit = whole_circuit(program, None)
        zero = statevector.from_int(0, 2**program.circuit.n_wires)
        states = [None] * program.n_rows if program.states is None else program.states
        rows = []
        for angles, state in zip(program.angles, states):
            start = zero if state is None else statevector(state.numpy())
            rows.append(torch.from_numpy(start.evolve(bound_circuit(circuit, angles)).probabilities()))
        return torch.stack(rows)

    def profile(self, program: Program, options: RunOptions) -> Profile:
        return profile_of(measured_circuit(program, program.starts()[0][0]), None, _SIMULATOR)


class QiskitDevice(Device):
    """A Qiskit `BackendV2`: circuits are transpiled once, angles bound to them, and shots counted.

    Args:
        backend: the backend.
        sampler: makes a `SamplerV2` for this backend, given a seed or None.
        name: for messages; the backend's own name when None.
        is_hardware: whether running costs a machine's time.
        max_circuits: circuits of one job; what the backend says when None, or else 1000.
    """

    is_exact = False

    def __init__(
        self,
        backend: Any,
        sampler: Callable[[int | None], Any],
        *,
        name: str | None = None,
        is_hardware: bool = False,
        max_circuits: int | None = None,
    ) -> None:
        self.backend, self._sampler, self.is_hardware = backend, sampler, is_hardware
        self.name = name or str(backend.name)
        self.max_circuits = max_circuits or getattr(backend, "max_circuits", None) or Device.max_circuits
        self._circuits: OrderedDict[tuple[Circuit, bytes, int], Any] = OrderedDict()
        self._managers: dict[int, Any] = {}

    def transpiled(self, program: Program, state: Tensor | None, options: RunOptions) -> Any:
        """The measured circuit in the backend's gates, on its qubits, with free parameters."""
        key = (program.circuit, b"" if state is None else state.numpy().tobytes(), options.optimization_level)
        if key not in self._circuits:
            self._circuits[key] = self._manager(options.optimization_level).run(measured_circuit(program, state))
            if len(self._circuits) > _KEPT_CIRCUITS:
                self._circuits.popitem(last=False)
        self._circuits.move_to_end(key)
        return self._circuits[key]

    def _manager(self, level: int) -> Any:
        # One seed for all, so that a circuit is laid out on the same qubits in every session.
        if level not in self._managers:
            make = library("qiskit.transpiler").generate_preset_pass_manager
            self._managers[level] = make(optimization_level=level, backend=self.backend, seed_transpiler=0)
        return self._managers[level]

    def check(self, programs: Sequence[Program], options: RunOptions) -> None:
        super().check(programs, options)
        for program in programs:
            if self.backend.num_qubits is not None and program.circuit.n_wires > self.backend.num_qubits:
                raise DeviceError(
                    f"{self.name} has {self.backend.num_qubits} qubits; the circuit needs {program.circuit.n_wires}"
                )

    def _run(self, programs: Sequence[Program], options: RunOptions) -> list[Tensor]:
        assert options.shots is not None
        pubs, places, widths = [], [], []
        for place, program in enumerate(programs):
            for state, rows in program.starts():
                pubs.append((self.transpiled(program, state, options), program.angles[rows]))
                places.append((place, rows))
                widths.append(program.circuit.n_wires)
        found = sampled(self._sampler(options.seed), pubs, options.shots, widths)
        results: list[list[tuple[list[int], Tensor]]] = [[] for _ in programs]
        for (place, rows), each in zip(places, found):
            results[place].append((rows, each))
        return [in_rows(parts, program.n_rows) for parts, program in zip(results, programs)]

    def qubits(self, program: Program, options: RunOptions) -> list[tuple[int, ...]]:
        parts: list[tuple[int, ...]] = [()] * program.n_rows
        for state, rows in program.starts():
            layout = self.transpiled(program, state, options).layout
            n_wires = program.circuit.n_wires
            on = list(range(n_wires)) if layout is None else layout.final_index_layout(filter_ancillas=True)
            for row in rows:
                parts[row] = tuple(on[::-1])
        return parts

    def calibrate_readout(self, qubits: Sequence[int], options: RunOptions) -> dict[int, Tensor]:
        qiskit = library("qiskit")
        make = library("qiskit.transpiler").generate_preset_pass_manager
        manager = make(optimization_level=0, backend=self.backend, initial_layout=list(qubits))
        pubs = []
        for is_one in (False, True):
            circuit = qiskit.QuantumCircuit(len(qubits))
            if is_one:
                circuit.x(range(len(qubits)))
            circuit.measure_all()
            pubs.append(manager.run(circuit))
        found = [result.data.meas for result in self._sampler(options.seed).run(pubs, shots=options.shots).result()]
        matrices = {}
        for place, qubit in enumerate(qubits):
            ones = [bits.slice_bits(place).get_int_counts().get(1, 0) / bits.num_shots for bits in found]
            matrices[qubit] = confusion_matrix(*ones)
        return matrices

    def profile(self, program: Program, options: RunOptions) -> Profile:
        circuit = self.transpiled(program, program.starts()[0][0], options)
        seconds, reason = _duration(circuit, self.backend)
        return profile_of(circuit, seconds, reason)


def _duration(circuit: Any, backend: Any) -> tuple[float | None, str | None]:
    """Seconds of one shot, with the pause that resets the qubits where the backend states one."""
    try:
        seconds = circuit.estimate_duration(backend.target, unit="s")
    except library("qiskit.exceptions").QiskitError as error:
        return None, f"{backend.name} does not state how long its gates take ({str(error).splitlines()[0]})"
    pause = getattr(backend, "default_rep_delay", None)
    return seconds + (pause or 0.0), None

"""Qiskit Aer: without noise, with a noise model of ours, or with one of Aer's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._aer_noise import CONTROLLED, misread_by, noisy_circuit, readout_noise, with_errors
from ketune.circuits._device import Device, DeviceError, Profile, Program, RunOptions
from ketune.circuits._optional import library
from ketune.circuits._qiskit_programs import (
    in_rows,
    measured_circuit,
    parameter_values,
    prepared,
    profile_of,
    sampled,
    whole_circuit,
)
from ketune.circuits.noise import NoiseModel

LOADINGS = ("gates", "free")
_DENSITY_WIRES = 10  # up to there 4 ** n numbers take less time than a trajectory for each shot
_MOST_EXACT_WIRES = 13


class AerDevice(Device):
    """`AerSimulator`, exact or sampled.

    Args:
        noise: a `NoiseModel` of ours, whose errors stand behind the gates of the circuit as in `noisy_run`; an Aer
            `NoiseModel`, whose errors stand behind the gates that the transpiler makes; or None.
        loading: "gates": features are loaded by gates that make errors as others do; "free": without any error, as in
            `noisy_run`, and faster. The same without noise.
        method: of `AerSimulator`; "automatic" takes density matrices for noise on few wires, else trajectories.
        max_circuits: circuits of one job.
    """

    name = "aer"

    def __init__(
        self,
        noise: Any = None,
        *,
        loading: str = "gates",
        method: str = "automatic",
        max_circuits: int | None = None,
    ) -> None:
        aer = library("qiskit_aer")
        if loading not in LOADINGS:
            raise DeviceError(f"loading={loading!r}: choose one of {', '.join(map(repr, LOADINGS))}")
        if noise is None or isinstance(noise, NoiseModel):
            self.noise = noise or NoiseModel()
            self.aer_noise = readout_noise(self.noise.readout_error)
        elif isinstance(noise, library("qiskit_aer.noise").NoiseModel):
            self.noise, self.aer_noise = None, noise
            if unbound := sorted(set(CONTROLLED) & set(noise.noise_instructions)):
                raise DeviceError(
                    f"noise: errors on {', '.join(unbound)}, whose angles Aer does not bind (qiskit-aer issue 2323); "
                    "put the errors on the gates that they are made of, such as cx"
                )
        else:
            raise DeviceError(f"noise={type(noise).__name__}: pass a ketune.circuits.NoiseModel or Aer's NoiseModel")
        self.loading = loading
        self.method = method
        self.max_circuits = max_circuits or Device.max_circuits
        if method not in (known := aer.AerSimulator().available_methods()):
            raise DeviceError(f"method={method!r}: choose one of {', '.join(map(repr, known))}")

    @property
    def is_noisy(self) -> bool:
        """Whether gates make errors."""
        if self.noise is not None:
            return bool(self.noise.one_wire or self.noise.two_wire)
        return bool(set(self.aer_noise.noise_instructions) - {"measure"})

    @property
    def _loads_freely(self) -> bool:
        """Whether states are set, not prepared: asked for, or the same."""
        return self.loading == "free" or not self.is_noisy

    def _simulator(self, n_wires: int, is_exact: bool) -> Any:
        method = self.method
        if method == "automatic":
            dense = self.is_noisy and (is_exact or n_wires <= _DENSITY_WIRES)
            method = "density_matrix" if dense else "statevector"
        if is_exact and self.is_noisy:
            if method != "density_matrix":
                raise DeviceError(f"aer: exact noise needs method='density_matrix', not {method!r}; or pass shots=")
            if n_wires > _MOST_EXACT_WIRES:
                raise DeviceError(
                    f"aer: exact noise on {n_wires} wires takes 4 ** {n_wires} numbers; pass shots= (trajectories), or "
                    f"at most {_MOST_EXACT_WIRES} wires"
                )
        return library("qiskit_aer").AerSimulator(method=method, noise_model=self.aer_noise)

    def _gates(self, program: Program, level: int) -> Any:
        """The program's gates in Aer's, not measured, with free parameters."""
        if self.noise is not None:
            return noisy_circuit(program, self.noise, self.loading == "gates")
        return self._transpiled(whole_circuit(program, None), level)

    def _start(self, state: Tensor, simulator: Any, n_wires: int, level: int) -> Any:
        """What loads a state."""
        if self._loads_freely:
            return self._set_state(state, simulator, n_wires)
        loading = prepared(state, n_wires)
        return self._transpiled(loading, level) if self.noise is None else with_errors(loading, self.noise)

    def _transpiled(self, circuit: Any, level: int) -> Any:
        # For gates alone, not for the simulator, whose 30 qubits would all come along.
        known = library("qiskit.circuit.library").get_standard_gate_name_mapping()
        gates = [name for name in self.aer_noise.basis_gates if name in known and name not in CONTROLLED]
        make = library("qiskit.transpiler").generate_preset_pass_manager
        return make(optimization_level=level, basis_gates=gates, seed_transpiler=0).run(circuit)

    def _set_state(self, state: Tensor, simulator: Any, n_wires: int) -> Any:
        circuit = library("qiskit").QuantumCircuit(n_wires)
        vector = state.numpy().astype(complex)
        if simulator.options.method == "density_matrix":
            circuit.set_density_matrix(np.outer(vector, vector.conj()))
        else:
            circuit.set_statevector(vector)
        return circuit

    def _run(self, programs: Sequence[Program], options: RunOptions) -> list[Tensor]:
        results = []
        for place, program in enumerate(programs):
            n_wires, starts = program.circuit.n_wires, program.starts()
            simulator = self._simulator(n_wires, options.shots is None)
            level = options.optimization_level
            gates = self._gates(program, level)
            pubs = []
            for state, rows in starts:
                start = None if state is None else self._start(state, simulator, n_wires, level)
                pubs.append((gates.copy() if start is None else start.compose(gates), program.angles[rows]))
            if options.shots is None:
                found = [misread_by(self.aer_noise, each, n_wires) for each in _exact(simulator, pubs)]
            else:
                for circuit, _ in pubs:
                    circuit.measure_all()
                seed = None if options.seed is None else (options.seed + place) % 2**31  # no two programs alike
                sampler = library("qiskit_aer.primitives").SamplerV2.from_backend(simulator, seed=seed)
                found = sampled(sampler, pubs, options.shots, [n_wires] * len(pubs))
            results.append(in_rows([(rows, each) for (_, rows), each in zip(starts, found)], program.n_rows))
        return results

    def profile(self, program: Program, options: RunOptions) -> Profile:
        # Without errors, loading costs nothing here, but it would on any machine.
        state = None if self.loading == "free" else program.starts()[0][0]
        return profile_of(measured_circuit(program, state), None, "a simulator has no durations")


def _exact(simulator: Any, pubs: Sequence[tuple[Any, Tensor]]) -> list[Tensor]:
    """Chances of all circuits at all their rows of angles, in one call of the simulator."""
    circuits, binds, counts = [], [], []
    for circuit, angles in pubs:
        circuit.save_probabilities()
        circuits.append(circuit)
        values = parameter_values(circuit, angles)
        if not values.shape[1]:
            binds.append({})
            counts.append(1)
            continue
        binds.append({p: values[:, place].tolist() for place, p in enumerate(circuit.parameters)})
        counts.append(len(angles))
    bound = {"parameter_binds": binds} if any(binds) else {}
    result = simulator.run(circuits, shots=1, **bound).result()
    if not result.success:
        raise DeviceError(f"aer: {result.status}")
    found, place = [], 0
    for count, (_, angles) in zip(counts, pubs):
        rows = [torch.from_numpy(np.array(result.data(place + k)["probabilities"])) for k in range(count)]
        found.append(torch.stack(rows).expand(len(angles), -1).clone())
        place += count
    return found

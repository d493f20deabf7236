"""Programs as Qiskit circuits, and Qiskit's measurements as chances. Wire w is qubit n - 1 - w."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ketune.circuits._device import Profile, Program
from ketune.circuits._optional import library
from ketune.circuits.export import to_qiskit

_NATIVE = ["cx", "u"]


def prepared(state: Tensor, n_wires: int) -> Any:
    """The circuit that prepares a state, by Qiskit's `StatePreparation`, as rotations and CNOTs."""
    return _prepared(state.numpy().tobytes(), n_wires)


@lru_cache(maxsize=1024)
def _prepared(state: bytes, n_wires: int) -> Any:
    qiskit = library("qiskit")
    circuit = qiskit.QuantumCircuit(n_wires)
    amplitudes = np.frombuffer(state, dtype=np.float64)
    circuit.append(library("qiskit.circuit.library").StatePreparation(amplitudes), range(n_wires))
    return qiskit.transpile(circuit, basis_gates=_NATIVE, optimization_level=1, num_processes=1)


def whole_circuit(program: Program, state: Tensor | None) -> Any:
    """Loading of amplitudes and gates, with free parameters `angle[0]`, `angle[1]`, ..., not measured yet."""
    body = to_qiskit(program.circuit)
    return body if state is None else prepared(state, program.circuit.n_wires).compose(body)


def measured_circuit(program: Program, state: Tensor | None) -> Any:
    """`whole_circuit`, with all qubits measured into a register `meas`."""
    circuit = whole_circuit(program, state)
    circuit.measure_all()
    return circuit


def parameter_values(circuit: Any, angles: Tensor) -> np.ndarray:
    """(rows, parameters) values in the circuit's own order; a transpiler may have found that some do not matter."""
    return angles[:, [parameter.index for parameter in circuit.parameters]].numpy()


def bound_circuit(circuit: Any, angles: Tensor) -> Any:
    """The circuit at one row of angles, (n_angles,)."""
    return circuit.assign_parameters(parameter_values(circuit, angles[None])[0])


def chances_of(bits: Any, n_wires: int) -> Tensor:
    """A `BitArray` of one parameter's axis as the share of each outcome, (rows, 2 ** n_wires) float64."""
    bytes_ = torch.from_numpy(np.array(bits.array, dtype=np.int64))
    places = 256 ** torch.arange(bytes_.shape[-1] - 1, -1, -1)
    index = (bytes_ * places).sum(-1)
    hits = torch.zeros(len(index), 2**n_wires, dtype=torch.float64)
    return hits.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64)) / index.shape[1]


def sampled(sampler: Any, pubs: Sequence[tuple[Any, Tensor]], shots: int, n_wires: Sequence[int]) -> list[Tensor]:
    """Runs circuits, each with its rows of angles, on a `SamplerV2`; the chances of each, (rows, 2 ** n_wires)."""
    job = sampler.run([(circuit, parameter_values(circuit, angles)) for circuit, angles in pubs], shots=shots)
    return [chances_of(found.data.meas, count) for found, count in zip(job.result(), n_wires)]


def in_rows(parts: Sequence[tuple[Sequence[int], Tensor]], n_rows: int) -> Tensor:
    """Results of groups of rows, put back in the order of the rows."""
    order = [row for rows, _ in parts for row in rows]
    together = torch.cat([each for _, each in parts])
    out = torch.empty_like(together)
    out[order] = together
    assert len(out) == n_rows
    return out


def profile_of(circuit: Any, seconds: float | None = None, reason: str | None = None) -> Profile:
    """Depth and two-qubit gates of a Qiskit circuit."""
    return Profile(circuit.depth(), circuit.num_nonlocal_gates(), seconds, reason)

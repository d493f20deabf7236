"""Our noise model in Aer's terms: an error behind each gate, and readout errors on chances that were not sampled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ketune.circuits._device import DeviceError, Program
from ketune.circuits._optional import library
from ketune.circuits.export import to_qiskit
from ketune.circuits.noise import AnyChannel, NoiseModel, PauliChannel, channel_wires

CONTROLLED = ("crx", "cry", "crz", "cp")
"""Gates whose angles Aer 0.18 does not bind when a circuit is run at several rows of them (its issue 2323)."""

_NOT_NATIVE = ["ch", "iswap", "xx_plus_yy", *CONTROLLED]
"""Gates of ours that Aer cannot run as they are; their parts are put in their place, without errors in between."""


def noisy_circuit(program: Program, noise: NoiseModel, noisy_loading: bool) -> Any:
    """A program's gates as a Qiskit circuit with errors behind them, with free parameters, not measured yet.

    The same errors as in `noisy_run`: behind each gate of the circuit, whatever Aer makes of it, and none behind the
    gates that turn the basis of a measurement.

    Args:
        program: the program; its starting states are not looked at.
        noise: which errors.
        noisy_loading: whether the gates that load features make errors too.
    """
    errors = [_errors(channels) for channels in (noise.one_wire, noise.two_wire)]
    n_wires, gates = program.circuit.n_wires, program.circuit.gates
    body = to_qiskit(program.circuit)
    circuit = body.copy_empty_like()
    first, last = 0 if noisy_loading else program.n_loading, len(gates) - program.n_basis
    for number, (gate, item) in enumerate(zip(gates, body.data)):
        if gate.name != "GPHASE":
            circuit.append(item.operation, item.qubits)
        if first <= number < last:
            _append_errors(circuit, errors[len(gate.wires) - 1], [n_wires - 1 - wire for wire in gate.wires])
    return circuit.decompose(_NOT_NATIVE)


def with_errors(loading: Any, noise: NoiseModel) -> Any:
    """A Qiskit circuit on one and two qubits at a time, with errors behind its gates."""
    errors = [_errors(channels) for channels in (noise.one_wire, noise.two_wire)]
    circuit = loading.copy_empty_like()
    for item in loading.data:
        qubits = [loading.find_bit(qubit).index for qubit in item.qubits]
        circuit.append(item.operation, qubits)
        _append_errors(circuit, errors[len(qubits) - 1], qubits)
    return circuit


def _append_errors(circuit: Any, errors: list[tuple[AnyChannel, Any]], qubits: list[int]) -> None:
    for channel, error in errors:
        for places in channel_wires(channel, tuple(qubits)):
            circuit.append(error, places)


def _errors(channels: tuple[AnyChannel, ...]) -> list[tuple[AnyChannel, Any]]:
    return [(channel, _error(channel).to_instruction()) for channel in channels]


def _error(channel: AnyChannel) -> Any:
    noise = library("qiskit_aer.noise")
    if isinstance(channel, PauliChannel):
        words, chances = channel.words, channel.probabilities
    elif channel.pauli_probabilities is not None:
        words, chances = ("X", "Y", "Z"), channel.pauli_probabilities[1:]
    else:
        return noise.amplitude_damping_error(channel.strength)
    # Qiskit writes the first qubit's letter last.
    terms = [(word[::-1], chance) for word, chance in zip(words, chances)]
    return noise.pauli_error([*terms, ("I" * len(words[0]), max(0.0, 1 - sum(chances)))])


def readout_noise(error: float) -> Any:
    """An Aer noise model that misreads every bit with a probability, and does nothing else."""
    noise = library("qiskit_aer.noise")
    model = noise.NoiseModel()
    if error:
        model.add_all_qubit_readout_error(noise.ReadoutError([[1 - error, error], [error, 1 - error]]))
    return model


def misread_by(model: Any, chances: Tensor, n_wires: int) -> Tensor:
    """Chances (rows, 2 ** n_wires) with the readout errors of an Aer noise model.

    Raises:
        DeviceError: for a readout error on several qubits at once, which only sampling applies.
    """
    everywhere, single = None, {}
    for error in model.to_dict().get("errors", ()):
        if error["type"] != "roerror":
            continue
        # Aer's rows are what was prepared, ours what was read.
        matrix = torch.tensor(error["probabilities"], dtype=torch.float64).T
        if matrix.shape != (2, 2):
            raise DeviceError("this Aer noise model misreads several qubits together: pass shots= to have it sampled")
        if "gate_qubits" not in error:
            everywhere = matrix
            continue
        for (qubit,) in error["gate_qubits"]:
            single[qubit] = matrix
    for wire in range(n_wires):
        matrix = single.get(n_wires - 1 - wire, everywhere)
        if matrix is not None:
            split = chances.reshape(len(chances), 2**wire, 2, -1)
            chances = torch.einsum("ij,rajb->raib", matrix, split).reshape(len(chances), -1)
    return chances

"""Exact loaders: Qiskit's isometry, and multiplexed rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from ketune.circuits import Circuit, Gate, from_qiskit
from ketune.circuits._optional import library
from ketune.state_preparation.entanglement import as_states, bloch_vectors, count_wires, loadability, product_angles
from ketune.state_preparation.pair_circuit import PairCircuit

Loaded = tuple[Circuit, Tensor]
"""A circuit and its angles."""

_PRODUCT = 1e-14  # infidelity of a product state that counts as exact
_ZERO = 1e-15


def isometry(vector: Tensor) -> Loaded:
    """Qiskit's state preparation, an isometry of one column: 2^n - n - 1 CNOTs for n wires.

    R. Iten et al., Phys. Rev. A 93, 032318 (2016), arXiv 1501.06911. Product states take no CNOT.

    Args:
        vector: (n_features,) real or complex, padded with zeros to a power of two.

    Returns:
        the circuit, in CNOTs and one-wire gates, and its angles.

    Raises:
        LoadingError: for a vector without a direction.
        MissingLibraryError: without Qiskit.
    """
    state = as_states(vector.detach().cpu())
    if (product := _as_product(state)) is not None:
        return product
    n_wires = count_wires(state)
    qiskit = library("qiskit")
    circuit = qiskit.QuantumCircuit(n_wires)
    # Our wire 0 is the most significant bit, Qiskit's qubit 0 the least; indices of amplitudes are the same.
    circuit.append(library("qiskit.circuit.library").StatePreparation(state.numpy()), range(n_wires))
    return compiled(circuit)


def compiled(circuit: object) -> Loaded:
    """A Qiskit circuit as one of ours, of CNOTs and constant one-wire gates, without angles."""
    gates = library("qiskit").transpile(
        circuit, basis_gates=["cx", "u"], optimization_level=1, approximation_degree=1.0, seed_transpiler=0
    )
    return from_qiskit(gates).circuit, torch.zeros(0, dtype=torch.float64)


def multiplexor(vector: Tensor) -> Loaded:
    """Uniformly controlled rotations, wire by wire: RY for the sizes of the amplitudes, RZ for their phases.

    M. Moettoenen et al., "Transformation of quantum states using uniformly controlled rotations", Quant. Inf. Comp. 5,
    467 (2005), arXiv quant-ph/0407010. 2^n - 2 CNOTs for real vectors, whose signs the last RY take along, and
    2^(n+1) - 2n - 2 for complex ones, as a CNOT of each RY cascade meets one of the RZ. Rotations that are all zero
    are left out; product states take no CNOT.

    Arguments, results and errors as `isometry`, but no Qiskit is needed.
    """
    state = as_states(vector.detach().cpu())
    if (product := _as_product(state)) is not None:
        return product
    n_wires = count_wires(state)
    peak = state[state.abs().argmax()]
    state = state * (peak.conj() / peak.abs())
    real = float(state.imag.abs().max()) < _ZERO
    sizes, phases = state.abs(), state.angle()
    layers: list[tuple[Tensor, Tensor]] = []  # angles of RY and RZ, from the last wire to the first
    for wire in range(n_wires - 1, -1, -1):
        pair, phase = sizes.view(-1, 2), phases.view(-1, 2)
        if real and wire == n_wires - 1:
            signed = state.real.view(-1, 2)
            turns, twists = 2 * torch.atan2(signed[:, 1], signed[:, 0]), torch.zeros(len(pair), dtype=torch.float64)
            phases = torch.zeros(len(pair), dtype=torch.float64)
        else:
            turns = 2 * torch.atan2(pair[:, 1], pair[:, 0])
            # The phase of an amplitude of zero is free; that of its sister saves a rotation.
            phase = torch.where(pair > _ZERO, phase, phase.flip(1))
            twists, phases = phase[:, 1] - phase[:, 0], phase.mean(1)
        layers.append((turns, twists))
        sizes = torch.linalg.vector_norm(pair, dim=1)
    gates: list[Gate] = []
    angles: list[float] = []
    for wire, (turns, twists) in enumerate(reversed(layers)):
        parts = [("RY", turns), ("RZ", twists)]
        busy = [(name, values) for name, values in parts if float(values.abs().max()) > _ZERO]
        for place, (name, values) in enumerate(busy):
            _multiplex(gates, angles, name, values, wire, opens=place == 0, joins=len(busy) == 2)
    return Circuit(n_wires, tuple(gates)), torch.tensor(angles, dtype=torch.float64)


def _multiplex(
    gates: list[Gate], angles: list[float], name: str, values: Tensor, wire: int, opens: bool, joins: bool
) -> None:
    """Rotations of one wire by an angle for each setting of the wires before it, the first wire most significant.

    The cascade ends with a CNOT from the first wire. Where two cascades join, the second one runs backwards, so that
    it would begin with the same CNOT: both are left out.
    """
    size = len(values)
    index = torch.arange(size)
    gray = index ^ (index >> 1)
    common = index[:, None] & gray[None]
    parity = sum((common >> bit) & 1 for bit in range(max(1, size.bit_length() - 1)))
    signs = 1.0 - 2.0 * (torch.as_tensor(parity) % 2).double()
    turned = (signs.T @ values / size).tolist()
    sequence: list[tuple[float, int | None]] = []
    for number, angle in enumerate(turned):
        changed = int(gray[number] ^ gray[(number + 1) % size])
        control = None if size == 1 else wire - changed.bit_length()
        sequence.append((angle, control))
    if opens:
        for number, (angle, control) in enumerate(sequence):
            _rotate(gates, angles, name, wire, angle)
            if control is not None and not (joins and number == size - 1):
                gates.append(Gate("CNOT", (control, wire)))
        return
    for number, (angle, control) in reversed(list(enumerate(sequence))):
        if control is not None and not (joins and number == size - 1):
            gates.append(Gate("CNOT", (control, wire)))
        _rotate(gates, angles, name, wire, angle)


def _rotate(gates: list[Gate], angles: list[float], name: str, wire: int, angle: float) -> None:
    if abs(angle) > _ZERO:
        gates.append(Gate(name, (wire,), len(angles)))
        angles.append(angle)


def _as_product(state: Tensor) -> Loaded | None:
    """One-wire rotations, if they load the state."""
    if float(loadability(state).product) > _PRODUCT:
        return None
    start = product_angles(bloch_vectors(state))
    circuit = PairCircuit(len(start), "rzz", (), start, torch.zeros(0, 5, dtype=torch.float64))
    return circuit.circuit, circuit.flat_angles

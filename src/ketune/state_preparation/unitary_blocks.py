"""Unitaries on pairs of wires as blocks "su4" or "so4": what is local moves into the block before."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ketune.circuits import Circuit
from ketune.circuits._decompose import canonical_parts, orthogonal_parts
from ketune.circuits._gates import elementary_steps
from ketune.state_preparation.entanglement import product_angles, wire_states
from ketune.state_preparation.errors import LoadingError
from ketune.state_preparation.pair_circuit import PairCircuit

Array = NDArray[Any]


def circuit_from_unitaries(
    start: Tensor, pairs: Sequence[tuple[int, int]], unitaries: Tensor, block: str = "su4"
) -> PairCircuit:
    """A circuit of blocks that does the same as unitaries on pairs of wires, up to a global phase.

    A Cartan decomposition writes each unitary as rotations, an entangler, rotations. The rotations in front go into the
    block before on that wire, or into the start.

    Args:
        start: (n_wires, 2) angles of RY and RZ in front.
        pairs: wires of each unitary.
        unitaries: (T, 4, 4), of two wires the first one more significant; real ones for "so4".
        block: "su4" or "so4".

    Returns:
        a `PairCircuit` of as many blocks.

    Raises:
        LoadingError: for another block, or a start or unitaries that are not real with "so4".
    """
    if block not in ("su4", "so4"):
        raise LoadingError(f"block={block!r}: choose 'su4' or 'so4'")
    matrices = unitaries.detach().cpu().to(torch.complex128).resolve_conj().numpy()
    product = _product(start)
    if block == "so4":
        product = _turned_real(product)
    if block == "so4" and max(np.abs(np.imag(each)).max(initial=0) for each in (matrices, product)) > 1e-9:
        raise LoadingError("blocks 'so4' are real; these unitaries or the state in front of them are not")
    local: list[Array | None] = [None] * len(product)  # rotations that wait behind the last block of a wire
    owner: list[tuple[int, int]] = [(-1, wire) for wire in range(len(product))]
    middles: list[list[float]] = []
    sides: dict[tuple[int, int], Array] = {}
    for number, (pair, matrix) in enumerate(zip(pairs, matrices)):
        if block == "su4":
            before, middle, after = canonical_parts(matrix)
        else:
            before, middle, after = orthogonal_parts(np.real(matrix))
        middles.append(list(middle))
        for place, wire in enumerate(pair):
            waiting = local[wire]
            sides[owner[wire]] = before[place] if waiting is None else before[place] @ waiting
            local[wire], owner[wire] = after[place], (number, place)
    for wire, waiting in enumerate(local):
        if waiting is not None:
            sides[owner[wire]] = waiting
    product = np.stack([sides.get((-1, wire), np.eye(2)) @ state for wire, state in enumerate(product)])
    rows = [
        [*middle, *_turns(sides[number, 0], block), *_turns(sides[number, 1], block)]
        for number, middle in enumerate(middles)
    ]
    width = 9 if block == "su4" else 4
    angles = torch.tensor(rows, dtype=torch.float64).view(-1, width)
    return PairCircuit(len(product), block, tuple(pairs), _start(product, block), angles)


def circuit_from_gates(circuit: Circuit, angles: Tensor) -> PairCircuit:
    """A circuit of CNOTs and one-wire gates as blocks "cx", so that all of its angles can be polished.

    Args:
        circuit: the circuit; from |0...0>, so that what comes first on a wire needs two angles only.
        angles: (circuit.n_angles,) its angles.

    Raises:
        LoadingError: for other gates on two wires.
    """
    bound = circuit.bind(dict(enumerate(angles.detach().double().tolist())))
    waiting: list[Array] = [np.eye(2, dtype=complex) for _ in range(circuit.n_wires)]
    owner = [(-1, wire) for wire in range(circuit.n_wires)]
    sides: dict[tuple[int, int], Array] = {}
    pairs: list[tuple[int, int]] = []
    for gate in bound.gates:
        if len(gate.wires) == 1:
            matrix = np.eye(2, dtype=complex)
            for step in elementary_steps(gate):
                matrix = np.array(step.constant) @ matrix
            waiting[gate.wires[0]] = matrix @ waiting[gate.wires[0]]
            continue
        if gate.name != "CNOT":
            raise LoadingError(f"{gate}: take a circuit of CNOTs and one-wire gates, as a transpiler makes it")
        for place, wire in enumerate(gate.wires):
            sides[owner[wire]] = waiting[wire]
            waiting[wire], owner[wire] = np.eye(2, dtype=complex), (len(pairs), place)
        pairs.append((gate.wires[0], gate.wires[1]))
    for wire, matrix in enumerate(waiting):
        sides[owner[wire]] = matrix
    product = np.stack([sides[-1, wire][:, 0] for wire in range(circuit.n_wires)])
    rows = [[*_turns(sides[number, 0], "cx"), *_turns(sides[number, 1], "cx")] for number in range(len(pairs))]
    angles = torch.tensor(rows, dtype=torch.float64).view(-1, 6)
    return PairCircuit(circuit.n_wires, "cx", tuple(pairs), _start(product, "cx"), angles)


def _product(start: Tensor) -> Array:
    if start.shape[-1] == 1:
        start = torch.cat((start, torch.zeros_like(start)), -1)
    return wire_states(start.detach().cpu().double()).resolve_conj().numpy()


def _turned_real(product: Array) -> Array:
    """The same states with a phase that makes the larger amplitude of each wire positive."""
    largest = np.take_along_axis(product, np.abs(product).argmax(-1)[:, None], -1)
    return product * np.exp(-1j * np.angle(largest))


def _start(product: Array, block: str) -> Tensor:
    """Angles that turn |0> into the amplitudes of each wire, up to a phase."""
    if block == "so4":
        real = _turned_real(product)
        return torch.from_numpy(2 * np.arctan2(np.real(real[:, 1]), np.real(real[:, 0])))[:, None]
    coherence = 2 * product[:, 0].conj() * product[:, 1]
    weights = np.abs(product[:, 0]) ** 2 - np.abs(product[:, 1]) ** 2
    return product_angles(torch.from_numpy(np.stack((np.real(coherence), np.imag(coherence), weights), -1)))


def _turns(matrix: Array, block: str) -> list[float]:
    """Angles of the rotations of one wire: RZ, RY, RZ in the order of application, or RY alone."""
    if block == "so4":
        return [2 * math.atan2(matrix[1, 0].real, matrix[0, 0].real)]
    special = matrix / cmath.sqrt(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    middle = 2 * math.atan2(abs(special[1, 0]), abs(special[1, 1]))
    total, apart = 2 * cmath.phase(special[1, 1]), 2 * cmath.phase(special[1, 0])
    return [(total - apart) / 2, middle, (total + apart) / 2]

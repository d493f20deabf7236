"""Pauli noise as signs: a noisy trajectory is the same circuit with some angles and some readouts negated.

A Pauli operator P drawn after a gate is carried to the end of the circuit. Past a rotation it negates the angle if it
anticommutes with the rotation's axis, `P R(t) = R(-t) P`; past a Clifford gate it becomes another Pauli; in the end it
negates the readouts it anticommutes with. So trajectories cost no more than the circuit without noise, run on the
compiled simulator with a set of angles per sample, and keep exact gradients. The bookkeeping is that of Pauli frames in
stabiliser simulators (E. Knill, Nature 434, 39, 2005; C. Gidney, Quantum 5, 497, 2021), here through rotations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.noise import Channel, NoiseModel

_AXES = {
    "RX": ("X",), "RY": ("Y",), "RZ": ("Z",), "PHASE": ("Z",),
    "ISINGXX": ("X", "X"), "ISINGYY": ("Y", "Y"), "ISINGZZ": ("Z", "Z"),
}  # fmt: skip
_CLIFFORDS = ("H", "X", "Y", "Z", "S", "SDG", "SX", "CNOT", "CZ", "CY", "SWAP", "ISWAP")


class Signs(NamedTuple):
    """What the Paulis of trajectories do, 1 or -1."""

    angles: Tensor
    """(..., n_angles) for each angle of `PauliFrames.circuit`."""
    readouts: Tensor
    """(..., n_wires) for Z on each wire."""


class PauliFrames:
    """The trajectories of a circuit under Pauli noise.

    Args:
        circuit: of Pauli rotations (RX, RY, RZ, PHASE, ISINGXX, ISINGYY, ISINGZZ) and Clifford gates.
        noise: channels that are mixtures of Paulis: all but amplitude damping. The readout error is left to the reader:
            it multiplies each <Z> by `1 - 2 readout_error`.

    Attributes:
        circuit: the same circuit with an angle of its own for each gate, because gates that share an angle need not
            share its sign.
        sources: (n_angles of that circuit,) int64, which of the given circuit's angles each is.

    Raises:
        ValueError: for other gates or amplitude damping; `simulate_noisy` takes those.

    Example:
        >>> import torch
        >>> from ketune.circuits import Channel, NoiseModel, PauliFrames, run, rxryrz_ring
        >>> noise = NoiseModel(two_wire=(Channel("depolarising", 0.05),))
        >>> frames = PauliFrames(rxryrz_ring(3, 2), noise)
        >>> signs = frames.draw((100,), torch.Generator().manual_seed(0))
        >>> readouts = run(frames.circuit, None, torch.ones(18) * signs.angles) * signs.readouts
        >>> readouts.shape
        torch.Size([100, 3])
    """

    def __init__(self, circuit: Circuit, noise: NoiseModel) -> None:
        gates, sources = [], []
        for gate in circuit.gates:
            if gate.name not in _AXES and gate.name not in _CLIFFORDS:
                raise ValueError(
                    f"PauliFrames: the circuit has a {gate.name} gate; only Pauli rotations ({', '.join(_AXES)}) and "
                    f"{', '.join(_CLIFFORDS)} let Paulis through; use simulate_noisy"
                )
            if gate.angle is not None:
                sources.append(gate.angle)
                gate = replace(gate, angle=len(sources) - 1)
            gates.append(gate)
        for channel in (*noise.one_wire, *noise.two_wire):
            if channel.pauli_probabilities is None:
                raise ValueError(f"PauliFrames: {channel} is no mixture of Paulis; use simulate_noisy")
        self.circuit = Circuit(circuit.n_wires, tuple(gates))
        self.noise = noise
        self.sources = torch.tensor(sources, dtype=torch.int64)
        self._events: list[tuple[Gate, list[tuple[int, Channel]]]] = [
            (
                gate,
                [
                    (wire, channel)
                    for wire in gate.wires
                    for channel in (noise.one_wire if len(gate.wires) == 1 else noise.two_wire)
                    if channel.strength
                ],
            )
            for gate in self.circuit.gates
        ]

    @torch.no_grad()
    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Signs:
        """Signs of independent trajectories.

        Args:
            shape: leading dimensions of the trajectories; they take one byte for each place of noise while they last.
            generator: source of randomness on the CPU; the global one when None.
        """
        n = torch.Size(shape).numel()
        x = torch.zeros(self.circuit.n_wires, n, dtype=torch.bool)
        z = torch.zeros_like(x)
        flips = torch.zeros(self.circuit.n_angles, n, dtype=torch.bool)
        for gate, places in self._events:
            if gate.angle is not None:
                for wire, axis in zip(gate.wires, _AXES[gate.name]):
                    flips[gate.angle] ^= {"X": z[wire], "Y": x[wire] ^ z[wire], "Z": x[wire]}[axis]
            else:
                _conjugate(gate, x, z)
            for wire, channel in places:
                assert channel.pauli_probabilities is not None
                _, px, py, pz = channel.pauli_probabilities
                chance = torch.rand(n, dtype=torch.float64, generator=generator)
                x[wire] ^= chance < px + py
                z[wire] ^= (chance >= px) & (chance < px + py + pz)
        angles, readouts = (1.0 - 2.0 * bits.T.float() for bits in (flips, x))
        return Signs(angles.reshape(*shape, -1), readouts.reshape(*shape, -1))


def _conjugate(gate: Gate, x: Tensor, z: Tensor) -> None:
    """Paulis before a Clifford gate to those after it, in place and without their signs: G P = P' G."""
    name, (a, *rest) = gate.name, gate.wires
    b = rest[0] if rest else a
    if name == "H":
        x[a], z[a] = z[a].clone(), x[a].clone()
    elif name in ("S", "SDG"):
        z[a] ^= x[a]
    elif name == "SX":
        x[a] ^= z[a]
    elif name == "CZ":
        z[a] ^= x[b]
        z[b] ^= x[a]
    elif name == "CNOT":
        x[b] ^= x[a]
        z[a] ^= z[b]
    elif name == "CY":  # CNOT between an SDG and an S on the target
        z[b] ^= x[b]
        x[b] ^= x[a]
        z[a] ^= z[b]
        z[b] ^= x[b]
    elif name in ("SWAP", "ISWAP"):
        if name == "ISWAP":  # S on both and CZ, then SWAP
            z[a] ^= x[a] ^ x[b]
            z[b] ^= x[b] ^ x[a]
        for bits in (x, z):
            bits[a], bits[b] = bits[b].clone(), bits[a].clone()

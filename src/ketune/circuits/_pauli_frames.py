"""Pauli errors moved to the end of a circuit: they turn the senses of rotations and the signs of readouts.

A Pauli after a gate commutes through all later gates: a Clifford gate makes another Pauli of it, and a rotation about a
Pauli that it anticommutes with turns the other way (E. Knill, Nature 434, 39, 2005, calls the Pauli that is carried
along the frame). A trajectory of Pauli noise is thus the same circuit with other signs of its angles, and a batch of
trajectories is a batch of angles, which the compiled simulator takes.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ketune.circuits._gates import Matrix, elementary_steps
from ketune.circuits.circuit import Circuit, Gate
from ketune.circuits.noise import AnyChannel, NoiseModel, channel_wires, draw_words

_CLIFFORDS = {"H", "X", "Y", "Z", "S", "SDG", "SX", "CNOT", "CZ", "SWAP"}
_TURNS = {"RX", "RY", "RZ"}


@dataclass(frozen=True, eq=False)
class FramedCircuit:
    """A circuit of Clifford gates and rotations, each rotation with an angle of its own.

    Args:
        circuit: the gates; up to a global phase it is the circuit it was made of.
        sources: for each angle the angle of the original circuit, or -1 for a constant.
        factors: for each angle the factor on its source, or the constant in radians.
        errors: for each gate the channels after it, with their wires.
    """

    circuit: Circuit
    sources: tuple[int, ...]
    factors: tuple[float, ...]
    errors: tuple[tuple[tuple[AnyChannel, tuple[int, ...]], ...], ...]

    def angles(self, angles: Tensor) -> Tensor:
        """The angles (..., n_angles) of the original circuit as those of this one."""
        factors = angles.new_tensor(self.factors)
        one = angles.new_ones(*angles.shape[:-1], 1)
        return torch.cat((angles, one), -1)[..., list(self.sources)] * factors

    def draw(
        self, shape: Sequence[int], device: torch.device, generator: torch.Generator | None
    ) -> tuple[Tensor, Frames]:
        """Draws the errors of trajectories.

        Returns:
            whether each angle turns the other way, (*shape, n_angles) bool, and the Paulis left at the end.
        """
        n_wires = self.circuit.n_wires
        x = [torch.zeros(tuple(shape), dtype=torch.bool, device=device) for _ in range(n_wires)]
        z = list(x)
        turned: list[Tensor] = [x[0]] * len(self.sources)
        for gate, errors in zip(self.circuit.gates, self.errors):
            if gate.angle is not None:
                wire = gate.wires[0]
                turned[gate.angle] = {"RX": z[wire], "RZ": x[wire], "RY": x[wire] ^ z[wire]}[gate.name]
            else:
                _pass(gate, x, z)
            for channel, wires in errors:
                words, drawn = draw_words(channel, shape, device, generator)
                for place, wire in enumerate(wires if words else ()):
                    letters = [word[place] for word in words]
                    x[wire] = x[wire] ^ torch.tensor([letter in "XY" for letter in letters], device=device)[drawn]
                    z[wire] = z[wire] ^ torch.tensor([letter in "YZ" for letter in letters], device=device)[drawn]
        signs = torch.stack(turned, -1) if turned else x[0].new_zeros(*shape, 0)
        return signs, Frames(torch.stack(x, -1), torch.stack(z, -1))


@dataclass(frozen=True, eq=False)
class Frames:
    """The Paulis at the end of trajectories.

    Args:
        x: (..., n_wires) True for X or Y on a wire.
        z: (..., n_wires) True for Z or Y on a wire.
    """

    x: Tensor
    z: Tensor

    def signs(self, words: Sequence[str], dtype: torch.dtype) -> Tensor:
        """What the expectations of words change by: (..., n_words) of +1 and -1."""
        shift = {letters: _places(words, letters, self.x.device) for letters in ("YZ", "XY")}
        odd = (self.x.float() @ shift["YZ"].T + self.z.float() @ shift["XY"].T) % 2
        return (1 - 2 * odd).to(dtype)

    def flips(self, basis: str) -> Tensor:
        """What is added, bit by bit, to basis states measured in a basis of letters IXYZ: (...) int64."""
        bits = [
            self.z[..., k] if a == "X" else self.x[..., k] ^ (self.z[..., k] & (a == "Y")) for k, a in enumerate(basis)
        ]
        return sum(bit.long() << len(basis) - 1 - k for k, bit in enumerate(bits))  # type: ignore[return-value]

    def apply(self, states: Tensor) -> Tensor:
        """The Paulis on (..., 2 ** n_wires) states, up to a global phase."""
        n_wires = self.x.shape[-1]
        index = torch.arange(2**n_wires, device=states.device)
        source = index ^ self.flips("I" * n_wires)[..., None]
        states = states.gather(-1, source.expand(states.shape))
        bits = (index[:, None] >> torch.arange(n_wires - 1, -1, -1, device=states.device)) & 1
        odd = (self.z.float() @ bits.float().T) % 2
        return states * (1 - 2 * odd).to(states.real.dtype)


def _places(words: Sequence[str], letters: str, device: torch.device) -> Tensor:
    return torch.tensor([[float(letter in letters) for letter in word] for word in words], device=device)


def _pass(gate: Gate, x: list[Tensor], z: list[Tensor]) -> None:
    """Moves the Paulis through a Clifford gate, in place; their signs are global phases of the state."""
    a, b = gate.wires[0], gate.wires[-1]
    if gate.name == "H":
        x[a], z[a] = z[a], x[a]
    elif gate.name in ("S", "SDG"):
        z[a] = z[a] ^ x[a]
    elif gate.name == "SX":
        x[a] = x[a] ^ z[a]
    elif gate.name == "CNOT":
        x[b], z[a] = x[b] ^ x[a], z[a] ^ z[b]
    elif gate.name == "CZ":
        z[a], z[b] = z[a] ^ x[b], z[b] ^ x[a]
    elif gate.name == "SWAP":
        x[a], x[b], z[a], z[b] = x[b], x[a], z[b], z[a]


@lru_cache(maxsize=64)
def framed(circuit: Circuit, noise: NoiseModel) -> FramedCircuit:
    """A circuit as Clifford gates and rotations, with the noise after the last gate of each of its own."""
    gates: list[Gate] = []
    sources: list[int] = []
    factors: list[float] = []
    errors: list[tuple[tuple[AnyChannel, tuple[int, ...]], ...]] = []

    def turn(name: str, wire: int, source: int, factor: float) -> None:
        gates.append(Gate(name, (wire,), len(sources)))
        sources.append(source)
        factors.append(factor)

    for gate in circuit.gates:
        for step in elementary_steps(gate):
            if step.name == "GPHASE":
                continue
            if step.angle is not None:
                assert step.name in _TURNS
                turn(step.name, step.wires[0], step.angle, step.factor)
            elif step.name in _CLIFFORDS:
                gates.append(Gate(step.name, step.wires))
            else:
                assert step.constant is not None
                for name, value in zip(("RZ", "RY", "RZ"), _euler(step.constant)):
                    turn(name, step.wires[0], -1, value)
            errors += [()] * (len(gates) - len(errors))
        channels = noise.one_wire if len(gate.wires) == 1 else noise.two_wire
        places = tuple((channel, on) for channel in channels for on in channel_wires(channel, gate.wires))
        if places and not gates:  # a global phase came first: noise acts all the same
            gates.append(Gate("X", gate.wires))
            gates.append(Gate("X", gate.wires))
            errors += [(), ()]
        if places:
            errors[-1] = (*errors[-1], *places)
    return FramedCircuit(Circuit(circuit.n_wires, tuple(gates)), tuple(sources), tuple(factors), tuple(errors))


def _euler(matrix: Matrix) -> tuple[float, float, float]:
    """Angles c, b, a of RZ(a) RY(b) RZ(c), which is the matrix up to a phase."""
    (u00, u01), (u10, u11) = [[complex(entry) for entry in row] for row in matrix]
    b = 2 * math.atan2(abs(u10), abs(u00))
    if abs(u10) < 1e-9:
        return 0.0, b, cmath.phase(u11 * u00.conjugate())
    if abs(u00) < 1e-9:
        return 0.0, b, cmath.phase(-u10 * u01.conjugate())
    return cmath.phase(-u01 * u00.conjugate()), b, cmath.phase(u10 * u00.conjugate())

"""A circuit as a feature map inside an adapter: activations in, a few numbers out."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import torch
from torch import nn

from ketune.adapters.started_angles import StartedAngles
from ketune.circuits import Circuit, run


def n_wires_for(in_features: int) -> int:
    """ceil(log2(in_features)), and at least 1."""
    return max(1, (in_features - 1).bit_length())


def z_words(n_wires: int, count: int) -> list[str]:
    """The first `count` Pauli-Z words: Z on each wire, then on each pair of wires, then on each three, ..."""
    words: list[str] = []
    for weight in range(1, n_wires + 1):
        for wires in combinations(range(n_wires), weight):
            if len(words) == count:
                return words
            words.append("".join("Z" if wire in wires else "I" for wire in range(n_wires)))
    return words


def unit_factor(readout: str | list[str], n_wires: int) -> float:
    """The factor that brings a readout to unit standard deviation over random real directions, for a real circuit.

    A Pauli word of a random real state of N = 2^n amplitudes has variance 2 / (N + 2), a probability about 2 / N^2, and
    an amplitude of an unnormalised vector the scale of its entries. A circuit with RX or RZ gates spreads part of that
    over imaginary parts, which leaves less, down to about 1 / sqrt(2) of the deviation.
    """
    size = 2**n_wires
    if readout == "amplitudes":
        return 1.0
    if readout == "probabilities":
        return size / math.sqrt(2.0)
    return math.sqrt((size + 2) / 2)


class CircuitFeatures(nn.Module):
    """Amplitude-encode (..., in_features), run the circuit, read (..., width) values, in float32 or better.

    Args:
        circuit: the circuit; one without gates reads the encoded input itself.
        readout: as in `ketune.circuits.run`; Pauli words are as long as the circuit is wide.
        width: how many of the readout's values to keep, from the first on.
        trainable: whether the angles train; their start is saved with the adapter in either case.
        zeros: start at angle zero instead of uniformly in (-pi, pi).
    """

    def __init__(
        self, circuit: Circuit, readout: str | list[str], width: int, trainable: bool = True, zeros: bool = False
    ) -> None:
        super().__init__()
        self.circuit = circuit
        self.readout = readout
        self.width = width
        angles = torch.zeros(circuit.n_angles)
        if not zeros:
            angles.uniform_(-math.pi, math.pi)
        self.turns = StartedAngles(angles, trainable)
        self.run_circuit: Callable[..., torch.Tensor] = run
        """What runs the circuit, called as `run` is; an evaluation on a device puts another in its place."""

    @property
    def angles(self) -> torch.Tensor:
        """The angles as they are now, (n_angles,), float32 or better."""
        return self.turns()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(x, self.angles)

    def read(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """The readout for other angles (n_angles,) than the module's own."""
        few = self.width if self.readout == "amplitudes" else None
        return self.run_circuit(self.circuit, x, angles, readout=self.readout, n_readouts=few)[..., : self.width]

"""Noise after gates and in the readout: which channels, how strong. What computes with it stands beside.

`noisy_run` runs circuits whose noise is a mixture of Paulis, `simulate_noisy` also those with amplitude damping.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ketune.circuits.hamiltonian import Hamiltonian

CHANNELS = ("depolarising", "bit_flip", "phase_flip", "phase_damping", "amplitude_damping")
"""Names of the noise channels on one wire."""


@dataclass(frozen=True)
class Channel:
    """A noise channel on one wire, in PennyLane's conventions.

    Args:
        name: what happens to the wire:

            - "depolarising": X, Y or Z, each with probability strength / 3;
            - "bit_flip": X with probability strength;
            - "phase_flip": Z with probability strength;
            - "phase_damping": coherences shrink by sqrt(1 - strength);
            - "amplitude_damping": |1> decays to |0> with probability strength.
        strength: from 0 (no noise) to 1.

    Raises:
        ValueError: for an unknown name or a strength outside 0..1.

    Example:
        >>> Channel("phase_damping", 0.36).pauli_probabilities
        (0.9, 0.0, 0.0, 0.09999999999999998)
    """

    name: str
    strength: float

    def __post_init__(self) -> None:
        if self.name not in CHANNELS:
            raise ValueError(f"Channel(name={self.name!r}): choose one of {', '.join(map(repr, CHANNELS))}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"Channel({self.name!r}, strength={self.strength}): choose 0 to 1")

    @property
    def pauli_probabilities(self) -> tuple[float, float, float, float] | None:
        """Probabilities of I, X, Y, Z; None for amplitude damping, which no mixture of Paulis gives."""
        p = self.strength
        if self.name == "depolarising":
            return 1 - p, p / 3, p / 3, p / 3
        if self.name == "bit_flip":
            return 1 - p, p, 0.0, 0.0
        if self.name == "phase_flip":
            return 1 - p, 0.0, 0.0, p
        if self.name == "phase_damping":
            kept = (1 + math.sqrt(1 - p)) / 2
            return kept, 0.0, 0.0, 1 - kept
        return None


@dataclass(frozen=True)
class PauliChannel:
    """A mixture of Paulis on one wire, or on both wires of a gate together, so that their errors are correlated.

    Args:
        words: Pauli words of one letter, or all of two; the first letter is that of the gate's first wire.
        probabilities: of each word, together at most 1; the rest leaves the state alone.

    Raises:
        ValueError: for other words, or probabilities that are none.

    Example:
        >>> PauliChannel(("XX", "ZI"), (0.01, 0.02)).n_wires
        2
    """

    words: tuple[str, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        words, chances = tuple(self.words), tuple(float(chance) for chance in self.probabilities)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "probabilities", chances)
        if not words or any(len(word) != len(words[0]) or set(word) - set("IXYZ") for word in words):
            raise ValueError(f"PauliChannel(words={words}): give words of letters IXYZ, all of one length")
        if len(words[0]) not in (1, 2):
            raise ValueError(f"PauliChannel(words={words}): a gate has one or two wires; give 1 or 2 letters")
        if len(chances) != len(words) or not all(chance >= 0 for chance in chances) or sum(chances) > 1 + 1e-12:
            raise ValueError(f"PauliChannel(probabilities={chances}): one per word, not negative, with a sum up to 1")

    @property
    def n_wires(self) -> int:
        return len(self.words[0])

    @classmethod
    def depolarising(cls, strength: float, n_wires: int = 2) -> "PauliChannel":
        """Every word but the identity with equal probability: each of 15 with strength / 15 on two wires.

        Example:
            >>> len(PauliChannel.depolarising(0.01).words)
            15
        """
        if n_wires not in (1, 2):
            raise ValueError(f"PauliChannel.depolarising(n_wires={n_wires}): choose 1 or 2")
        words = tuple("".join(letters) for letters in product("IXYZ", repeat=n_wires))[1:]
        return cls(words, (strength / len(words),) * len(words))


AnyChannel = Channel | PauliChannel


@dataclass(frozen=True)
class NoiseModel:
    """Which noise follows the gates, and how often a measured bit is misread.

    Channels act after a gate in their order: those on one wire on each of its wires, those on two on both at once.

    Args:
        one_wire: channels after gates on one wire.
        two_wire: channels after gates on two wires.
        readout_error: probability of misreading a bit, equal for 0 and 1.

    Raises:
        ValueError: for a readout error outside 0..1, or a channel on two wires after gates on one.

    Example:
        >>> NoiseModel(two_wire=(Channel("depolarising", 0.01),), readout_error=0.02).readout_error
        0.02
    """

    one_wire: tuple[AnyChannel, ...] = ()
    two_wire: tuple[AnyChannel, ...] = ()
    readout_error: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "one_wire", tuple(self.one_wire))
        object.__setattr__(self, "two_wire", tuple(self.two_wire))
        if not 0 <= self.readout_error <= 1:
            raise ValueError(f"NoiseModel(readout_error={self.readout_error}): choose 0 to 1")

        for channel in self.one_wire:
            if isinstance(channel, PauliChannel) and channel.n_wires == 2:
                raise ValueError(
                    f"NoiseModel(one_wire=...): {channel.words[:3]} are words on two wires; put them into two_wire"
                )

    @property
    def is_pauli(self) -> bool:
        """True when all channels are mixtures of Paulis, which amplitude damping is not."""
        return all(
            isinstance(channel, PauliChannel) or channel.pauli_probabilities is not None
            for channel in (*self.one_wire, *self.two_wire)
        )

    def misread_hamiltonian(self, hamiltonian: Hamiltonian) -> Hamiltonian:
        """What is measured in place of a Hamiltonian: each letter but I is worth 1 - 2 readout_error."""
        shrink = 1 - 2 * self.readout_error
        weights = [shrink ** (hamiltonian.n_wires - word.count("I")) for word in hamiltonian.words]
        coefficients = tuple(c * weight for c, weight in zip(hamiltonian.coefficients, weights))
        return Hamiltonian(coefficients, hamiltonian.words)


def channel_wires(channel: AnyChannel, wires: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The sets of wires that a channel acts on after a gate: the gate's own, or each of them in turn."""
    if isinstance(channel, PauliChannel) and channel.n_wires == 2:
        return [wires]
    return [(wire,) for wire in wires]


def draw_words(
    channel: AnyChannel, shape: Sequence[int], device: torch.device, generator: torch.Generator | None
) -> tuple[tuple[str, ...], Tensor]:
    """Draws a Pauli word for each entry of a shape: the words, the first of them the identity, and their numbers.

    No words for a channel that does nothing.
    """
    if isinstance(channel, PauliChannel):
        words, chances = channel.words, channel.probabilities
    else:
        assert channel.pauli_probabilities is not None
        words, chances = ("X", "Y", "Z"), channel.pauli_probabilities[1:]
    if not any(chances):
        return (), torch.zeros(0)
    uniform = torch.rand(tuple(shape), dtype=torch.float64, device=device, generator=generator)
    limits = torch.tensor(chances, dtype=torch.float64, device=device).flip(0).cumsum(0).flip(0)
    return ("I" * len(words[0]), *words), (uniform[..., None] < limits).sum(-1)

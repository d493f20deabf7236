"""The hyper-parameters of a parameter generator, and what follows from them without any tensor: sizes and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ketune.adapters.config import Checks
from ketune.adapters.controls import CONTROLS
from ketune.circuits import Circuit, ry_ring
from ketune.circuits.statevector import MAX_WIRES

ACTIVATIONS = ("silu", "tanh", "none")
INITS = ("balanced", "released")
RELEASED_HIDDEN = (32, 64, 128, 128, 64, 32, 32)
"""Widths between input and output of the mapping model in the released code of QPA."""


@dataclass
class GeneratorFields(Checks):
    """Fields of every method whose parameters a generator makes: circuit, probabilities, mapping model, chunks."""

    chunk: int = field(
        default=1024,
        metadata={
            "help": "How many parameters the mapping model makes at a time (n_mlp of the paper). Cut to the longest "
            "vector that is made; raised where more than 2^14 chunks, and so more than 14 wires, would be needed."
        },
    )
    n_layers: int = field(default=4, metadata={"help": "Layers of the circuit, each an RY on every wire and CNOTs."})
    hidden: list[int] = field(
        default_factory=lambda: [8, 16],
        metadata={"help": "Widths of the mapping model between its input and the chunk, e.g. [32, 64, 32]."},
    )
    activation: str = field(
        default="silu",
        metadata={
            "help": "After each hidden layer: 'silu', 'tanh' or 'none' (as released; then all is one affine map)."
        },
    )
    fused_linear: bool = field(
        default=False,
        metadata={"help": "With activation='none': train that one affine map itself instead of a stack of layers."},
    )
    gamma: float = field(default=0.1, metadata={"help": "Inside the tanh of q = (beta tanh(gamma 2^(N-1) p))^alpha."})
    beta: float = field(default=0.6, metadata={"help": "Before the tanh of q."})
    alpha: float = field(default=0.15, metadata={"help": "The power of q."})
    init: str = field(
        default="balanced",
        metadata={
            "help": "'balanced' keeps the scale of signals through the mapping model and makes factors of a usable "
            "size; 'released' is torch's own for linear layers, without any rescaling."
        },
    )
    n_generators: int = field(default=1, metadata={"help": "Into how many generators the chunks are split."})
    control: str = field(
        default="trained", metadata={"help": "'trained', or a control: 'frozen', 'classical', 'none'."}
    )
    seed: int = field(default=0, metadata={"help": "From which the generator's start is rebuilt; never stored."})

    def check_generator(self) -> None:
        """Refuses values that no generator can be made of.

        Raises:
            ConfigError: naming the field, the value given and what is allowed.
        """
        self.hidden = list(self.hidden)
        self._require("chunk", self.chunk >= 1, "must be at least 1")
        self._require("n_layers", self.n_layers >= 1, "must be at least 1")
        self._require("hidden", all(width >= 1 for width in self.hidden), "widths must be at least 1")
        self._choose("activation", ACTIVATIONS)
        advice = "is the one affine map that a stack without activations amounts to; set activation='none' too"
        self._require("fused_linear", not self.fused_linear or self.activation == "none", advice)
        for name in ("gamma", "beta", "alpha"):
            self._require(name, getattr(self, name) > 0, "must be above zero")
        self._choose("init", INITS)
        self._require("n_generators", self.n_generators >= 1, "must be at least 1")
        self._choose("control", CONTROLS)

    def circuit_of(self, n_chunks: int) -> Circuit:
        """RY on every wire, then an open chain of CNOTs, `n_layers` times, with a basis state for each chunk."""
        return ry_ring(n_wires_of(n_chunks), self.n_layers, "linear")

    def signal_length(self, n_chunks: int) -> int:
        """Entries of what stands behind q: the circuit's angles, or the vector that replaces q; 0 for `none`."""
        if self.control == "none":
            return 0
        return n_chunks if self.control == "classical" else self.circuit_of(n_chunks).n_angles

    def mapping_shapes(self, n_chunks: int, chunk: int) -> list[tuple[int, int]]:
        """(out, in) of each layer of the mapping model; each has a bias too."""
        n_inputs = n_wires_of(n_chunks) + (self.control != "none")
        widths = [n_inputs, *([] if self.fused_linear else self.hidden), chunk]
        return list(zip(widths[1:], widths[:-1]))

    def generator_count(self, n_chunks: int, chunk: int) -> int:
        """Trainable parameters of one generator."""
        signal = 0 if self.control == "frozen" else self.signal_length(n_chunks)
        return signal + sum(n_out * (n_in + 1) for n_out, n_in in self.mapping_shapes(n_chunks, chunk))


def n_wires_of(n_chunks: int) -> int:
    """ceil(log2(n_chunks)), and at least 1."""
    return max(1, (n_chunks - 1).bit_length())


@dataclass(frozen=True)
class Piece:
    """Chunks `first` to `last` (exclusive) of one generator."""

    generator: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Which generator makes which chunks of which vector.

    Attributes:
        chunk: length of a chunk.
        n_chunks: how many chunks each generator makes.
        pieces: for each vector, the chunks that it is put together from; every vector starts with a chunk of its own.
    """

    chunk: int
    n_chunks: tuple[int, ...]
    pieces: tuple[tuple[Piece, ...], ...]


def make_plan(lengths: Sequence[int], chunk: int, n_generators: int = 1) -> Plan:
    """Splits vectors of these lengths into chunks, and the chunks evenly among at most `n_generators` generators."""
    most = n_generators * 2**MAX_WIRES
    chunk = max(1, min(chunk, max(lengths, default=1)))
    chunk = max(chunk, sum(lengths) // most)
    while sum(-(-length // chunk) for length in lengths) > most:
        chunk += 1
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + -(-length // chunk))
    each = max(1, -(-starts[-1] // n_generators))
    n_chunks = tuple(min(each, starts[-1] - first) for first in range(0, starts[-1], each))
    pieces = tuple(
        tuple(
            Piece(k, max(first - k * each, 0), min(last - k * each, each))
            for k in range(first // each, (last - 1) // each + 1)
        )
        for first, last in pairwise(starts)
    )
    return Plan(chunk, n_chunks, pieces)

"""The parts of a QNode beside its gates: how the inputs are embedded, and what is measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._from_pennylane import Record, Tracer
from ketune.circuits._imported import ImportingError, Linear
from ketune.circuits._optional import library

_AMPLITUDES = ("AmplitudeEmbedding", "StatePrep")


@dataclass
class Embedding:
    """What stands before the gates: an encoding of `run`, whose features are `matrix @ inputs + offset`."""

    encoding: str
    n_repeats: int = 1
    matrix: Tensor | None = None
    offset: Tensor | None = None

    def features(self, x: Tensor) -> Tensor:
        if self.matrix is None or self.offset is None:
            return x
        return x @ self.matrix.to(x).T + self.offset.to(x)


@dataclass
class Readout:
    """What a QNode returns: sums of Pauli words, and probabilities of some wires, in some order."""

    words: tuple[str, ...]
    weights: Tensor  # (n_words, n_sums)
    constants: Tensor  # (n_sums,) weights of the identity
    marginals: list[tuple[int, ...]]
    order: list[tuple[str, int]]  # ("sum", column) or ("marginal", number)
    is_single: bool

    def __call__(self, measure: Callable[[Any], Tensor]) -> Tensor:
        parts: dict[tuple[str, int], Tensor] = {}
        if self.constants.numel():
            values = measure(list(self.words) or "pauli_z")
            values = values @ self.weights.to(values) if self.words else values[..., :1] * 0
            values = values + self.constants.to(values)
            parts |= {("sum", k): values[..., k : k + 1] for k in range(values.shape[-1])}
        if self.marginals:
            everything = measure("probabilities")
            parts |= {("marginal", k): _marginal(everything, wires) for k, wires in enumerate(self.marginals)}
        out = torch.cat([parts[key] for key in self.order], -1)
        return out[..., 0] if self.is_single and not self.marginals else out


def _marginal(probabilities: Tensor, wires: tuple[int, ...]) -> Tensor:
    """(..., 2 ** n) probabilities of all wires to those of some, in their order."""
    n_wires = probabilities.shape[-1].bit_length() - 1
    split = probabilities.reshape(-1, *(2,) * n_wires)
    others = [1 + wire for wire in range(n_wires) if wire not in wires]
    if others:
        split = split.sum(others)
    kept = sorted(wires)
    split = split.permute(0, *(1 + kept.index(wire) for wire in wires))
    return split.reshape(*probabilities.shape[:-1], 2 ** len(wires))


def named_embedding(tape: Any, tracer: Tracer, n_features: int) -> tuple[Embedding | None, Sequence[Any]]:
    """An embedding by name at the start of a tape, and the operations after it."""
    if not tape.operations or tape.operations[0].name not in (*_AMPLITUDES, "IQPEmbedding"):
        return None, tape.operations
    first, *rest = tape.operations
    n_wires = max(tracer.places.values()) + 1
    wires = [tracer.places[label] for label in first.wires]
    inputs = tracer.theta.detach()[:n_features]
    if first.name == "IQPEmbedding":
        features = [tracer.linear(value) for value in first.data[0].reshape(-1)]
        pattern = [sorted(tracer.places[label] for label in pair) for pair in first.hyperparameters["pattern"]]
        every_pair = [[a, b] for a in range(len(wires)) for b in range(a + 1, len(wires))]
        usual = [Linear(((k, 1.0),)) for k in range(n_features)]
        if features != usual or wires != list(range(n_features)) or sorted(pattern) != every_pair:
            raise ImportingError("IQPEmbedding: only of the inputs as they are, on the first wires, with all pairs")
        if n_features < n_wires:
            raise ImportingError(f"IQPEmbedding of {n_features} features on {n_wires} wires: it must cover all wires")
        return Embedding("iqp", first.hyperparameters["n_repeats"]), rest
    state = first.data[0].detach().reshape(-1)
    wanted = pad(inputs, (0, max(0, 2**n_wires - n_features)))
    if wires != list(range(n_wires)) or state.shape != wanted.shape or not torch.allclose(state.to(wanted), wanted):
        raise ImportingError(
            f"{first.name}: only of the inputs as they are, padded with zeros, on all wires in order; compute other "
            "features outside the QNode"
        )
    return Embedding("amplitude"), rest


def angle_embedding(records: list[Record], n_features: int, n_wires: int) -> tuple[Embedding | None, list[Record]]:
    """Rotations by the inputs that come first on their wires, as an encoding, and the other gates.

    RX(t)|0> is S^-1 RY(t)|0>.
    """
    matrix = torch.zeros(n_wires, n_features, dtype=torch.float64)
    offset = torch.zeros(n_wires, dtype=torch.float64)
    after: list[Record] = []
    busy: set[int] = set()
    found = False
    for record in records:
        angle = record.angle
        first = record.name in ("RX", "RY") and record.wires[0] not in busy
        busy.update(record.wires)
        if first and angle is not None and angle.terms and all(index < n_features for index, _ in angle.terms):
            found = True
            offset[record.wires[0]] = angle.offset
            for index, factor in angle.terms:
                matrix[record.wires[0], index] = factor
            if record.name == "RX":
                after.append(Record("SDG", record.wires, None, None))
        else:
            after.append(record)
    if not found:
        return None, records
    if n_features == n_wires and not offset.any() and torch.equal(matrix, torch.eye(n_wires, dtype=matrix.dtype)):
        return Embedding("angle"), after
    return Embedding("angle", 1, matrix, offset), after


def readout_of(tape: Any, places: dict[Any, int], n_wires: int, is_single: bool) -> Readout:
    qml = library("pennylane")
    words: dict[str, int] = {}
    sums: list[dict[str, complex]] = []
    marginals: list[tuple[int, ...]] = []
    order: list[tuple[str, int]] = []
    for measurement in tape.measurements:
        if isinstance(measurement, qml.measurements.ExpectationMP) and measurement.obs is not None:
            order.append(("sum", len(sums)))
            sums.append(dict(_pauli_words(measurement.obs, places, n_wires)))
        elif isinstance(measurement, qml.measurements.ProbabilityMP) and measurement.obs is None:
            order.append(("marginal", len(marginals)))
            labels = measurement.wires or tape.wires
            marginals.append(tuple(places[label] for label in labels))
        else:
            raise ImportingError(f"the QNode returns {measurement}; expectations and probabilities of wires can be run")
    identity = "I" * n_wires
    for sum_ in sums:
        for word in sum_:
            if word != identity:
                words.setdefault(word, len(words))
    weights = torch.zeros(len(words), len(sums), dtype=torch.float64)
    constants = torch.zeros(len(sums), dtype=torch.float64)
    for column, sum_ in enumerate(sums):
        for word, weight in sum_.items():
            if word == identity:
                constants[column] = weight.real
            else:
                weights[words[word], column] = weight.real
    return Readout(tuple(words), weights, constants, marginals, order, is_single)


def _pauli_words(observable: Any, places: dict[Any, int], n_wires: int) -> Iterator[tuple[str, complex]]:
    qml = library("pennylane")
    sentence = observable.pauli_rep
    if sentence is None:
        matrix = qml.matrix(observable, wire_order=observable.wires)
        sentence = qml.pauli_decompose(matrix, wire_order=observable.wires, pauli=True)
    for word, weight in sentence.items():
        letters = ["I"] * n_wires
        for label, letter in word.items():
            letters[places[label]] = letter
        yield "".join(letters), complex(weight)

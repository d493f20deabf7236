"""What a circuit is worth: trained as a classifier for a few epochs, scored on validation rows.

The reward of CL-QAS (arXiv 2601.06392, revised form) is 0.7 balanced accuracy + 0.3 F1 - 0.01 CNOTs / 32. F1 is the
mean over the classes here. On eight wires the last term spans 0.0025 to 0.010, less than one validation row in a
hundred changes: the search is for accuracy, and the gates decide between equals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ketune.circuits import MAX_WIRES, Circuit, run
from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.problems.base import LabelledData, Rows


@dataclass(frozen=True)
class ClassifierTraining:
    """How a circuit is trained as a classifier.

    Args:
        epochs: passes over the rows.
        learning_rate, weight_decay: of Adam.
        batch_size: rows per step.
        clip: largest norm of a gradient.
        weight_cap: the loss weighs a class by n / (n_classes * n_class), up to this.
        start_scale: angles start normally distributed with this deviation.
        temperature: learn a factor of the logits, started at 1. Without it logits are expectations in [-1, 1], and for
            two classes the cross-entropy cannot go below ln(1 + e^-2) = 0.127; that is the published form.

    Raises:
        SearchError: for a number that is out of range.
    """

    epochs: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    batch_size: int = 64
    clip: float = 5.0
    weight_cap: float = 4.0
    start_scale: float = 0.05
    temperature: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise SearchError(f"ClassifierTraining({name}={getattr(self, name)}): must be at least 1")
        for name in ("learning_rate", "clip", "weight_cap"):
            if not 0 < getattr(self, name) < math.inf:
                raise SearchError(f"ClassifierTraining({name}={getattr(self, name)}): must be above 0")
        for name in ("weight_decay", "start_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SearchError(f"ClassifierTraining({name}={getattr(self, name)}): must be at least 0")


class CircuitClassifier(nn.Module):
    """Amplitudes in, logits out: <Z> of the first wires, one for each class, times a temperature.

    Args:
        circuit: the circuit.
        n_classes: number of classes, at most as many as there are wires.
        temperature: whether the factor of the logits is learned; else it is 1.
        start_scale: angles start normally distributed with this deviation.
        generator: source of the start.

    Raises:
        SearchError: for too few wires, or too many.
    """

    def __init__(
        self,
        circuit: Circuit,
        n_classes: int,
        *,
        temperature: bool = True,
        start_scale: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 2 <= n_classes <= circuit.n_wires or circuit.n_wires > MAX_WIRES:
            raise SearchError(
                f"{n_classes} classes on a circuit of {circuit.n_wires} wires: each class is read out on a wire of its "
                f"own, from 2 classes on, on up to {MAX_WIRES} wires"
            )
        self.circuit = circuit
        self.readout = ["I" * k + "Z" + "I" * (circuit.n_wires - k - 1) for k in range(n_classes)]
        self.angles = nn.Parameter(start_scale * torch.randn(circuit.n_angles, generator=generator))
        self.log_temperature = nn.Parameter(torch.zeros(())) if temperature else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) amplitudes to (..., n_classes) logits."""
        logits = run(self.circuit, x, self.angles, readout=self.readout)
        return logits if self.log_temperature is None else logits * self.log_temperature.exp()


def class_weights(y: Tensor, n_classes: int, cap: float) -> Tensor:
    """Weights that let every class count alike: n / (n_classes * n_class), at most `cap`."""
    counts = torch.bincount(y, minlength=n_classes)
    return (len(y) / (n_classes * counts.clamp_min(1))).clamp_max(cap)


def train_classifier(
    circuit: Circuit, rows: Rows, n_classes: int, training: ClassifierTraining | None = None, seed: int = 0
) -> tuple[CircuitClassifier, float]:
    """Trains a circuit from a start near zero; nothing but the seed decides the start and the order of the rows.

    Returns:
        The classifier, and the mean loss of the last epoch.

    Raises:
        SearchError: for no rows, or more features than the wires hold.
    """
    training = training or ClassifierTraining()
    if not len(rows) or rows.x.shape[-1] > 2**circuit.n_wires:
        raise SearchError(
            f"{len(rows)} rows of {rows.x.shape[-1]} features: a circuit on {circuit.n_wires} wires holds up to "
            f"{2**circuit.n_wires} amplitudes, and at least one row is needed"
        )
    generator = torch.Generator().manual_seed(seed)
    classifier = CircuitClassifier(
        circuit,
        n_classes,
        temperature=training.temperature,
        start_scale=training.start_scale,
        generator=generator,
    )
    weights = class_weights(rows.y, n_classes, training.weight_cap)
    steps = torch.optim.Adam(classifier.parameters(), training.learning_rate, weight_decay=training.weight_decay)
    total = 0.0
    for _ in range(training.epochs):
        total = 0.0
        for batch in torch.randperm(len(rows), generator=generator).split(training.batch_size):
            loss = nn.functional.cross_entropy(classifier(rows.x[batch]), rows.y[batch], weights)
            steps.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), training.clip)
            steps.step()
            total += float(loss.detach()) * len(batch)
    return classifier, total / len(rows)


@dataclass(frozen=True)
class Quality:
    """How well classes are told apart.

    Args:
        accuracy: share of rows that are right.
        balanced_accuracy: mean over the classes that occur of the share of their rows that are right.
        f1: mean F1 over the classes that occur in the rows or in the answers.
    """

    accuracy: float
    balanced_accuracy: float
    f1: float


def quality(predicted: Tensor, y: Tensor) -> Quality:
    """Compares (n,) predicted classes with (n,) true ones.

    Raises:
        SearchError: for no rows.
    """
    if not len(y):
        raise SearchError("no rows to score; a data set needs validation and test rows")
    recalls, f1s = [], []
    for label in torch.cat((predicted, y)).unique():
        right = int(((predicted == label) & (y == label)).sum())
        true, answered = int((y == label).sum()), int((predicted == label).sum())
        recalls += [right / true] if true else []
        f1s.append(2 * right / (true + answered))
    return Quality(float((predicted == y).double().mean()), sum(recalls) / len(recalls), sum(f1s) / len(f1s))


@torch.no_grad()
def evaluate(classifier: CircuitClassifier, rows: Rows) -> Quality:
    """How well a classifier does on rows."""
    return quality(classifier(rows.x).argmax(-1), rows.y)


@dataclass(frozen=True)
class Score:
    """What came of one evaluation.

    Args:
        reward: 0.7 balanced_accuracy + 0.3 f1 - 0.01 n_two_wire_gates / 32.
        balanced_accuracy, f1: on the validation rows, after the last epoch.
        loss: mean training loss of the last epoch.
        n_two_wire_gates: CNOTs of the circuit.
        seconds: what it took; not compared.
    """

    reward: float
    balanced_accuracy: float = 0.0
    f1: float = 0.0
    loss: float = 0.0
    n_two_wire_gates: int = 0
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def reward(found: Quality, n_two_wire_gates: int) -> float:
    """The reward of CL-QAS."""
    return 0.7 * found.balanced_accuracy + 0.3 * found.f1 - 0.01 * n_two_wire_gates / 32


Objective = Callable[[Architecture], Score]
"""What a search maximises the reward of."""


class CircuitScorer:
    """Scores the circuits of one task. The same architecture is trained once, so that its score is the same each time.

    Args:
        data: rows as amplitudes.
        n_wires: wires of the circuits.
        training: how they are trained.
        seed: of their starts and of the order of the rows, the same for all circuits.
        known: scores that stand already, by the text of the architecture.
        on_score: called with every new one, so that it can be kept.

    Attributes:
        scores: all scores by the text of the architecture.
        n_trained: how many circuits this scorer has trained itself.
    """

    def __init__(
        self,
        data: LabelledData,
        n_wires: int,
        training: ClassifierTraining | None = None,
        seed: int = 0,
        *,
        known: dict[str, Score] | None = None,
        on_score: Callable[[Architecture, Score], None] | None = None,
    ) -> None:
        self.data, self.n_wires, self.seed = data, n_wires, seed
        self.training = training or ClassifierTraining()
        self.scores = dict(known or {})
        self.on_score = on_score
        self.n_trained = 0

    def __call__(self, architecture: Architecture) -> Score:
        name = architecture.text
        if name not in self.scores:
            self.scores[name] = self._train(architecture)
            self.n_trained += 1
            if self.on_score is not None:
                self.on_score(architecture, self.scores[name])
        return self.scores[name]

    def _train(self, architecture: Architecture) -> Score:
        began = time.perf_counter()
        circuit = architecture.circuit(self.n_wires)
        classifier, loss = train_classifier(circuit, self.data.train, self.data.n_classes, self.training, self.seed)
        found = evaluate(classifier, self.data.validation)
        n_gates = circuit.n_two_wire_gates
        seconds = time.perf_counter() - began
        return Score(reward(found, n_gates), found.balanced_accuracy, found.f1, loss, n_gates, seconds)


@dataclass(frozen=True)
class FinalModel:
    """The chosen circuit, trained anew and tested once.

    Args:
        test: on the test rows, after the last epoch.
        loss: mean training loss of the last epoch.
        n_angles: trained angles; the temperature is one number more.
    """

    test: Quality
    loss: float
    n_angles: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


FINAL_EPOCHS = 40
"""Epochs of the final model of CL-QAS."""


def train_final(
    data: LabelledData, circuit: Circuit, training: ClassifierTraining, seed: int = 0
) -> tuple[FinalModel, CircuitClassifier]:
    """Trains a circuit from a new start on training and validation rows and tests it.

    Args:
        data: rows as amplitudes.
        circuit: the chosen circuit.
        training: how, `epochs` being those of the final model.
        seed: of the start and the order of rows; take another one than the search had.
    """
    both = Rows(torch.cat((data.train.x, data.validation.x)), torch.cat((data.train.y, data.validation.y)))
    classifier, loss = train_classifier(circuit, both, data.n_classes, training, seed)
    return FinalModel(evaluate(classifier, data.test), loss, circuit.n_angles), classifier

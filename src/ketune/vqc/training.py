"""Training a classifier: one loop for hybrids, their controls and anything else that gives logits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ketune.circuits import NoiseModel
from ketune.vqc.blocks import noisy
from ketune.vqc.classifier import CircuitClassifier
from ketune.vqc.pretraining import FrozenEncoder
from ketune.vqc.problems.base import LabelledData, Rows

SCHEDULES = ("constant", "cosine")
"""How the learning rate changes: not, or down to zero over the steps on half a cosine."""


@dataclass(frozen=True)
class History:
    """What a training left behind, one number for each epoch.

    Args:
        train_loss: mean cross-entropy over the epoch's batches.
        validation: accuracy on validation rows after the epoch; empty where there are none.
        test: accuracy on test rows after the epoch. What is reported is the last one, never the best.
        seconds: time of training, without that of measuring accuracies.
    """

    train_loss: tuple[float, ...]
    validation: tuple[float, ...]
    test: tuple[float, ...]
    seconds: float

    @property
    def last_test(self) -> float:
        """Test accuracy after the last epoch."""
        return self.test[-1]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def train_classifier(
    model: nn.Module,
    data: LabelledData,
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    seed: int = 0,
    noise: NoiseModel | None = None,
    n_trajectories: int = 4,
    rates: Mapping[str, float] | None = None,
    measure_every: int = 1,
    on_epoch: Callable[[int, float], None] | None = None,
) -> History:
    """Trains a classifier by Adam on the cross-entropy, in place.

    Repeats to the bit for equal seeds on one machine: the order of the rows, what the model draws (dropout, noise) and
    nothing else are drawn, from generators of this call; the global one is as it was afterwards. The rows that a
    `FrozenEncoder` reads are encoded once.

    Args:
        model: rows to logits. Trainable parameters are trained, all others are left as they are.
        data: rows with classes; only training rows are learned from.
        epochs: passes over the training rows.
        batch_size: rows of a step.
        lr: learning rate of Adam.
        weight_decay: added to the gradients as weight times this (Adam's L2, as the published runs have it).
        schedule: one of `SCHEDULES`.
        seed: of the order of rows, of dropout and of noise.
        noise: noise in every `CircuitBlock`, in training and in measuring; None for exact circuits.
        n_trajectories: trajectories of each sample under noise.
        rates: factors on the learning rate by the start of a parameter's name, `{"encoder": 0.1}`; by default the
            model's own `rates`, where it has such.
        measure_every: epochs between two measurements of the accuracies; the last epoch is always measured, and the
            others repeat the figure before.
        on_epoch: called after each epoch with its number and mean loss.

    Raises:
        ValueError: for an unknown schedule, sizes below 1, or a model with nothing to train.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r}: choose one of {', '.join(map(repr, SCHEDULES))}")
    if min(epochs, batch_size, measure_every) < 1:
        raise ValueError(f"epochs={epochs}, batch_size={batch_size}, measure_every={measure_every}: at least 1 each")
    groups = _groups(model, lr, getattr(model, "rates", {}) if rates is None else rates)
    logits, train, validation, test = _prepared(model, data)
    optimizer = torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay)
    n_steps = epochs * math.ceil(len(train) / batch_size)
    factor = (lambda step: 0.5 * (1 + math.cos(math.pi * step / n_steps))) if schedule == "cosine" else lambda step: 1.0
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    order = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    accuracies: list[tuple[float, float]] = []
    seconds = 0.0
    with torch.random.fork_rng(devices=[]), noisy(model, noise, n_trajectories, seed):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            began = time.perf_counter()
            model.train()
            total = 0.0
            for batch in torch.randperm(len(train), generator=order).split(batch_size):
                optimizer.zero_grad()
                loss = F.cross_entropy(logits(train.x[batch]), train.y[batch])
                loss.backward()
                optimizer.step()
                scheduler.step()
                total += loss.item() * len(batch)
            losses.append(total / len(train))
            seconds += time.perf_counter() - began
            if epoch % measure_every == measure_every - 1 or epoch == epochs - 1 or not accuracies:
                model.eval()
                accuracies.append((_accuracy(logits, validation, 256), _accuracy(logits, test, 256)))
            else:
                accuracies.append(accuracies[-1])
            if on_epoch is not None:
                on_epoch(epoch, losses[-1])
    valid, tested = zip(*accuracies)
    return History(tuple(losses), valid if len(validation) else (), tested if len(test) else (), seconds)


def accuracy(
    model: nn.Module,
    rows: Rows,
    *,
    noise: NoiseModel | None = None,
    n_trajectories: int = 16,
    seed: int = 0,
    batch_size: int = 256,
) -> float:
    """The share of rows that a model puts into the right class, in evaluation mode, which it leaves as it was.

    Args:
        model: rows to logits.
        rows: rows with their classes, at least one.
        noise: noise in every `CircuitBlock`; None for exact circuits.
        n_trajectories: trajectories of each sample under noise.
        seed: of the noise.
        batch_size: rows at a time.
    """
    was_training = model.training
    model.eval()
    try:
        with noisy(model, noise, n_trajectories, seed):
            return _accuracy(model, rows, batch_size)
    finally:
        model.train(was_training)


@torch.no_grad()
def _accuracy(logits: Callable[[Tensor], Tensor], rows: Rows, batch_size: int) -> float:
    right = sum(
        int((logits(x).argmax(-1) == y).sum()) for x, y in zip(rows.x.split(batch_size), rows.y.split(batch_size))
    )
    return right / max(1, len(rows))


def _groups(model: nn.Module, lr: float, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = next((rate for start, rate in rates.items() if name.startswith(start)), 1.0)
            groups.setdefault(factor, []).append(parameter)
    if not groups:
        raise ValueError("train_classifier: no parameter of the model is trainable; set requires_grad on some")
    return [{"params": parameters, "lr": lr * factor} for factor, parameters in groups.items()]


def _prepared(model: nn.Module, data: LabelledData) -> tuple[Callable[[Tensor], Tensor], Rows, Rows, Rows]:
    """What gives logits, and the rows it takes: those of the data, or what a frozen encoder makes of them, once."""
    parts = (data.train, data.validation, data.test)
    reads_rows = getattr(getattr(model, "hypernet", None), "wants_rows", False)
    if not isinstance(model, CircuitClassifier) or not isinstance(model.encoder, FrozenEncoder) or reads_rows:
        return (model, *parts)
    encoder = model.encoder
    train, validation, test = (Rows(encoder.encode(part.x), part.y) for part in parts)
    return lambda h: model.classify(encoder.after(h)), train, validation, test

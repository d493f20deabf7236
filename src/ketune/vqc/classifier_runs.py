"""Classifiers run with several encoders, blocks and seeds: one file per run, so that a killed comparison goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ketune.circuits import ANSATZE, Circuit
from ketune.vqc.architecture import Architecture, ArchitectureError
from ketune.vqc.blocks import BLOCKS
from ketune.vqc.classifier import CircuitClassifier
from ketune.vqc.problems.base import LabelledData
from ketune.vqc.problems.registry import PROBLEMS, make_problem
from ketune.vqc.reducers import DenseReducer, PCAReducer, TTReducer
from ketune.vqc.runs import RunError, claim, keep_result, make_noise, read_result, require, require_each_once
from ketune.vqc.training import train_classifier

ENCODERS = ("tt", "dense", "pca")


@dataclass(frozen=True)
class ClassifierRuns:
    """What to run: every encoder with every block and every seed.

    Args:
        problem: name of a problem of labelled rows.
        options: its options.
        encoders: "tt" (a tensor train: TTN-VQC), "dense" or "pca" (fitted on training rows).
        blocks: "circuit", or what stands in its place: "linear" (as many weights), "frozen" (random angles), "none".
        seeds: of data, weights and order of rows.
        n_wires: wires of the circuit.
        n_layers: its layers.
        ansatz: a name of `ANSATZE`, or an architecture such as "ring-linear", which has its own layers.
        train_rank: largest rank of the tensor train.
        epochs: passes over the training rows.
        batch_size: rows of a step.
        lr: learning rate of Adam.
        depolarising: probability of a random Pauli after each gate on each of its wires.
        readout_error: probability of misreading a bit.
        n_trajectories: of each row under noise.

    Raises:
        RunError: for unknown names or numbers out of range.
    """

    problem: str
    options: Mapping[str, Any] = field(default_factory=dict)
    encoders: tuple[str, ...] = ("tt",)
    blocks: tuple[str, ...] = ("circuit", "linear")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_wires: int = 8
    n_layers: int = 2
    ansatz: str = "rxryrz_ring"
    train_rank: int = 3
    epochs: int = 12
    batch_size: int = 32
    lr: float = 0.01
    depolarising: float = 0.0
    readout_error: float = 0.0
    n_trajectories: int = 4

    def __post_init__(self) -> None:
        require_each_once(self, "encoders", "blocks", "seeds")
        for name, right, allowed in (
            ("encoders", set(self.encoders) <= set(ENCODERS), f"of {', '.join(ENCODERS)}"),
            ("blocks", set(self.blocks) <= set(BLOCKS), f"of {', '.join(BLOCKS)}"),
            ("n_wires", 1 <= self.n_wires <= 20, "1 to 20"),
            ("n_layers", self.n_layers >= 1, "at least 1"),
            ("train_rank", self.train_rank >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", self.lr > 0, "above zero"),
            ("depolarising", 0 <= self.depolarising <= 1, "0 to 1"),
            ("readout_error", 0 <= self.readout_error <= 0.5, "0 to 0.5"),
            ("n_trajectories", self.n_trajectories >= 1, "at least 1"),
        ):
            require(self, name, right, allowed)
        self.circuit()

    def circuit(self) -> Circuit:
        """The circuit.

        Raises:
            RunError: for an unknown ansatz.
        """
        if self.ansatz in ANSATZE:
            return ANSATZE[self.ansatz](self.n_wires, self.n_layers)
        try:
            return Architecture.from_text(self.ansatz).circuit(self.n_wires)
        except ArchitectureError as error:
            known = ", ".join(ANSATZE)
            raise RunError(f"ansatz {self.ansatz!r}: choose one of {known}, or an architecture ({error})") from error

    def make_data(self, seed: int) -> LabelledData:
        """The rows of one seed.

        Raises:
            RunError: for a problem that has an energy and no rows.
        """
        takes_seed = self.problem in PROBLEMS and "seed" in PROBLEMS[self.problem].options
        options = ({"seed": seed} if takes_seed else {}) | dict(self.options)
        data = make_problem(self.problem, **options)
        if not isinstance(data, LabelledData):
            raise RunError(f"{self.problem!r} has an energy and no labelled rows; run it as an energy problem")
        return data


@dataclass(frozen=True)
class ClassifierResult:
    """One run, as its file holds it.

    Args:
        encoder: its encoder.
        block: what stood behind it.
        seed: its seed.
        train_loss: mean cross-entropy of each epoch.
        validation: accuracy on validation rows after each epoch.
        test: accuracy on test rows after each epoch; the last is what counts.
        n_quantum: trained angles.
        n_classical: other trained numbers.
        seconds: time of training.
    """

    encoder: str
    block: str
    seed: int
    train_loss: list[float]
    validation: list[float]
    test: list[float]
    n_quantum: int
    n_classical: int
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.encoder} + {self.block}"


def run_classifiers(
    runs: ClassifierRuns, folder: str | Path, on_run: Callable[[str, int, int, int], None] | None = None
) -> list[ClassifierResult]:
    """Runs what is missing in a folder and returns all of it.

    Args:
        runs: what to run.
        folder: gets `runs.json` and `cells/`.
        on_run: called with the name and seed of a run, the epoch done and all epochs.

    Raises:
        RunError: when the folder holds runs of other settings.
    """
    folder = Path(folder)
    runs.make_data(runs.seeds[0])
    claim(folder, runs, ("encoders", "blocks", "seeds"))
    results = []
    for seed in runs.seeds:
        data: LabelledData | None = None
        for encoder in runs.encoders:
            for block in runs.blocks:
                file = folder / "cells" / f"{encoder}-{block}-seed{seed}.json"
                if not file.is_file():
                    data = data or runs.make_data(seed)

                    def report(epoch: int, _: float, name: str = f"{encoder} + {block}", seed: int = seed) -> None:
                        if on_run is not None:
                            on_run(name, seed, epoch + 1, runs.epochs)

                    keep_result(file, _run(runs, data, encoder, block, seed, report))
                results.append(read_result(file, ClassifierResult))
    return results


def _run(
    runs: ClassifierRuns,
    data: LabelledData,
    encoder: str,
    block: str,
    seed: int,
    report: Callable[[int, float], None],
) -> ClassifierResult:
    front = _encoder(runs, data, encoder, seed)
    model = CircuitClassifier(front, runs.circuit(), data.n_classes, block=block, seed=seed)
    history = train_classifier(
        model,
        data,
        epochs=runs.epochs,
        batch_size=runs.batch_size,
        lr=runs.lr,
        seed=seed,
        noise=make_noise(runs.depolarising, runs.readout_error),
        n_trajectories=runs.n_trajectories,
        on_epoch=report,
    )
    counts = model.count_parameters()
    return ClassifierResult(
        encoder,
        block,
        seed,
        list(history.train_loss),
        list(history.validation),
        list(history.test),
        counts.quantum,
        counts.classical,
        history.seconds,
    )


def _encoder(runs: ClassifierRuns, data: LabelledData, name: str, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    if name == "pca":
        return PCAReducer(data.train.x, runs.n_wires)
    if name == "dense":
        return DenseReducer(data.n_features, runs.n_wires, generator)
    return TTReducer(data.n_features, runs.n_wires, max_rank=runs.train_rank, generator=generator)

"""Energy problems run from several starts with several seeds: one file per run, so that a killed comparison goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ketune.files import write_atomically
from ketune.vqc.flip import FlipDecoder
from ketune.vqc.initialiser import Initialiser, load_initialiser
from ketune.vqc.learner import Learner
from ketune.vqc.meta_training import meta_train
from ketune.vqc.minimising import minimise
from ketune.vqc.optimisers import make_optimiser
from ketune.vqc.problems.base import EnergyProblem, Family
from ketune.vqc.problems.molecules import split_lengths
from ketune.vqc.problems.registry import FAMILIES, PROBLEMS, make_family, make_problem, options_of
from ketune.vqc.runs import RunError, claim, keep_result, make_noise, read_result, require, require_each_once
from ketune.vqc.starts import STARTS

LEARNED = ("flip", "q_maml")
"""Starts that are meta-trained first, on the problem's family."""


@dataclass(frozen=True)
class EnergyRuns:
    """What to run.

    Args:
        problem: name of an energy problem.
        options: its options.
        starts: names of `STARTS`, "flip" or "q_maml" (meta-trained first), or files of learned starts.
        seeds: a run for each, of every start; learned starts are the same for all seeds but for their meta-training.
        optimiser: a name of `OPTIMISERS`.
        lr: its learning rate.
        n_steps: steps of each run.
        depolarising: probability of a random Pauli after each gate on each of its wires, in training.
        readout_error: probability of misreading a bit, in training.
        n_trajectories: of each noisy energy.
        meta_steps: steps of meta-training.
        target: share of |ground energy| that a run has to come within to count as arrived.

    Raises:
        RunError: for no starts or seeds, or numbers out of range.
    """

    problem: str
    options: Mapping[str, Any] = field(default_factory=dict)
    starts: tuple[str, ...] = ("uniform", "gaussian")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    optimiser: str = "adam"
    lr: float = 0.05
    n_steps: int = 200
    depolarising: float = 0.0
    readout_error: float = 0.0
    n_trajectories: int = 32
    meta_steps: int = 300
    target: float = 0.01

    def __post_init__(self) -> None:
        require_each_once(self, "starts", "seeds")
        for name, right, allowed in (
            ("n_steps", self.n_steps >= 1, "at least 1"),
            ("n_trajectories", self.n_trajectories >= 2, "at least 2"),
            ("meta_steps", self.meta_steps >= 1, "at least 1"),
            ("depolarising", 0 <= self.depolarising <= 1, "0 to 1"),
            ("readout_error", 0 <= self.readout_error <= 0.5, "0 to 0.5"),
            ("target", self.target > 0, "above zero"),
        ):
            require(self, name, right, allowed)
        make_optimiser(self.optimiser, self.lr)
        for start in self.starts:
            if start not in (*STARTS, *LEARNED) and not Path(start).suffix:
                known = ", ".join([*STARTS, *LEARNED])
                raise RunError(f"start {start!r}: choose of {known}, or name a file of a learned start")
            if start in LEARNED:
                self.family_name  # noqa: B018 - refuses problems that have none

    @property
    def family_name(self) -> str:
        """The family that learned starts are meta-trained on.

        Raises:
            RunError: when the problem belongs to none.
        """
        name = "molecule" if self.problem in ("h2", "lih") else self.problem
        if name not in FAMILIES:
            known = ", ".join([*(family for family in FAMILIES if family != "molecule"), "h2", "lih"])
            raise RunError(
                f"{self.problem!r} has no family to meta-train a start on (those that have are {known}); take a fixed "
                "start, or pass a file of a learned one"
            )
        return name

    def make_family(self) -> Family:
        """That family, with those of the problem's options that it takes too; for a molecule all bond lengths to learn
        from but the problem's own."""
        known = options_of(FAMILIES[self.family_name])
        options = {name: value for name, value in self.options.items() if name in known}
        if self.family_name == "molecule":
            length, n_wires = (self._option(name) for name in ("length", "n_wires"))
            name = self.problem if n_wires is None else f"{self.problem}-{n_wires}"
            learn = [each for each in split_lengths(name)[0] if abs(each - length) > 1e-9]
            options |= {"name": name, "lengths": learn}
        return make_family(self.family_name, **options)

    def _option(self, name: str) -> Any:
        """The value of an option of the problem, None for one that it does not have."""
        entry = PROBLEMS[self.problem].options.get(name)
        return None if entry is None else self.options.get(name, entry.default)

    def make_problem(self) -> EnergyProblem:
        """The problem.

        Raises:
            RunError: when it is one of labelled rows.
        """
        problem = make_problem(self.problem, **self.options)
        if not isinstance(problem, EnergyProblem):
            raise RunError(f"{self.problem!r} has labelled rows and no energy; train a classifier on it")
        return problem


@dataclass(frozen=True)
class RunResult:
    """One run, as its file holds it.

    Args:
        start: name or file of the start.
        seed: its seed.
        energies: exact energies before each step and after the last.
        ground_energy: the lowest that can be reached.
        seconds: of the steps.
        meta_gradients: gradients of energies that meta-training the start took; 0 for fixed starts.
        angles: the last angles.
    """

    start: str
    seed: int
    energies: list[float]
    ground_energy: float
    seconds: float
    meta_gradients: int
    angles: list[float]

    @property
    def gaps(self) -> list[float]:
        """Energies above the lowest one, as shares of its size."""
        size = abs(self.ground_energy) or 1.0
        return [max(0.0, energy - self.ground_energy) / size for energy in self.energies]

    def steps_to(self, target: float) -> int | None:
        """Steps until the gap was at most `target`; None where it never was."""
        return next((step for step, gap in enumerate(self.gaps) if gap <= target), None)


def run_energies(
    runs: EnergyRuns, folder: str | Path, on_run: Callable[[str, int, int, int], None] | None = None
) -> list[RunResult]:
    """Runs what is missing in a folder and returns all of it.

    Args:
        runs: what to run.
        folder: gets `runs.json`, `cells/`, and `starts/` with the starts that were meta-trained.
        on_run: called with start, seed, the step done (or of meta-training, counted from -meta_steps) and all steps.

    Raises:
        RunError: when the folder holds runs of other settings.
    """
    folder = Path(folder)
    problem = runs.make_problem()
    claim(folder, runs, ("starts", "seeds"))
    results = []
    for start in runs.starts:
        for seed in runs.seeds:
            file = folder / "cells" / f"{_plain(start)}-seed{seed}.json"
            if not file.is_file():

                def report(step: int, start: str = start, seed: int = seed) -> None:
                    if on_run is not None:
                        on_run(start, seed, step, runs.n_steps)

                keep_result(file, _run(runs, problem, start, seed, folder, report))
            results.append(read_result(file, RunResult))
    return results


def _run(
    runs: EnergyRuns, problem: EnergyProblem, start: str, seed: int, folder: Path, report: Callable[[int], None]
) -> RunResult:
    angles, n_meta = _angles(runs, problem, start, seed, folder, report)
    trace = minimise(
        problem,
        angles,
        make_optimiser(runs.optimiser, runs.lr, seed),
        runs.n_steps,
        noise=make_noise(runs.depolarising, runs.readout_error),
        n_trajectories=runs.n_trajectories,
        generator=torch.Generator().manual_seed(seed),
        on_step=lambda step, _: report(step + 1),
    )
    if not trace.energies.isfinite().all():
        raise RunError(f"start {start!r}, seed {seed}: the energy is not finite; lower the learning rate")
    return RunResult(
        start, seed, trace.energies.tolist(), problem.ground_energy, trace.seconds, n_meta, trace.angles.tolist()
    )


def _angles(
    runs: EnergyRuns, problem: EnergyProblem, start: str, seed: int, folder: Path, report: Callable[[int], None]
) -> tuple[Tensor, int]:
    """Starting angles in float64, and how many gradients it took to learn them."""
    if start in STARTS:
        return STARTS[start](problem.circuit, torch.Generator().manual_seed(seed)), 0
    if start not in LEARNED:
        return _ask(load_initialiser(start), problem), 0
    file = folder / "starts" / f"{start}-seed{seed}.safetensors"
    note = file.with_suffix(".json")
    if not (file.is_file() and note.is_file()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            n_task = len(problem.descriptor)
            learned: Initialiser
            learned = FlipDecoder(n_task) if start == "flip" else Learner(n_task, problem.circuit.n_angles)
            history = meta_train(
                learned,
                runs.make_family(),
                runs.meta_steps,
                inner_steps=2 if start == "flip" else 0,
                generator=torch.Generator().manual_seed(seed),
                checkpoint=file.with_suffix(".part"),
                on_step=lambda step, _: report(step - runs.meta_steps),
            )
        learned.save(file)
        write_atomically(note, json.dumps({"n_gradients": history.n_gradients}) + "\n")
    return _ask(load_initialiser(file), problem), json.loads(note.read_text("utf-8"))["n_gradients"]


@torch.no_grad()
def _ask(initialiser: Initialiser, problem: EnergyProblem) -> Tensor:
    return initialiser.eval()(problem.circuit, problem.task()).double()


def _plain(start: str) -> str:
    """A start as part of a file's name; files of one name in different folders stay apart."""
    if not Path(start).suffix:
        return start
    return f"{Path(start).stem}-{hashlib.sha256(start.encode()).hexdigest()[:8]}"

"""`--tune-lr`: the learning rate of each experiment, chosen on the validation split with as many trials for each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ketune.comparison.atomic import write_atomically
from ketune.comparison.experiments import Experiment

FOLDER = "tuning"
TRIAL_SEED = 2**31 - 1
"""Trials share one seed that no cell is likely to use, so that a rate is not chosen for the luck of a cell's own."""


def trial_name(experiment: Experiment, learning_rate: float) -> str:
    """Name of a trial, e.g. "qaa--default--lr0.005"."""
    return f"{experiment.id}--lr{learning_rate:g}"


def trial_file(out: Path, experiment: Experiment, learning_rate: float) -> Path:
    return out / FOLDER / f"{trial_name(experiment, learning_rate)}.json"


def open_trials(out: Path, experiments: Sequence[Experiment]) -> list[tuple[Experiment, float]]:
    """The trials that still have to run."""
    return [
        (experiment, rate)
        for experiment in experiments
        for rate in experiment.learning_rates
        if not trial_file(out, experiment, rate).exists()
    ]


def save_trial(out: Path, experiment: Experiment, learning_rate: float, trial: dict[str, Any]) -> None:
    """Write one trial, {"learning_rate", "eval_loss"}; a loss that is not finite (the training diverged) as null."""
    loss = trial["eval_loss"]
    content = {"learning_rate": learning_rate, "eval_loss": loss if math.isfinite(loss) else None}
    write_atomically(trial_file(out, experiment, learning_rate), json.dumps(content) + "\n")


def read_trials(out: Path, experiment: Experiment) -> list[dict[str, float | None]]:
    """The finished trials of an experiment, by rising rate."""
    files = [trial_file(out, experiment, rate) for rate in sorted(experiment.learning_rates)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def choose(trials: Sequence[dict[str, float | None]]) -> tuple[float, str | None] | None:
    """The rate with the lowest validation loss (the lower rate of two equal ones).

    Returns:
        The rate and, where it lies at the edge of the grid, a sentence that says so; None if no trial has a loss.
    """
    usable = [trial for trial in trials if trial["eval_loss"] is not None]
    if not usable:
        return None
    best = min(usable, key=lambda trial: (trial["eval_loss"], trial["learning_rate"]))["learning_rate"]
    assert best is not None
    rates = sorted(rate for trial in trials if (rate := trial["learning_rate"]) is not None)
    if len(rates) > 1 and best in (rates[0], rates[-1]):
        side = "lowest" if best == rates[0] else "highest"
        return (
            best,
            f"The best learning rate, {best:g}, is the {side} of the {len(rates)} tried; a better one may lie beyond.",
        )
    return best, None

"""`--tune-lr`: the learning rate of each experiment, chosen on the validation split with as many trials for each.

The first trials are a grid around the method's usual rate. Every further one looks where the best so far leaves room:
beyond it while it is the lowest or highest rate tried, then between it and its better neighbour. So a grid that lies
wrong for a method costs it nothing but trials, of which all methods have the same number.
"""

from __future__ import annotations

import glob
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ketune.comparison.experiments import Experiment
from ketune.files import write_atomically

FOLDER = "tuning"
STEP = 3.0
"""How far beyond the best rate the next trial goes, the spacing of the first grid."""
NARROW = 1.3
"""Neighbours nearer than this factor are not divided again while the other side is wider."""
Trial = dict[str, float | None]
TRIAL_SEED = 2**31 - 1
"""Trials share one seed that no cell is likely to use, so that a rate is not chosen for the luck of a cell's own."""


def trial_name(experiment: Experiment, learning_rate: float) -> str:
    """Name of a trial, e.g. "qaa--default--lr0.005"."""
    return f"{experiment.id}--lr{learning_rate:g}"


def trial_file(out: Path, experiment: Experiment, learning_rate: float) -> Path:
    return out / FOLDER / f"{trial_name(experiment, learning_rate)}.json"


def open_trials(out: Path, experiments: Sequence[Experiment], n_trials: int) -> list[tuple[Experiment, float]]:
    """The trials that can run now, at most `n_trials` for each experiment with those that are done."""
    found = []
    for experiment in experiments:
        if not experiment.learning_rates:
            continue
        done = read_trials(out, experiment)
        tried = {trial["learning_rate"] for trial in done}
        grid = [rate for rate in experiment.learning_rates if rate not in tried]
        if grid or len(done) >= n_trials:
            found += [(experiment, rate) for rate in grid]
        elif (rate := next_rate(done)) not in tried:
            found.append((experiment, rate))
    return found


def next_rate(trials: Sequence[Trial]) -> float:
    """Where to try next: beyond the best rate while it lies at an end, else between it and its better neighbour."""
    ordered = sorted(trials, key=_rate)
    losses = [math.inf if trial["eval_loss"] is None else trial["eval_loss"] for trial in ordered]
    rates = [_rate(trial) for trial in ordered]
    best = losses.index(min(losses))
    if best == 0:
        return _rounded(rates[0] / STEP)
    if best == len(rates) - 1:
        return _rounded(rates[-1] * STEP)
    gaps = [(losses[best + side], rates[best + side]) for side in (-1, 1)]
    wide = [gap for gap in gaps if max(gap[1], rates[best]) / min(gap[1], rates[best]) > NARROW]
    _, neighbour = min(wide or gaps)
    return _rounded(math.sqrt(neighbour * rates[best]))


def _rate(trial: Trial) -> float:
    rate = trial["learning_rate"]
    assert rate is not None
    return rate


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def save_trial(out: Path, experiment: Experiment, learning_rate: float, trial: dict[str, Any]) -> None:
    """Write one trial, {"learning_rate", "eval_loss"}; a loss that is not finite (the training diverged) as null."""
    loss = trial["eval_loss"]
    content = {"learning_rate": learning_rate, "eval_loss": loss if math.isfinite(loss) else None}
    write_atomically(trial_file(out, experiment, learning_rate), json.dumps(content) + "\n")


def read_trials(out: Path, experiment: Experiment) -> list[Trial]:
    """The finished trials of an experiment, by rising rate."""
    files = (out / FOLDER).glob(f"{glob.escape(experiment.id)}--lr*.json")
    return sorted((json.loads(file.read_text(encoding="utf-8")) for file in files), key=_rate)


def choose(trials: Sequence[Trial]) -> tuple[float, str | None] | None:
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

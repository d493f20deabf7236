"""What a running comparison reports to whoever watches it, e.g. the progress bars of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Planned:
    """The plan stands. `cells` will be run or skipped, `budget` counts the parameters that methods are sized to."""

    cells: tuple[str, ...]
    n_finished: int
    budget: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellStarted:
    """A process began with a job. `kind` is "base" (the untouched model), "trial" (of a learning rate) or "cell"."""

    name: str
    kind: str


@dataclass(frozen=True)
class CellProgress:
    """A cell took a training step. `loss` is in nats per token, None before the first is known; `total` in steps."""

    name: str
    step: int
    total: int
    loss: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class CellPhase:
    """A cell went on to something that has no steps: "loading", "training", "evaluating", "measuring capacity"."""

    name: str
    phase: str


@dataclass(frozen=True)
class CellFinished:
    """A job ended well, after `seconds`. `loss` is that on the test split (of a trial: on the validation split)."""

    name: str
    kind: str
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class CellFailed:
    """A job ended badly; the comparison goes on. `error` is one line, `log` the file with the rest."""

    name: str
    kind: str
    error: str
    log: str


@dataclass(frozen=True)
class CellSkipped:
    """A result of this cell stands already."""

    name: str


@dataclass(frozen=True)
class LearningRateChosen:
    """The trials of an experiment are done."""

    experiment: str
    learning_rate: float


@dataclass(frozen=True)
class Interrupted:
    """The user stopped the comparison; `advice` says how to go on."""

    advice: str


@dataclass(frozen=True)
class ReportWritten:
    """The report stands at `path`."""

    path: str


Event = (
    Planned
    | CellStarted
    | CellProgress
    | CellPhase
    | CellFinished
    | CellFailed
    | CellSkipped
    | LearningRateChosen
    | Interrupted
    | ReportWritten
)
OnEvent = Callable[[Event], None]

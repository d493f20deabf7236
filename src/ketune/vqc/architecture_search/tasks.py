"""The tasks that a search can be asked for by name: heartbeats of several patients, several regimes of a series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.problems.base import LabelledData, Rows

MOST_TASKS = 64


def _ecg(number: int, seed: int) -> LabelledData:
    from ketune.vqc.problems.ecg import ecg

    return ecg(number, seed=seed)


def _regimes(number: int, seed: int) -> LabelledData:
    from ketune.vqc.problems.regimes import regimes

    return regimes(number, seed=seed)


TASK_SETS: dict[str, Callable[[int, int], LabelledData]] = {"ecg": _ecg, "regimes": _regimes}
"""Sets of tasks by name: the number of a task and a seed to its rows."""


def make_tasks(name: str, n_tasks: int, seed: int = 0, n_train: int | None = None) -> list[LabelledData]:
    """The first tasks of a set.

    Args:
        name: a name in `TASK_SETS`.
        n_tasks: how many.
        seed: of their rows.
        n_train: at most so many training rows of each, the first ones.

    Raises:
        SearchError: for an unknown name, or a number that is out of range.
    """
    if name not in TASK_SETS:
        raise SearchError(f"tasks {name!r}: choose one of {', '.join(TASK_SETS)}")
    if not 1 <= n_tasks <= MOST_TASKS or (n_train is not None and n_train < 1):
        raise SearchError(f"{n_tasks} tasks, {n_train} training rows: 1 to {MOST_TASKS} tasks, and at least 1 row")
    return [_with_limit(TASK_SETS[name](number, seed), n_train) for number in range(n_tasks)]


def _with_limit(data: LabelledData, n_train: int | None) -> LabelledData:
    return data if n_train is None else replace(data, train=Rows(data.train.x[:n_train], data.train.y[:n_train]))

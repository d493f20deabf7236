"""The tasks that a search can be asked for by name: heartbeats of several patients, several regimes of a series."""

from __future__ import annotations

from collections.abc import Callable

from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.problems.base import LabelledData

MOST_TASKS = 8
"""Patients and regimes that there are."""

FEWEST_ROWS = 300


def _ecg(number: int, seed: int, n_rows: int | None) -> LabelledData:
    from ketune.vqc.problems.ecg import ecg

    return ecg(patient=number, seed=seed) if n_rows is None else ecg(n_rows, number, seed)


def _regimes(number: int, seed: int, n_rows: int | None) -> LabelledData:
    from ketune.vqc.problems.regimes import regimes

    return regimes(regime=number, seed=seed) if n_rows is None else regimes(n_rows, number, seed)


TASK_SETS: dict[str, Callable[[int, int, int | None], LabelledData]] = {"ecg": _ecg, "regimes": _regimes}
"""Sets of tasks by name: the number of a task, a seed and how many rows (None: the usual number) to the rows."""


def make_tasks(name: str, n_tasks: int, seed: int = 0, n_rows: int | None = None) -> list[LabelledData]:
    """The first tasks of a set.

    Args:
        name: a name in `TASK_SETS`.
        n_tasks: how many, 1 to 8.
        seed: of their rows.
        n_rows: rows of each, before they are split; None for the usual number.

    Raises:
        SearchError: for an unknown name, or a number that is out of range.
    """
    if name not in TASK_SETS:
        raise SearchError(f"tasks {name!r}: choose one of {', '.join(TASK_SETS)}")
    if not 1 <= n_tasks <= MOST_TASKS or (n_rows is not None and n_rows < FEWEST_ROWS) or seed < 0:
        raise SearchError(
            f"{n_tasks} tasks of {n_rows} rows, seed {seed}: 1 to {MOST_TASKS} tasks of at least {FEWEST_ROWS} rows, "
            f"and a seed of at least 0"
        )
    return [TASK_SETS[name](number, seed, n_rows) for number in range(n_tasks)]

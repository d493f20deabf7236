"""What a sequence of tasks does to each other: forgetting and transfer.

Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017. Both take a matrix R, where
R[i, j] is the quality on task j after learning tasks 0 to i.
"""

from __future__ import annotations

from torch import Tensor

from ketune.vqc.architecture_search.space import SearchError


def backward_transfer(quality: Tensor) -> float:
    """How much earlier tasks gained (or, below 0, lost) by what came later: mean over j < T-1 of R[T-1, j] - R[j, j].

    Args:
        quality: (n_tasks, n_tasks), at least two tasks.

    Raises:
        SearchError: for another shape.
    """
    _check(quality)
    return float((quality[-1] - quality.diagonal())[:-1].mean())


def forward_transfer(quality: Tensor, untrained: Tensor) -> float:
    """How much a task is helped before it is seen: mean over j > 0 of R[j-1, j] - untrained[j].

    Args:
        quality: (n_tasks, n_tasks), at least two tasks.
        untrained: (n_tasks,) the quality on each task before anything was learned.

    Raises:
        SearchError: for other shapes.
    """
    _check(quality)
    if untrained.shape != quality.shape[:1]:
        raise SearchError(f"untrained of shape {tuple(untrained.shape)}: one number for each of {len(quality)} tasks")
    return float((quality.diagonal(1) - untrained[1:]).mean())


def _check(quality: Tensor) -> None:
    if quality.ndim != 2 or quality.shape[0] != quality.shape[1] or len(quality) < 2:
        raise SearchError(f"quality of shape {tuple(quality.shape)}: (n_tasks, n_tasks) with at least 2 tasks")

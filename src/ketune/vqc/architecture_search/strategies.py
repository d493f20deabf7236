"""Ways to choose circuits at an equal number of evaluations, behind one face: at random, all of them, by a policy."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search.scoring import Objective, Score
from ketune.vqc.architecture_search.space import SearchError, SearchSpace


@dataclass(frozen=True)
class Evaluation:
    """A circuit that was asked for, and its score."""

    architecture: Architecture
    score: Score


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        strategy: its name.
        evaluations: in the order in which they were asked for. A circuit that comes again counts again, although its
            score stands already: the budget is the same for all strategies.
    """

    strategy: str
    evaluations: tuple[Evaluation, ...]

    @property
    def best(self) -> Evaluation:
        """The evaluation of the highest reward, the first one among equals."""
        return max(self.evaluations, key=lambda evaluation: evaluation.score.reward)

    @property
    def best_rewards(self) -> tuple[float, ...]:
        """The highest reward after each evaluation."""
        return tuple(accumulate((evaluation.score.reward for evaluation in self.evaluations), max))

    @property
    def n_distinct(self) -> int:
        """How many different circuits were asked for."""
        return len({evaluation.architecture for evaluation in self.evaluations})

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        rows = [{"architecture": e.architecture.to_dict(), "score": e.score.to_dict()} for e in self.evaluations]
        return {"strategy": self.strategy, "evaluations": rows}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SearchResult:
        """Reads what `to_dict` gave.

        Raises:
            SearchError: for anything else.
        """
        try:
            rows = [
                Evaluation(Architecture.from_dict(row["architecture"]), Score(**row["score"]))
                for row in fields["evaluations"]
            ]
            return cls(str(fields["strategy"]), tuple(rows))
        except (KeyError, TypeError) as error:
            raise SearchError(f"no result of a search ({error})") from error


OnEvaluation = Callable[[int, Evaluation], None]
"""Called with how many evaluations are done, and the last one."""


class Strategy(ABC):
    """A way to choose circuits. A strategy that learns across tasks keeps what it learned in itself.

    Everything a strategy does follows from its arguments and its state, so that a search that was cut off is gone on
    with by running it again with the scores that stand.
    """

    name: str

    @abstractmethod
    def search(
        self,
        space: SearchSpace,
        objective: Objective,
        n_evaluations: int,
        *,
        context: Tensor | None = None,
        seed: int = 0,
        on_evaluation: OnEvaluation | None = None,
    ) -> SearchResult:
        """Asks for the scores of `n_evaluations` architectures.

        Args:
            space: the architectures.
            objective: gives the score of one.
            n_evaluations: how often it may be asked, at least 1.
            context: (n, n_features) training rows of the task; who learns from them needs them.
            seed: of all choices.
            on_evaluation: called after each.
        """

    def budget(self, space: SearchSpace, n_evaluations: int) -> int:
        """How many evaluations it will ask for when it may ask for so many."""
        return n_evaluations

    def end_task(self, context: Tensor, seed: int = 0) -> None:
        """Called when the search for a task has ended, with that task's rows: what to remember is remembered here."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """What the strategy has learned, by name; nothing for one that doesn't learn."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], space: SearchSpace) -> None:
        """Takes up what `tensors` gave."""
        return


class RandomSearch(Strategy):
    """Different circuits at random: the baseline that every search has to beat at the same number of evaluations.

    Args:
        by_depth: draw the depth first, all depths equally likely, as an untrained policy nearly does. Otherwise all
            circuits are equally likely, and most circuits are deep.
    """

    def __init__(self, by_depth: bool = False) -> None:
        self.by_depth = by_depth
        self.name = "random-by-depth" if by_depth else "random"

    def search(
        self,
        space: SearchSpace,
        objective: Objective,
        n_evaluations: int,
        *,
        context: Tensor | None = None,
        seed: int = 0,
        on_evaluation: OnEvaluation | None = None,
    ) -> SearchResult:
        """Draws without replacement; a budget larger than the space asks for each circuit once.

        Raises:
            SearchError: for fewer than one evaluation.
        """
        generator = torch.Generator().manual_seed(derived_seed(seed, "random search"))
        chosen = space.sample(self.budget(space, n_evaluations), generator, by_depth=self.by_depth)
        return ask(self.name, chosen, objective, on_evaluation)

    def budget(self, space: SearchSpace, n_evaluations: int) -> int:
        """At most the size of the space."""
        return min(n_evaluations, len(space))


class ExhaustiveSearch(Strategy):
    """Every circuit of the space, the shallow ones first: the ceiling, where it can be afforded."""

    name = "exhaustive"

    def search(
        self,
        space: SearchSpace,
        objective: Objective,
        n_evaluations: int,
        *,
        context: Tensor | None = None,
        seed: int = 0,
        on_evaluation: OnEvaluation | None = None,
    ) -> SearchResult:
        """Asks for all, whatever `n_evaluations` says."""
        return ask(self.name, space.architectures, objective, on_evaluation)

    def budget(self, space: SearchSpace, n_evaluations: int) -> int:
        """The size of the space."""
        return len(space)


def ask(
    strategy: str, architectures: Sequence[Architecture], objective: Objective, on_evaluation: OnEvaluation | None
) -> SearchResult:
    """Asks for the scores of given architectures in their order."""
    found: list[Evaluation] = []
    for architecture in architectures:
        found.append(Evaluation(architecture, objective(architecture)))
        if on_evaluation is not None:
            on_evaluation(len(found), found[-1])
    return SearchResult(strategy, tuple(found))


def derived_seed(*parts: object) -> int:
    """A seed that is different for different parts, and always the same for the same ones."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def random_search(
    space: SearchSpace, objective: Objective, n_evaluations: int, *, seed: int = 0, by_depth: bool = False
) -> SearchResult:
    """`RandomSearch` in one call."""
    return RandomSearch(by_depth).search(space, objective, n_evaluations, seed=seed)


def exhaustive_search(space: SearchSpace, objective: Objective) -> SearchResult:
    """`ExhaustiveSearch` in one call."""
    return ExhaustiveSearch().search(space, objective, len(space))

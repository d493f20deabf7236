"""What a search is asked for: its budget, its circuits, how they are trained, and which strategy chooses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ketune.vqc.architecture_search.reinforce import Reinforce, ReinforceSettings
from ketune.vqc.architecture_search.scoring import FINAL_EPOCHS, ClassifierTraining
from ketune.vqc.architecture_search.space import SearchError, SearchSpace
from ketune.vqc.architecture_search.strategies import ExhaustiveSearch, RandomSearch, Strategy, derived_seed

STRATEGIES = ("reinforce", "reinforce-alone", "random", "random-by-depth", "exhaustive")
"""Strategies by name. "reinforce" carries its policy from task to task, "reinforce-alone" starts anew with each."""


@dataclass(frozen=True)
class SearchSettings:
    """A search, apart from its tasks and its strategy.

    Args:
        n_evaluations: circuits that may be asked for on each task; an exhaustive search asks for all.
        n_wires: wires of the circuits; as many as hold the features when None.
        seed: of everything: circuits chosen, starts, order of rows.
        max_rank: of the tensor trains that rows are cut to; None takes rows as they are.
        space: the circuits to choose from.
        training: how each is trained.
        final_epochs: epochs of the chosen one, trained anew on training and validation rows.
        reinforce: how the policy learns.

    Raises:
        SearchError: for a number that is out of range.
    """

    n_evaluations: int = 30
    n_wires: int | None = None
    seed: int = 0
    max_rank: int | None = 3
    space: SearchSpace = field(default_factory=SearchSpace)
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    final_epochs: int = FINAL_EPOCHS
    reinforce: ReinforceSettings = field(default_factory=ReinforceSettings)

    def __post_init__(self) -> None:
        if self.n_evaluations < 1 or self.final_epochs < 1:
            raise SearchError(
                f"SearchSettings(n_evaluations={self.n_evaluations}, final_epochs={self.final_epochs}): at least 1"
            )
        if self.max_rank is not None and self.max_rank < 1:
            raise SearchError(f"SearchSettings(max_rank={self.max_rank}): at least 1, or None")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self) | {"space": self.space.to_dict()}


def make_strategy(name: str, settings: SearchSettings | None = None) -> Strategy:
    """A strategy by its name.

    Raises:
        SearchError: for an unknown one.
    """
    settings = settings or SearchSettings()
    if name in ("random", "random-by-depth"):
        return RandomSearch(by_depth=name.endswith("depth"))
    if name == "exhaustive":
        return ExhaustiveSearch()
    if name in ("reinforce", "reinforce-alone"):
        seed = derived_seed(settings.seed, "policy")
        return Reinforce(settings.reinforce, continual=name == "reinforce", policy_seed=seed)
    raise SearchError(f"strategy {name!r}: choose one of {', '.join(STRATEGIES)}")

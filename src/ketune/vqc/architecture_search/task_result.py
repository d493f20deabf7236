"""What a search found for one task: every evaluation, the chosen circuit, and how it did on the test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search.scoring import FinalModel, Quality
from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.architecture_search.strategies import SearchResult
from ketune.vqc.circuit_file import CircuitFile


@dataclass(frozen=True)
class TaskResult:
    """What a search found for one task.

    Args:
        task: name of the task.
        search: every evaluation.
        final: the chosen circuit trained anew and tested.
        fidelity: mean fidelity of the training rows after their trains were cut.
        n_wires: wires of the circuit.
    """

    task: str
    search: SearchResult
    final: FinalModel
    fidelity: float
    n_wires: int

    @property
    def architecture(self) -> Architecture:
        """The chosen architecture."""
        return self.search.best.architecture

    @property
    def circuit_file(self) -> CircuitFile:
        """The chosen circuit as a file's content."""
        about = {
            "task": self.task,
            "strategy": self.search.strategy,
            "reward": self.search.best.score.reward,
            "test_balanced_accuracy": self.final.test.balanced_accuracy,
        }
        return CircuitFile(self.architecture.circuit(self.n_wires), self.architecture, about)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        best = {"architecture": self.architecture.text, "reward": self.search.best.score.reward}
        return {
            "task": self.task,
            "best": best,
            "final": self.final.to_dict(),
            "fidelity": self.fidelity,
            "n_wires": self.n_wires,
            "search": self.search.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TaskResult:
        """Reads what `to_dict` gave.

        Raises:
            SearchError: for anything else.
        """
        try:
            final = fields["final"]
            model = FinalModel(Quality(**final["test"]), final["loss"], final["n_angles"])
            search = SearchResult.from_dict(fields["search"])
            return cls(fields["task"], search, model, fields["fidelity"], fields["n_wires"])
        except (KeyError, TypeError) as error:
            raise SearchError(f"no result of a task ({error})") from error

"""Several strategies on the same tasks: one folder, one table, one picture.

Beside what `ContinualSearch` keeps, the folder gets `results.json`, `best_rewards.png` and `circuit.json`, the circuit
that the first strategy chose for the last task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.circuits.rendering import RenderError, render
from ketune.files import write_atomically
from ketune.pictures import COLOURS, drawing, new_axes, to_png
from ketune.vqc.architecture_search.continual import ContinualSearch
from ketune.vqc.architecture_search.settings import STRATEGIES, SearchSettings
from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.architecture_search.task_result import TaskResult
from ketune.vqc.circuit_file import save_circuit
from ketune.vqc.problems.base import LabelledData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS: dict[str, str] = {
    "exhaustive": COLOURS[0],
    "reinforce": COLOURS[1],
    "random": COLOURS[4],
    "reinforce-alone": COLOURS[5],
    "random-by-depth": COLOURS[6],
}

OnStep = Callable[[str, str, int, int], None]
"""Called with strategy, task, how many of its evaluations are done, and of how many."""


@dataclass(frozen=True)
class SideBySide:
    """What several strategies found.

    Args:
        results: for each strategy one result per task.
        folder: where everything lies.
        drawing: the circuit of `circuit.json` as text; None without Qiskit, which draws it.
    """

    results: Mapping[str, Sequence[TaskResult]]
    folder: Path
    drawing: str | None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each strategy and task."""
        return [row_of(name, result) for name, results in self.results.items() for result in results]

    @property
    def chosen(self) -> TaskResult:
        """The result whose circuit is `circuit.json`."""
        return next(iter(self.results.values()))[-1]


def search_side_by_side(
    tasks: Sequence[LabelledData],
    strategies: Sequence[str],
    settings: SearchSettings,
    folder: str | Path,
    on_step: OnStep | None = None,
) -> SideBySide:
    """Runs each strategy on all tasks, or the rest of it, and writes what they found.

    Args:
        tasks: see `ContinualSearch`.
        strategies: names in `STRATEGIES`, each once.
        settings: the same for all of them.
        folder: where everything is kept, and found again by the same call.
        on_step: called as the searches go on.

    Raises:
        SearchError: for no strategy, an unknown one or one given twice, and as `ContinualSearch`.
    """
    if not strategies or len(set(strategies)) < len(strategies):
        raise SearchError(f"strategies {list(strategies)}: name at least one of {', '.join(STRATEGIES)}, each once")
    folder = Path(folder)
    searches = {name: ContinualSearch(tasks, name, settings, folder) for name in strategies}
    results: dict[str, list[TaskResult]] = {}
    for name, search in searches.items():
        report = None if on_step is None else _of_strategy(on_step, name)
        results[name] = search.run(report)
    chosen = results[strategies[0]][-1]
    file = chosen.circuit_file
    save_circuit(folder / "circuit.json", file.circuit, file.architecture, file.about)
    try:
        drawing = str(render(file.circuit, "text"))
    except RenderError:
        drawing = None
    found = SideBySide(results, folder, drawing)
    write_atomically(folder / "results.json", json.dumps({"results": found.rows}, indent=1) + "\n")
    write_atomically(folder / "best_rewards.png", draw_best_rewards(results))
    return found


def row_of(strategy: str, result: TaskResult) -> dict[str, Any]:
    """One result as a row of a table."""
    best = result.search.best
    return {
        "strategy": strategy,
        "task": result.task,
        "architecture": best.architecture.text,
        "reward": best.score.reward,
        "validation_balanced_accuracy": best.score.balanced_accuracy,
        "test_balanced_accuracy": result.final.test.balanced_accuracy,
        "test_f1": result.final.test.f1,
        "n_evaluations": len(result.search.evaluations),
        "n_distinct": result.search.n_distinct,
        "n_two_wire_gates": best.score.n_two_wire_gates,
        "n_angles": result.final.n_angles,
        "fidelity": result.fidelity,
        "best_rewards": list(result.search.best_rewards),
    }


def draw_best_rewards(results: Mapping[str, Sequence[TaskResult]]) -> bytes:
    """Best validation reward against evaluations, a plot for each task and a line for each strategy, as PNG."""
    from matplotlib.ticker import MaxNLocator

    tasks = [result.task for result in next(iter(results.values()))]
    with drawing():
        figure, first = new_axes("evaluations", "best reward so far", (max(5.2, 3.6 * len(tasks)), 3.4))
        first.remove()
        figure.set_layout_engine("constrained")
        _draw_tasks(figure, tasks, results, MaxNLocator)
    return to_png(figure)


def _draw_tasks(
    figure: Figure, tasks: Sequence[str], results: Mapping[str, Sequence[TaskResult]], locator: Any
) -> None:
    longest = max((len(r[0].search.evaluations) for n, r in results.items() if n != "exhaustive"), default=0)
    for k, task in enumerate(tasks):
        axes = figure.add_subplot(1, len(tasks), k + 1)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("evaluations")
        axes.set_ylabel("best reward so far" if k == 0 else "")
        axes.xaxis.set_major_locator(locator(integer=True))
        for name, of_strategy in results.items():
            rewards = of_strategy[k].search.best_rewards
            if name == "exhaustive" and longest:
                label = f"best of all {len(rewards)}"
                axes.axhline(rewards[-1], color=_COLOURS[name], linestyle=(0, (5, 2)), linewidth=1.2, label=label)
                continue
            numbers = range(1, len(rewards) + 1)
            axes.step(numbers, rewards, where="post", color=_COLOURS[name], linewidth=1.8, label=name)
        if k == 0:
            axes.legend(frameon=False, fontsize=9, loc="lower right")


def _of_strategy(on_step: OnStep, name: str) -> Callable[[str, int, int], None]:
    return lambda task, done, total: on_step(name, task, done, total)

"""A search over several tasks in a row, in a folder that it can be gone on with.

What lies in the folder: `search.json`, what was asked for; `scores/TASK/ARCHITECTURE.json`, a file for every trained
circuit, which all strategies share; for every strategy and task the evaluations with the final model (`TASK.json`), the
chosen circuit (`TASK.circuit.json`) and what the strategy had learned by then (`TASK.safetensors`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ketune.files import read_bounded, write_atomically, write_tensors
from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search.features import EncodedData, encode
from ketune.vqc.architecture_search.policy import CONTEXT_ROWS
from ketune.vqc.architecture_search.scoring import CircuitScorer, Score, train_final
from ketune.vqc.architecture_search.settings import SearchSettings, make_strategy
from ketune.vqc.architecture_search.space import SearchError
from ketune.vqc.architecture_search.strategies import derived_seed
from ketune.vqc.architecture_search.task_result import TaskResult
from ketune.vqc.circuit_file import save_circuit
from ketune.vqc.problems.base import LabelledData

_LARGEST = 16_000_000

OnProgress = Callable[[str, int, int], None]
"""Called with the task, how many of its evaluations are done, and of how many."""


class ContinualSearch:
    """A strategy on one task after another.

    A search that was cut off goes on where it stopped: tasks that have ended are read, and the one that was cut is run
    again with the scores that stand, which gives the same choices. The result is that of an unbroken search.

    Args:
        tasks: labelled rows, of equal width, in the order in which they come.
        strategy: a name in `STRATEGIES`.
        settings: the search.
        folder: where everything is kept; None keeps nothing. Several strategies may share one.

    Attributes:
        strategy: the strategy, with what it has learned.

    Raises:
        SearchError: for no task, tasks of different width or of one name, an unknown strategy, features that don't fit
            on the wires, or a folder of another search.
    """

    def __init__(
        self,
        tasks: Sequence[LabelledData],
        strategy: str = "reinforce",
        settings: SearchSettings | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.settings = settings or SearchSettings()
        self.tasks = _checked(tasks, self.settings)
        self.strategy = make_strategy(strategy, self.settings)
        self.folder = None if folder is None else Path(folder)
        n_features = self.tasks[0].n_features
        self.n_wires = self.settings.n_wires or max(1, (n_features - 1).bit_length())
        if n_features > 2**self.n_wires:
            raise SearchError(f"{n_features} features: {self.n_wires} wires hold {2**self.n_wires}; take more wires")

    def run(self, on_progress: OnProgress | None = None) -> list[TaskResult]:
        """Searches all tasks, or the rest of them.

        Raises:
            SearchError: when the folder is that of another search, or what stands in it is damaged.
            OSError: when it cannot be written.
        """
        if self.folder is not None:
            self._claim(self.folder)
        return [self._task(number, data, on_progress) for number, data in enumerate(self.tasks)]

    def _task(self, number: int, data: LabelledData, on_progress: OnProgress | None) -> TaskResult:
        place = None if self.folder is None else self.folder / self.strategy.name / data.name
        n = self.strategy.budget(self.settings.space, self.settings.n_evaluations)
        if place is not None and (stands := read_result(place)) is not None:
            if on_progress is not None:
                on_progress(data.name, n, n)
            self.strategy.restore(_read_tensors(place), self.settings.space)
            return stands
        encoded = encode(data, self.settings.max_rank)
        scorer = self.scorer(number, encoded)
        context = encoded.data.train.x[:CONTEXT_ROWS]
        search_seed = derived_seed(self.settings.seed, number, "search")
        if on_progress is not None:
            on_progress(data.name, 0, n)
        search = self.strategy.search(
            self.settings.space,
            scorer,
            n,
            context=context,
            seed=search_seed,
            on_evaluation=None if on_progress is None else lambda done, _: on_progress(data.name, done, n),
        )
        self.strategy.end_task(context, search_seed)
        training = replace(self.settings.training, epochs=self.settings.final_epochs)
        circuit = search.best.architecture.circuit(self.n_wires)
        final, _ = train_final(encoded.data, circuit, training, derived_seed(self.settings.seed, number, "final"))
        result = TaskResult(data.name, search, final, encoded.fidelity, self.n_wires)
        if place is not None:
            self._keep(place, result)
        return result

    def scorer(self, number: int, encoded: EncodedData) -> CircuitScorer:
        """The scorer of a task, with every score that stands in the folder."""
        seed = derived_seed(self.settings.seed, number, "score")
        if self.folder is None:
            return CircuitScorer(encoded.data, self.n_wires, self.settings.training, seed)
        book = self.folder / "scores" / encoded.data.name
        known = {file.stem: _read_score(file) for file in sorted(book.glob("*.json"))}

        def keep(architecture: Architecture, score: Score) -> None:
            write_atomically(book / f"{architecture.text}.json", json.dumps(score.to_dict()))

        return CircuitScorer(encoded.data, self.n_wires, self.settings.training, seed, known=known, on_score=keep)

    def _keep(self, place: Path, result: TaskResult) -> None:
        write_tensors(place.with_name(f"{place.name}.safetensors"), self.strategy.tensors())
        file = result.circuit_file
        save_circuit(place.with_name(f"{place.name}.circuit.json"), file.circuit, file.architecture, file.about)
        # Last, because this file says that the task has ended.
        write_atomically(place.with_name(f"{place.name}.json"), json.dumps(result.to_dict(), indent=1))

    def _claim(self, folder: Path) -> None:
        """Writes what is asked for, or checks that the folder was made for the same."""
        settings = self.settings.to_dict()
        tasks = {data.name: _fingerprint(data) for data in self.tasks}
        asked = json.loads(json.dumps({"settings": settings, "n_wires": self.n_wires, "tasks": tasks}))
        file = folder / "search.json"
        if not file.exists():
            write_atomically(file, json.dumps(asked, indent=1))
            return
        stands = _read_json(file)
        if different := [key for key in asked if stands.get(key) != asked[key]]:
            what = _difference(stands.get(different[0]), asked[different[0]], different[0])
            raise SearchError(f"{folder}: holds another search, {what}; take another folder, or ask for the same")


def read_result(place: Path) -> TaskResult | None:
    """The result that stands at `FOLDER/STRATEGY/TASK`, None when that task has not ended.

    Raises:
        SearchError: when it is damaged.
    """
    file = place.with_name(f"{place.name}.json")
    return TaskResult.from_dict(_read_json(file)) if file.exists() else None


def _checked(tasks: Sequence[LabelledData], settings: SearchSettings) -> tuple[LabelledData, ...]:
    names = [data.name for data in tasks]
    if not tasks or len(set(names)) < len(names):
        raise SearchError(f"tasks {names}: pass at least one, each with a name of its own")
    if bad := [name for name in names if not name or name.startswith(".") or set(name) & set("/\\")]:
        raise SearchError(f"task {bad[0]!r}: its name becomes a file's; leave out slashes and a dot in front")
    if len(widths := {data.n_features for data in tasks}) > 1:
        raise SearchError(f"tasks of {sorted(widths)} features: a search takes tasks of one width")
    return tuple(tasks)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(file, _LARGEST))
        if not isinstance(found, dict):
            raise TypeError("no object")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise SearchError(f"{file}: cannot be read ({error}); delete it, and it is made anew") from error


def _read_score(file: Path) -> Score:
    try:
        return Score(**_read_json(file))
    except TypeError as error:
        raise SearchError(f"{file}: holds no score ({error}); delete it, and it is made anew") from error


def _read_tensors(place: Path) -> dict[str, Tensor]:
    file = place.with_name(f"{place.name}.safetensors")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise SearchError(f"{file}: cannot be read ({error}); delete {place.name}.json, and it is made anew") from error


def _fingerprint(data: LabelledData) -> str:
    digest = hashlib.sha256()
    for rows in (data.train, data.validation, data.test):
        for tensor in (rows.x, rows.y):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _difference(stands: Any, asked: Any, path: str) -> str:
    """The first entry in which two trees differ, in words."""
    if isinstance(stands, dict) and isinstance(asked, dict):
        for key in sorted({*stands, *asked}):
            if stands.get(key) != asked.get(key):
                return _difference(stands.get(key), asked.get(key), f"{path}.{key}")
    return f"with {path} = {stands!r} and not {asked!r}"

"""One result file: what one cell (method, experiment, seed) of a comparison measured, in PEFT's own layout.

A result is one JSON object with PEFT's three sections, `run_info`, `train_info` and `meta_info`, and one more of ours,
`ketune`, which PEFT's tooling does not look at. So PEFT's `processing.py` reads our files, and [`load_results`][] reads
the files that PEFT publishes: those simply have no `ketune` section.

Files are written beside their place and renamed, so a reader sees a whole result or none.

Source of the layout: huggingface/peft, `method_comparison/MetaMathQA/utils.py` (writer) and
`method_comparison/processing.py` (reader).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ketune.comparison.result_checks import ResultError, check_types, describe, missing_for_peft
from ketune.comparison.result_fields import KetuneInfo, RunInfo, TrainInfo
from ketune.files import write_atomically

logger = logging.getLogger(__name__)

_PEFT_METHOD_NAMES = {"full-finetuning": "full", "prefixtuning": "prefix"}


@dataclass
class Result:
    """One cell of a comparison. `source` is the file it was read from and is not written."""

    run_info: RunInfo = field(default_factory=RunInfo)
    train_info: TrainInfo = field(default_factory=TrainInfo)
    meta_info: dict[str, Any] = field(default_factory=dict)
    ketune: KetuneInfo = field(default_factory=KetuneInfo)
    source: Path | None = field(default=None, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the cell ran to its end."""
        return self.train_info.status == "success"

    @property
    def file_name(self) -> str:
        """The name of this cell's file in `results/`."""
        return f"{self.ketune.method}--{self.ketune.experiment}--seed{self.ketune.seed}.json"

    @property
    def last_metrics(self) -> dict[str, Any]:
        """The last entry of `train_info.metrics`, where PEFT keeps the test accuracy; empty when there is none."""
        return self.train_info.metrics[-1] if self.train_info.metrics else {}

    @classmethod
    def from_dict(cls, data: Any, source: Path | None = None) -> Self:
        """Read a result from the object that its JSON holds, ours or PEFT's own.

        Args:
            data: The parsed JSON.
            source: The file it came from, for messages.

        Raises:
            ResultError: A section is missing or a field has the wrong type.
        """
        where = source.name if source else "result"
        if not isinstance(data, Mapping):
            raise ResultError(f"{where}: the file holds {describe(data)}; expected a JSON object")
        for section in ("run_info", "train_info", "meta_info"):
            if not isinstance(data.get(section), Mapping):
                raise ResultError(f"{where}: '{section}' is {describe(data.get(section))}; expected a JSON object")
        train = {key.replace("cuda_memory", "accelerator_memory"): value for key, value in data["train_info"].items()}
        run = RunInfo.from_dict(data["run_info"])
        ketune = data.get("ketune")
        if ketune is not None and not isinstance(ketune, Mapping):
            raise ResultError(f"{where}: 'ketune' is {describe(ketune)}; expected a JSON object")
        result = cls(
            run_info=run,
            train_info=TrainInfo.from_dict(train),
            meta_info=dict(data["meta_info"]),
            ketune=_ketune_of_peft(run) if ketune is None else KetuneInfo.from_dict(ketune),
            source=source,
        )
        check_types(result, where)
        return result

    def to_dict(self) -> dict[str, Any]:
        """The object that the JSON file holds: PEFT's three sections and `ketune`."""
        return {
            "run_info": self.run_info.to_dict(),
            "train_info": self.train_info.to_dict(),
            "meta_info": self.meta_info,
            "ketune": self.ketune.to_dict(),
        }

    def validate(self) -> None:
        """Check the types of all fields and, for a finished cell, that PEFT's tooling finds every key it reads.

        Raises:
            ResultError: Names each field that is wrong or missing.
        """
        name = self.file_name
        check_types(self, name)
        if self.ok and (missing := missing_for_peft(self.to_dict())):
            raise ResultError(f"{name}: PEFT's method_comparison reads fields that are missing: {', '.join(missing)}")

    def save(self, path: Path | str) -> Path:
        """Validate and write the result, atomically: `path` is replaced by the whole file or left alone.

        JSON has no NaN and no infinity, so such numbers are written as null, and a note says which they were. What else
        JSON has no type for (a path, a dtype in a PEFT config) is written as its text.

        Raises:
            ResultError: See `validate`.
        """
        self.validate()
        lost: list[str] = []
        data = _finite(self.to_dict(), "", lost)
        if lost:
            shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            data["ketune"]["notes"].append(f"Not a finite number, written as null: {shown}.")
        path = Path(path)
        write_atomically(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False, default=str) + "\n")
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read one result file.

        Raises:
            ResultError: The file is not whole JSON, or not a result.
            FileNotFoundError: There is no such file.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ResultError(
                f"{path.name}: not readable as JSON ({error}); delete the file to run it again"
            ) from error
        return cls.from_dict(data, source=path)


def load_results(folder: Path | str, problems: list[str] | None = None) -> list[Result]:
    """All results in `folder`, or in its `results` folder where it has one, sorted by file name.

    A file that is broken or is no result does not stop the others: its problem, with its name, is appended to
    `problems` when that list is given, and logged as a warning otherwise.

    Args:
        folder: A comparison's folder, its `results` folder, or the `results` folder of PEFT's method_comparison.
        problems: Receives one line for each file that was skipped.

    Raises:
        ResultError: There is no such folder.
    """
    folder = Path(folder)
    if (folder / "results").is_dir():
        folder = folder / "results"
    elif (folder / "comparison.json").is_file():
        return []  # a comparison that has not finished its first cell
    if not folder.is_dir():
        raise ResultError(f"no folder {str(folder)!r}; pass the folder that `ketune compare --out` wrote")
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(Result.load(path))
        except (ResultError, OSError) as error:
            line = str(error) if isinstance(error, ResultError) else f"{path.name}: {error}"
            if problems is None:
                logger.warning("Skipped a result that cannot be read: %s", line)
            else:
                problems.append(line)
    return results


def _ketune_of_peft(run: RunInfo) -> KetuneInfo:
    """What PEFT's own result says about the fields of ours: method and experiment from its name, the seed, the rate."""
    method, _, experiment = run.experiment_name.partition("/")
    rate = (run.train_config.get("optimizer_kwargs") or {}).get("lr")
    return KetuneInfo(
        method=_PEFT_METHOD_NAMES.get(method, method),
        experiment=experiment,
        seed=run.train_config.get("seed") or 0,
        learning_rate=rate,
        notes=["Read from a result of PEFT's method_comparison."],
    )


def _finite(value: Any, where: str, lost: list[str]) -> Any:
    """A copy of `value` with None for every number that JSON cannot hold; their places are appended to `lost`."""
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{where}.{key}" if where else str(key), lost) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, f"{where}[{i}]", lost) for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):  # PEFT's configs hold sets of module names
        return sorted(value)
    if hasattr(value, "item") and not isinstance(value, int | float):  # a number of torch or NumPy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(where)
        return None
    return value

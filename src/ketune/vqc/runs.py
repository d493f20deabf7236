"""What runs of a test problem share: a folder with one file a run, and the noise that a command names."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from ketune.circuits import Channel, NoiseModel
from ketune.errors import KetuneError
from ketune.files import write_atomically

ResultT = TypeVar("ResultT")


class RunError(KetuneError, ValueError):
    """Runs that cannot be made, or a folder that holds runs of other settings."""


def make_noise(depolarising: float, readout_error: float) -> NoiseModel | None:
    """Depolarising noise after every gate on each of its wires, and misread bits; None where both are 0."""
    if not depolarising and not readout_error:
        return None
    channels = (Channel("depolarising", depolarising),) if depolarising else ()
    return NoiseModel(channels, channels, readout_error)


def require(runs: Any, name: str, right: bool, allowed: str) -> None:
    """Refuses a setting that is not right.

    Raises:
        RunError: naming the setting, the value given and what is allowed.
    """
    if not right:
        raise RunError(f"{type(runs).__name__}({name}={getattr(runs, name)!r}): must be {allowed}")


def require_each_once(runs: Any, *names: str) -> None:
    """Refuses empty lists and those that name something twice; the lists become tuples."""
    for name in names:
        values = tuple(getattr(runs, name))
        object.__setattr__(runs, name, values)
        require(runs, name, bool(values) and len(set(values)) == len(values), "at least one, each once")


def claim(folder: Path, runs: Any, growing: tuple[str, ...]) -> None:
    """Notes the settings of a folder, or checks that they are those that stand there.

    Args:
        folder: the folder.
        runs: a dataclass of settings, which JSON can hold.
        growing: fields to which later calls may add; `target` may always change.

    Raises:
        RunError: when the folder holds runs of other settings.
    """
    file = folder / "runs.json"
    wanted = json.loads(json.dumps(asdict(runs)))
    if file.is_file():
        try:
            standing = dict(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{file}: damaged ({error}); delete the folder, or choose another one") from error
        free = (*growing, "target")
        changed = [key for key in {**standing, **wanted} if key not in free and standing.get(key) != wanted.get(key)]
        if changed:
            before, now = standing.get(changed[0]), wanted.get(changed[0])
            raise RunError(
                f"{folder}: holds runs with {changed[0]}={before!r}, not {now!r}; choose another output folder, or "
                "delete this one"
            )
        for key in growing:
            wanted[key] = list(dict.fromkeys([*standing.get(key, ()), *wanted[key]]))
    write_atomically(file, json.dumps(wanted, indent=2) + "\n")


def keep_result(file: Path, result: Any) -> None:
    """Writes the dataclass of one run to its file."""
    write_atomically(file, json.dumps(asdict(result)) + "\n")


def read_result(file: Path, kind: type[ResultT]) -> ResultT:
    """Reads what `keep_result` wrote.

    Raises:
        RunError: when it is damaged.
    """
    try:
        return kind(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{file}: damaged ({error}); delete it to have it run again") from error

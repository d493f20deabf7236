"""Checkpoints that can be trusted: a mark tells whole ones, and a record tells which run they belong to."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ketune.errors import TrainingError

MARK = "ketune_state.json"
"""Written into a checkpoint after everything else, so its presence says that the checkpoint is whole."""
RECORD = "run.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None. A checkpoint that a kill cut short is passed over."""
    whole = [path for path in folder.glob("checkpoint-*") if _NAME.search(path.name) and (path / MARK).is_file()]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    match = _NAME.search(checkpoint.name)
    assert match is not None
    return int(match.group(1))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n", encoding="utf-8")
    os.replace(staged, path)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def claim(output_dir: Path, record: Mapping[str, Any], resume: bool) -> Path | None:
    """Makes a folder this run's own; returns the checkpoint to go on from, or None to start at the beginning.

    Raises:
        TrainingError: if the folder holds checkpoints of a run with other settings and `resume` is asked for.
    """
    folder = output_dir / "checkpoints"
    record = json.loads(json.dumps(record, default=_plain, sort_keys=True))
    checkpoint = newest_checkpoint(folder) if resume else None
    if checkpoint is not None and (output_dir / RECORD).is_file():
        known = read_json(output_dir / RECORD)
        changed = _differences(known, record)
        if changed:
            raise TrainingError(
                f"{output_dir}: holds checkpoints of a run with other settings ({'; '.join(changed)}); choose another "
                "folder, or pass resume=False to start over"
            )
    elif checkpoint is not None:
        raise TrainingError(
            f"{output_dir}: holds checkpoints without {RECORD}; choose another folder, or pass resume=False"
        )
    else:
        shutil.rmtree(folder, ignore_errors=True)
    for path in folder.glob("checkpoint-*"):
        if not (path / MARK).is_file():
            shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / RECORD, record)
    return checkpoint


def replace_folder(staged: Path, target: Path) -> None:
    """Puts a finished folder in the place of an older one."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(staged, target)
    shutil.rmtree(old, ignore_errors=True)


def _differences(known: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    changed = []
    for key in sorted({*known, *asked}):
        before, now = known.get(key), asked.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            changed.extend(_differences(before, now))
        elif before != now:
            changed.append(f"{key} was {before!r}, now {now!r}")
    return changed


def _plain(value: Any) -> Any:
    """JSON for what configurations hold beside plain values: sets, enums, paths."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(getattr(value, "value", value))

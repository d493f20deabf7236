"""Folders that appear whole or not at all: filled beside their place and renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ketune.errors import KetuneError, ModelError


def free_folder(folder: str | Path) -> Path:
    """A folder that may be written, looked at before the work begins.

    Raises:
        KetuneError: when something stands there already.
    """
    target = Path(folder).expanduser()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise KetuneError(f"{folder}: something stands here already; pass a new folder")
    return target


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Fill a folder beside its place and rename it.

    Args:
        target: from `free_folder`.
        write: puts the files into the folder that it is given.

    Raises:
        ModelError: when the folder cannot be written; nothing is left of it then.
    """
    staged = target.with_name(f"{target.name}.tmp{os.getpid()}")
    try:
        staged.mkdir(parents=True)
        write(staged)
        if target.is_dir():
            target.rmdir()
        staged.rename(target)
    except OSError as error:
        raise ModelError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)

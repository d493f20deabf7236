"""One comparison at a time in one folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ketune.errors import KetuneError

try:
    import fcntl
except ImportError:  # Windows: two comparisons in one folder are then the user's to avoid
    fcntl = None


class FolderBusy(KetuneError):
    """Another process runs a comparison in this folder."""


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder until the block, or the process, ends, however it ends.

    Raises:
        FolderBusy: Another process holds it; names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise FolderBusy(
                    f"{folder}: a comparison already runs here (process {owner}); wait for it, or pass another --out"
                ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield

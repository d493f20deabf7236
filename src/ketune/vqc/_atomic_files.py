"""Small files that are written whole or not at all, and read with a limit on their size."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes beside the place and renames, so that a reader sees the whole of the text or the old file.

    Raises:
        OSError: when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_bounded(path: Path, largest: int) -> str:
    """The text of a file of at most `largest` bytes.

    Raises:
        OSError: when it cannot be read.
        ValueError: for a larger file, or bytes that are no UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"larger than {largest:,} bytes")
    return content.decode("utf-8")

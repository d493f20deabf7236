"""Where data comes from: finds the files of a folder, tells which split each is, and reads them.

Nothing here knows about prompts; the result is raw rows with their columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.errors import DataError
from ketune.finetuning.quiet import quiet_datasets

if TYPE_CHECKING:
    from datasets import Dataset

READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"sep": "\t", "keep_default_na": False}),
    ".parquet": ("parquet", {}),
}
"""File ending to the reader of `datasets` and its options. Words such as "NA" and "null" in a CSV file are text."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "devel", "dev", "development", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass
class FileSet:
    """Files of one folder that belong together: `cleaned_train` and `cleaned_test`, but not `lora_test`.

    Attributes:
        name: what their names share beside the split; "" for plain `train.jsonl` and `test.jsonl`.
        files: split to its files (several if the split is stored in shards).
    """

    name: str
    files: dict[str, list[Path]] = field(default_factory=dict)


def split_of(file_name: str) -> tuple[str | None, str]:
    """Reads a split and the rest of the name from a file name: `cleaned_devel.jsonl` -> ("validation", "cleaned")."""
    stem = _SHARD.sub("", Path(file_name).stem)
    parts = re.split(r"([._\-\s]+)", stem)
    for i in range(0, len(parts), 2):
        split = _SPLIT_OF_WORD.get(parts[i].lower())
        if split is not None:
            return split, "".join(parts[:i] + parts[i + 1 :]).strip("._- ")
    return None, stem


def find_file_sets(folder: Path) -> tuple[list[FileSet], list[Path]]:
    """Sorts the data files of a folder (or of its `data/` folder) into sets that belong together.

    Returns:
        The sets, ordered by name, and the data files whose name tells no split.

    Raises:
        DataError: if there is no data file at all.
    """
    for place in (folder, folder / "data"):
        paths = sorted(p for p in place.glob("*") if p.suffix.lower() in READERS) if place.is_dir() else []
        if paths:
            break
    else:
        raise DataError(f"{folder}: no data file in this folder; expected files that end in {', '.join(READERS)}")
    sets: dict[str, FileSet] = {}
    without_split: list[Path] = []
    for path in paths:
        split, name = split_of(path.name)
        if split is None:
            without_split.append(path)
        else:
            sets.setdefault(name, FileSet(name)).files.setdefault(split, []).append(path)
    if not sets and len(without_split) == 1:
        return [FileSet("", {"train": without_split})], []
    return [sets[name] for name in sorted(sets)], without_split


def read_files(paths: list[Path]) -> Dataset:
    """Reads files of one format into one table.

    Raises:
        DataError: if a file is missing, of an unknown kind, broken or empty.
    """
    from datasets import load_dataset

    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path}: cannot read files that end in {path.suffix!r}; use one of {', '.join(READERS)}")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
    reader, options = READERS[paths[0].suffix.lower()]
    with quiet_datasets():
        try:
            rows = load_dataset(reader, data_files=[str(p) for p in paths], split="train", **options)
        except Exception as error:  # the readers raise a dozen kinds of errors; the cause holds the useful line
            cause = error.__cause__ or error
            if "corresponds to no data" in str(cause):
                raise DataError(f"{paths[0]}: the file holds no rows") from error
            raise DataError(f"{paths[0]}: cannot be read as {reader}: {_first_line(cause)}") from error
    if len(rows) == 0:  # pyright: ignore[reportArgumentType]
        raise DataError(f"{paths[0]}: the file holds no rows")
    return rows  # pyright: ignore[reportReturnType]


def read_hub(name: str) -> dict[str, Dataset]:
    """Loads a data set of the Hugging Face Hub (`owner/name` or `owner/name:configuration`) as train/validation/test.

    Raises:
        DataError: if it cannot be loaded, e.g. without a network, or has no split that we know.
    """
    from datasets import load_dataset

    path, _, configuration = name.partition(":")
    with quiet_datasets():
        try:
            loaded = load_dataset(path, configuration or None)
        except Exception as error:  # network, permission, name and script errors all end the same way for the user
            raise DataError(
                f"{name!r}: neither a local file or folder nor a data set that the Hugging Face Hub gave us "
                f"({_first_line(error)}); check the path, or the network if it is a hub id"
            ) from error
    found: dict[str, Dataset] = {}
    for split, rows in loaded.items():  # pyright: ignore[reportAttributeAccessIssue]
        known, _ = split_of(f"{split}.x")
        if known is not None:
            found.setdefault(known, rows)
    if not found:
        raise DataError(f"{name!r}: has no train, validation or test split; found {', '.join(map(repr, loaded))}")
    return found


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

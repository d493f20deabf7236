"""Vectors out of files: NumPy arrays, safetensors, JSON and text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ketune.errors import KetuneError
from ketune.files import read_bounded

ENDINGS = (".npy", ".safetensors", ".json", ".csv", ".txt")
MAX_BYTES = 64 * 2**20


class VectorFileError(KetuneError, ValueError):
    """A file without a vector in it."""


def read_vectors(path: str | Path, name: str | None = None) -> Tensor:
    """The vectors of a file, one to a row.

    Args:
        path: `.npy` (an array of one or two dimensions), `.safetensors`, `.json` (a list of numbers, or of such lists),
            `.csv` or `.txt` (one vector to a line, numbers apart by commas or blanks; one number to a line is one
            vector). Nothing is unpickled.
        name: of the tensor in a safetensors file with several.

    Returns:
        (n_vectors, n_features), float64 or complex128.

    Raises:
        VectorFileError: for a file that cannot be read, or has no numbers in such a form.
    """
    path = Path(path)
    try:
        found = _read(path, name)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise VectorFileError(f"{path}: no vectors could be read: {reason}") from error
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2 or not found.numel():
        raise VectorFileError(
            f"{path}: the numbers have shape {tuple(found.shape)}; pass one vector or one vector to a row"
        )
    return found.to(torch.complex128 if found.is_complex() else torch.float64)


def _read(path: Path, name: str | None) -> Tensor:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"unknown kind of file {ending!r}; take one of {', '.join(ENDINGS)}")
    if ending == ".npy":
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES:,} bytes")
        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "fciu":
            raise ValueError(f"the array holds {array.dtype}, not numbers")
        return torch.from_numpy(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    if ending == ".safetensors":
        return _tensor(path, name)
    text = read_bounded(path, MAX_BYTES)
    if ending == ".json":
        return torch.tensor(json.loads(text), dtype=torch.float64)
    rows = [[float(word) for word in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its lines have different numbers of entries")
    if rows and len(rows[0]) == 1:
        rows = [[row[0] for row in rows]]
    return torch.tensor(rows, dtype=torch.float64)


def _tensor(path: Path, name: str | None) -> Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if name is None and len(names) != 1:
                raise ValueError(f"it has {len(names)} tensors; name one of {', '.join(names[:8])}")
            if name is not None and name not in names:
                raise ValueError(f"it has no tensor {name!r}; it has {', '.join(names[:8])}")
            return file.get_tensor(names[0] if name is None else name)
    except SafetensorError as error:
        raise ValueError(str(error)) from error

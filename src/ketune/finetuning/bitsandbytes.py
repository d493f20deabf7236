"""Bases that bitsandbytes quantises while they are loaded, and the note beside an adapter that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ketune.errors import ModelError

BITSANDBYTES = ("nf4", "int8")
RECORD = "quantization.json"
"""Beside an adapter whose base is quantised while it is loaded: how."""


def bitsandbytes_config(method: str, dtype: torch.dtype) -> Any:
    """The configuration with which transformers loads a base in "nf4" or "int8".

    Raises:
        ModelError: Where bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(f"quantization {method!r} needs bitsandbytes: pip install 'ketune[quantization]'") from error
    from transformers import BitsAndBytesConfig

    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def write_record(folder: Path, method: str) -> None:
    """Say beside an adapter how its base is quantised while it is loaded."""
    (folder / RECORD).write_text(json.dumps({"method": method}) + "\n", encoding="utf-8")


def read_record(folder: Path) -> str | None:
    """How the base of an adapter is quantised while it is loaded; None if it is not."""
    path = folder / RECORD
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["method"]

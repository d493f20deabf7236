"""Short names for what the package carries, so that folders saved on one machine mean the same on another."""

from __future__ import annotations

from pathlib import Path

from ketune.assets._paths import base_model_path

BUNDLED_MODEL = "builtin:base"


def resolve_model(model: str | Path) -> str:
    """The folder behind `builtin:base`; any other name or path as it is."""
    return str(base_model_path()) if str(model) == BUNDLED_MODEL else str(model)

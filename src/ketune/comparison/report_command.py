"""The command line that runs a comparison again, written from what its folder says was asked."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ketune.comparison.spec import DEFAULT_TRAINING, ComparisonSpec

_VALUES = {
    "budget": "--budget",
    "template": "--template",
    "train": "--train",
    "validation": "--validation",
    "test": "--test",
    "n_train": "--limit",
    "n_validation": "--n-validation",
    "n_test": "--n-test",
    "n_generate": "--n-generate",
    "max_new_tokens": "--max-new-tokens",
    "bertscore_model": "--bertscore-model",
    "lr_trials": "--lr-trials",
}
_SWITCHES = {
    "controls": "--controls",
    "only_fitting": "--only-fitting",
    "tune_lr": "--tune-lr",
    "keep_full": "--keep-full",
    "trust_remote_code": "--trust-remote-code",
}
_TRAINING = {"max_steps": "--steps", "batch_size": "--batch-size", "max_length": "--max-length"}
_ONLY_IN_PYTHON = ("n_capacity",)


def command(asked: Mapping[str, Any], folder: Path) -> str | None:
    """The `ketune compare` line that asks for the same comparison, quoted for a shell.

    Options at their defaults are left out, but for the model, the data and the seeds. What has no option stands behind
    the line as a comment.

    Args:
        asked: The content of `comparison.json`.
        folder: The comparison's folder.

    Returns:
        None when nobody wrote down what was asked.
    """
    if not asked.get("model"):
        return None
    asked = _defaults() | dict(asked)
    words = ["ketune", "compare", "--model", asked["model"], "--data", asked["data"]]
    if tuple(asked["methods"]) != _defaults()["methods"]:
        words += ["--methods", ",".join(asked["methods"]) or "none"]
    for folder_of_experiment in asked["experiments"]:
        words += ["--experiment", folder_of_experiment]
    if asked["target_modules"]:
        words += ["--target-modules", ",".join(asked["target_modules"])]
    words += ["--seeds", _seeds(asked["seeds"])]
    for name, option in _VALUES.items():
        if asked[name] != _defaults()[name]:
            words += [option, str(asked[name])]
    words += _pairs("--column", asked["columns"] or {}) + _pairs("--lr", asked["learning_rates"])
    changed = {name: value for name, value in asked["training"].items() if value != DEFAULT_TRAINING.get(name)}
    for name, value in changed.items():
        words += [_TRAINING[name], str(value)] if name in _TRAINING else ["--training", f"{name}={value}"]
    words += [option for name, option in _SWITCHES.items() if asked[name]]
    line = shlex.join([*words, "--out", str(folder)])
    rest = [f"{name}={asked[name]!r}" for name in _ONLY_IN_PYTHON if asked[name] != _defaults()[name]]
    return f"{line}  # from Python, with {', '.join(rest)}" if rest else line


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds as the command line reads them; a comma behind a single one, or it would be read as a number of seeds."""
    return f"{seeds[0]}," if len(seeds) == 1 else ",".join(map(str, seeds))


def _pairs(option: str, pairs: Mapping[str, Any]) -> list[str]:
    return [word for name, value in pairs.items() for word in (option, f"{name}={value}")]


def _defaults() -> dict[str, Any]:
    """The default of every field of a spec, without making one (which would load the registry)."""
    return {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in dataclasses.fields(ComparisonSpec)
    }

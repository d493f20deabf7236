"""The settings of a training run, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ketune.errors import KetuneError
from ketune.finetuning.base import DTYPES

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "paged_adamw_8bit",
    "adamw_8bit",
    "superpositional",
)


class ParamsError(KetuneError, ValueError):
    """A training setting that is unknown or out of range."""


@dataclass(frozen=True)
class TrainingParams:
    """Settings of one training run; names are those of PEFT's `method_comparison` where it has them.

    The defaults suit small models and minutes, not days. `help()` gives the meaning of each field.

    Raises:
        ParamsError: if a value is out of range; the message names the field, the value and what is allowed.
    """

    max_steps: int = field(
        default=300, metadata={"help": "Optimiser steps; the length of the run unless epochs is given."}
    )
    epochs: float | None = field(
        default=None, metadata={"help": "Passes over the training rows; sets max_steps if given."}
    )
    batch_size: int = field(default=16, metadata={"help": "Sequences per device and forward pass."})
    gradient_accumulation: int = field(default=1, metadata={"help": "Forward passes per optimiser step."})
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Highest learning rate; full fine-tuning wants about a tenth of an adapter's."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay of AdamW."})
    optimizer: str = field(
        default="adamw_torch", metadata={"help": "Optimiser by its name in transformers, or 'superpositional'."}
    )
    optimizer_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Further arguments of the superpositional optimiser, such as strength, scope, n_qubits and "
            "perturbation (a control: 'random_sign', 'gaussian')."
        },
    )
    lr_scheduler: str = field(default="linear", metadata={"help": "Course of the learning rate after the warm-up."})
    warmup_ratio: float = field(
        default=0.05, metadata={"help": "Share of the steps in which the learning rate rises from 0."}
    )
    loadability: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a term that makes activations loadable: the mean entanglement (0 to 1) of what QAA's "
            "circuits embed."
        },
    )
    grad_norm_clip: float = field(
        default=1.0, metadata={"help": "Gradients are scaled down to this norm; 0 leaves them alone."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest sequence in tokens; None: the model's context, at most 1024."}
    )
    dtype: str = field(
        default="auto", metadata={"help": "float32, bfloat16 (mixed precision), or auto: bfloat16 where CUDA has it."}
    )
    device: str = field(default="auto", metadata={"help": "auto (CUDA if there is one), cpu or cuda."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade a second forward pass for memory."})
    logging_steps: int = field(default=5, metadata={"help": "Steps between two loss records."})
    eval_steps: int = field(
        default=50, metadata={"help": "Steps between two evaluations on the validation rows; 0: only at the end."}
    )
    eval_limit: int | None = field(
        default=None, metadata={"help": "At most this many validation rows per evaluation; None: all."}
    )
    batch_size_eval: int = field(default=32, metadata={"help": "Sequences per forward pass of an evaluation."})
    save_steps: int = field(
        default=100, metadata={"help": "Steps between two checkpoints; 0: none, the run cannot be resumed."}
    )
    save_total_limit: int = field(
        default=2, metadata={"help": "Checkpoints kept; at least 2, so that one is whole at any moment."}
    )
    calibration_rows: int | None = field(
        default=None,
        metadata={
            "help": "Training rows shown to adapters that set starting values from data; None: as many as they ask for."
        },
    )
    report_to: str | list[str] = field(
        default="none", metadata={"help": "Experiment logger(s) of the Trainer: tensorboard, wandb, trackio, ..."}
    )

    def __post_init__(self) -> None:
        for name, low in (
            ("max_steps", 1),
            ("batch_size", 1),
            ("gradient_accumulation", 1),
            ("logging_steps", 1),
            ("eval_steps", 0),
            ("batch_size_eval", 1),
            ("save_steps", 0),
            ("save_total_limit", 2),
        ):
            self._require(name, _is_int(getattr(self, name)) and getattr(self, name) >= low, f"a whole number >= {low}")
        for name, low in (("max_length", 2), ("eval_limit", 1), ("calibration_rows", 1)):
            value = getattr(self, name)
            self._require(name, value is None or (_is_int(value) and value >= low), f"None or a whole number >= {low}")
        for name in ("learning_rate", "weight_decay", "grad_norm_clip", "warmup_ratio", "loadability"):
            self._require(name, _is_number(getattr(self, name)) and getattr(self, name) >= 0, "a number >= 0")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("warmup_ratio", self.warmup_ratio < 1, "below 1")
        self._require("epochs", self.epochs is None or (_is_number(self.epochs) and self.epochs > 0), "None or above 0")
        self._require("gradient_checkpointing", isinstance(self.gradient_checkpointing, bool), "True or False")
        self._choose("dtype", ("auto", *DTYPES))
        self._require(
            "dtype", self.dtype != "float16", "'auto', 'float32' or 'bfloat16'; float16 overflows in training"
        )
        self._choose("lr_scheduler", SCHEDULES)
        self._choose("optimizer", OPTIMIZERS)
        allowed = ("strength", "n_qubits", "scope", "perturbation", "betas", "eps")
        fits = not self.optimizer_options or self.optimizer == "superpositional"
        fits &= isinstance(self.optimizer_options, dict) and set(self.optimizer_options) <= set(allowed)
        self._require("optimizer_options", fits, f"for optimizer='superpositional' only: {', '.join(allowed)}")

    def replace(self, **changes: Any) -> TrainingParams:
        """Returns a copy with some settings changed; unknown names are refused as in `from_dict`."""
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingParams:
        """Makes settings from a mapping; what is missing has its default.

        Raises:
            ParamsError: if a name is unknown, with the name that was probably meant.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise ParamsError(f"TrainingParams: unknown setting {name!r}{hint}")
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Writes the settings as JSON, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(path.name + ".tmp")
        staged.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        os.replace(staged, path)

    @classmethod
    def load(cls, path: str | Path) -> TrainingParams:
        """Reads settings from JSON.

        Raises:
            ParamsError: if the file is missing, is not a JSON object, or holds an unknown or wrong setting.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ParamsError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise ParamsError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise ParamsError(f"{path}: must hold a JSON object with training settings")
        return cls.from_dict(values)

    @classmethod
    def help(cls) -> dict[str, str]:
        """The meaning of each setting, for command lines and documentation."""
        return {f.name: f.metadata["help"] for f in dataclasses.fields(cls)}

    def _require(self, name: str, condition: bool, allowed: str) -> None:
        if not condition:
            raise ParamsError(f"TrainingParams({name}={getattr(self, name)!r}): must be {allowed}")

    def _choose(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value in allowed:
            return
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ParamsError(f"TrainingParams({name}={value!r}): choose one of {', '.join(map(repr, allowed))}{hint}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value

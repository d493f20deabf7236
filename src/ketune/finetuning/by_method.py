"""`finetune` by the name of a method: sized, configured and given its own learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ketune.adapters import get_method, meta_model
from ketune.adapters.choice import Choice, choose
from ketune.adapters.counting import hidden_width
from ketune.finetuning.base import load_base
from ketune.finetuning.callbacks import OnProgress
from ketune.finetuning.data import DEFAULT_SOURCE, load_task
from ketune.finetuning.params import TrainingParams
from ketune.finetuning.quantizing import QuantizedTraining
from ketune.finetuning.training import FinetuneResult, finetune
from ketune.quantization.size import ModelSize, size_of


@dataclass(frozen=True)
class MethodRun:
    """A training run and the choices that led to it.

    Attributes:
        choice: method, config and exact count.
        params: the settings that were used.
        result: what the run left.
        size: of the model that it left, where it is quantised.
    """

    choice: Choice
    params: TrainingParams
    result: FinetuneResult
    size: ModelSize | None = None

    @property
    def last_loss(self) -> float | None:
        """Training loss of the last record, None without any."""
        return self._last("loss")

    @property
    def eval_loss(self) -> float | None:
        """Validation loss of the last evaluation, None without any."""
        return self._last("eval_loss")

    @property
    def n_base(self) -> int:
        """Parameters of the base model."""
        result = self.result
        return result.n_total - (0 if self.choice.config is None else result.n_trainable)

    def _last(self, key: str) -> float | None:
        return next((record[key] for record in reversed(self.result.history) if key in record), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        result = self.result
        median = result.step_seconds_median
        return {
            "method": self.choice.method.name,
            "size": self.choice.size,
            "trainable_parameters": result.n_trainable,
            "total_parameters": result.n_total,
            "learning_rate": self.params.learning_rate,
            "adapter_dir": str(result.adapter_dir),
            "loss": self.last_loss,
            "validation_loss": self.eval_loss,
            "train_seconds": result.train_seconds,
            "step_seconds_median": None if math.isnan(median) else median,
            "tokens_seen": result.tokens_seen,
            "diverged": result.diverged,
            **({} if self.size is None else self.size.to_dict()),
            "history": result.history,
            "notes": result.notes,
        }


def finetune_method(
    model: str | Path,
    data: str | Path = DEFAULT_SOURCE,
    method: str = "qaa",
    *,
    output_dir: str | Path,
    size: int | None = None,
    budget: str | int | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    control: str | None = None,
    params: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: bool | OnProgress = True,
    trust_remote_code: bool = False,
    quantization: str | QuantizedTraining | None = None,
) -> MethodRun:
    """Trains a model with a method of the registry.

    Args:
        model: a folder, a hub id or "builtin:base".
        data: a source for `load_task`.
        method: name of the method.
        output_dir: as in `finetune`.
        size, budget, preset, settings, control: as in `ketune.adapters.choice.choose`.
        params: fields of `TrainingParams`; the learning rate is the method's own unless it is given here.
        data_options: further arguments of `load_task`.
        seed, resume, progress: as in `finetune`.
        trust_remote_code: whether the model's own code may run.
        quantization: a `QuantizedTraining`, or its spelling, such as "roste:w4a4kv4".

    Raises:
        KetuneError: with one line, when something cannot be used as asked.
    """
    way = QuantizedTraining.parse(quantization) if isinstance(quantization, str) else quantization
    base = meta_model(model, trust_remote_code)
    rate = get_method(method).at_width(hidden_width(base)).learning_rate
    rate = rate if way is None or way.learning_rate is None else way.learning_rate
    settings_of_run = TrainingParams.from_dict({"learning_rate": rate, **(params or {})})
    choice = choose(
        method,
        base,
        size=size,
        budget=budget,
        preset=preset,
        settings=settings,
        control=control,
    )
    task = load_task(data, **(data_options or {}))
    source, tokenizer = model, None
    if trust_remote_code:
        dtype = "float32" if choice.config is None else settings_of_run.dtype
        loading = None if way is None else way.loading
        device = settings_of_run.device
        source, tokenizer = load_base(model, dtype, device, trust_remote_code=True, quantization=loading)
    result = finetune(
        source,
        task,
        choice.config,
        output_dir=output_dir,
        tokenizer=tokenizer,
        params=settings_of_run,
        seed=seed,
        resume=resume,
        progress=progress,
        quantization=way,
    )
    return MethodRun(choice, settings_of_run, result, None if way is None else size_of(result.model))

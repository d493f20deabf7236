"""What each method would train on a model, counted exactly from the model's config alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import PretrainedConfig

from ketune.adapters.choice import PRESETS, Choice, choose
from ketune.adapters.counting import count_parameters, hidden_width, meta_model, parse_budget
from ketune.adapters.fields import plain_values
from ketune.adapters.registry import METHODS, Method, get_method
from ketune.errors import KetuneError


@dataclass(frozen=True)
class MethodSummary:
    """One row of the table of methods.

    Attributes:
        method: the method, with learning rates for the model's width.
        preset: name of the ready-made configuration that this row counts, None for the method's default.
        size: rank, prefix length, readouts, ...; None where each layer has its own, or all weights train.
        count: trainable parameters, None when the method cannot be used as asked; `problem` says why.
        share: `count` over the parameters of the base model.
        config: the adapter's PEFT config; None for full fine-tuning.
        problem: one line, None if all is well.
    """

    method: Method
    preset: str | None = None
    size: int | None = None
    count: int | None = None
    share: float | None = None
    config: PeftConfig | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        method = self.method
        return {
            "name": method.name,
            "title": method.title,
            "preset": self.preset,
            "trains": method.summary,
            "quantum": method.quantum,
            "size_name": method.size_name or None,
            "size": self.size,
            "trainable_parameters": self.count,
            "share": self.share,
            "learning_rate": method.learning_rate,
            "learning_rates": list(method.learning_rates),
            "controls": list(method.controls),
            "citation": method.citation,
            "config": None if self.config is None else plain_values(self.config.to_dict()),
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Summary:
    """The table of methods for one model.

    Attributes:
        model: what was asked for.
        model_type: the architecture, as transformers calls it.
        n_parameters: of the base model, tied ones once.
        budget: what the methods were sized to, None for their default sizes.
        methods: the rows.
    """

    model: str
    model_type: str
    n_parameters: int
    budget: int | None
    methods: tuple[MethodSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "model": self.model,
            "model_type": self.model_type,
            "n_parameters": self.n_parameters,
            "budget": self.budget,
            "methods": [row.to_dict() for row in self.methods],
        }


def summarize_methods(
    model: str | Path | PretrainedConfig,
    *,
    method: str | None = None,
    size: int | None = None,
    budget: str | int | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    control: str | None = None,
    trust_remote_code: bool = False,
) -> Summary:
    """Count what methods train on a model; its config is enough, no weights are read.

    Args:
        model: a hub id, a folder, a `config.json`, "builtin:base", or a config object.
        method: only this method, with `size`, `preset`, `settings` and `control` as in `choose`. None counts all
            methods, and their presets, at their default sizes or at `budget`; one that cannot be used gets a `problem`.
        budget: trainable parameters that each method may have, as in `parse_budget`.
        trust_remote_code: whether the model's own code may run.

    Raises:
        KetuneError: when there is no config, or the named method cannot be used as asked.
    """
    if method is not None:
        get_method(method)  # before the model, so that a wrong name is answered at once
    elif size is not None or preset is not None or settings or control is not None:
        raise KetuneError("size, preset, fields and control are those of one method; name it with --method")
    meta = meta_model(model, trust_remote_code)
    total = count_parameters(meta)

    def row(choice: Choice, preset: str | None) -> MethodSummary:
        return MethodSummary(choice.method, preset, choice.size, choice.count, choice.count / total, choice.config)

    rows: list[MethodSummary] = []
    if method is not None:
        choice = choose(method, meta, size=size, budget=budget, preset=preset, settings=settings, control=control)
        rows.append(row(choice, preset))
    else:
        for name in METHODS:
            # Recommended is what stands without a preset, so only the others get rows of their own.
            others = () if budget is not None else tuple(p for p in PRESETS.get(name, ()) if p != "recommended")
            for variant in (None, *others):
                limit = None if METHODS[name].configure is None else budget
                try:
                    rows.append(row(choose(name, meta, budget=limit, preset=variant), variant))
                except KetuneError as error:
                    known = METHODS[name].at_width(hidden_width(meta))
                    rows.append(MethodSummary(known, variant, problem=str(error)))
    shown = model if isinstance(model, str | Path) else model.name_or_path or type(model).__name__
    count = None if budget is None else parse_budget(budget, total)
    return Summary(str(shown), getattr(meta.config, "model_type", "unknown"), total, count, tuple(rows))

"""One method, made for one model: its PEFT config at a size, a budget or a preset, with fields of your choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from peft import PeftConfig
from transformers import PreTrainedModel

from ketune.adapters.config import ConfigError
from ketune.adapters.counting import count_parameters, count_trainable, fit_budget, hidden_width, parse_budget
from ketune.adapters.fields import parse_fields
from ketune.adapters.inspection import check_targets, linear_modules
from ketune.adapters.qaa import PRESETS as QAA_PRESETS
from ketune.adapters.qpa import PRESETS as QPA_PRESETS
from ketune.adapters.registry import Method, get_method
from ketune.adapters.targeting import known_targets, target_fields

PRESETS: dict[str, tuple[str, ...]] = {"qaa": tuple(QAA_PRESETS), "qpa": tuple(QPA_PRESETS)}
"""Names of the ready-made configurations of the methods that have some."""


@dataclass(frozen=True)
class Choice:
    """A method with all choices made.

    Attributes:
        method: the method.
        config: its PEFT config, None for full fine-tuning.
        size: rank, prefix length, readouts, ...; None for full fine-tuning and where each layer has its own (QAA's one
            readout per wire).
        count: trainable parameters on the model, exactly.
    """

    method: Method
    config: PeftConfig | None
    size: int | None
    count: int


def choose(
    name: str,
    model: PreTrainedModel,
    *,
    size: int | None = None,
    budget: str | int | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    control: str | None = None,
) -> Choice:
    """Configure a method for a model.

    Args:
        name: of the method, as in `METHODS`.
        model: a model from `meta_model`; no weights are needed.
        size: rank, prefix length, readouts, ...; None takes the default of the method's config.
        budget: trainable parameters that it may have instead, as in `parse_budget`.
        preset: a ready-made configuration, see `PRESETS`.
        settings: fields of the config as `name=value`, see `parse_fields`; they override size and preset.
        control: run the method as one of its controls.

    Raises:
        BudgetTooSmall: when the smallest size does not fit; it names what would.
        ConfigError: for an unknown method, preset, control, field or value, for target modules that match nothing, and
            for what full fine-tuning does not have.
    """
    method = get_method(name).at_width(hidden_width(model))
    if method.configure is None:
        given = {"size": size, "budget": budget, "preset": preset, "settings": settings, "control": control}
        if odd := [key for key, value in given.items() if value]:
            raise ConfigError(f"{name}: all weights train, so {', '.join(odd)} has no meaning; leave it out")
        return Choice(method, None, None, count_parameters(model))
    if size is not None and budget is not None:
        raise ConfigError(f"{name}: size={size} and budget={budget} both say how large it is; pass one of them")
    if size is not None and not method.size_name:
        raise ConfigError(f"{name}: size={size}: this method has one size only; leave it out")
    if size is not None and size < 1:
        raise ConfigError(f"{name}: size={size}: pass a {method.size_name} of 1 or more")

    def configure(at: int | None) -> PeftConfig:
        config = _base_config(method, at, preset)
        config = replace(config, **parse_fields(type(config), settings))
        if targets and not getattr(config, "target_modules", None):
            config = replace(config, **target_fields(method, config, model, targets))
        return method.with_control(config, control) if control is not None else config

    targets = known_targets(model)
    config = configure(size)
    check_targets(model, config)
    try:
        if budget is not None:
            adjusted = replace(method, configure=configure)
            sized = fit_budget(adjusted, model, parse_budget(budget, count_parameters(model)))
            return Choice(method, sized.config, sized.size, sized.count)
        return Choice(method, config, method.size_of(config) or size, count_trainable(model, config))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(_no_match(name, model, error)) from error


def _base_config(method: Method, size: int | None, preset: str | None) -> PeftConfig:
    """The config before single fields are set."""
    config = method.config(size)
    assert config is not None
    kind: Any = type(config)
    size_field = getattr(kind, "size_field", "")
    chosen = {size_field: size} if size is not None and size_field else {}
    if preset is not None:
        known = PRESETS.get(method.name, ())
        if preset not in known:
            raise ConfigError(f"{method.name} has no preset {preset!r}; presets are {', '.join(known) or 'none'}")
        return kind.preset(preset, task_type=config.task_type, **chosen)
    if size is None and size_field:
        # Without a size the paper's own default counts, not the one that suits a budget.
        default = next(field.default for field in fields(kind) if field.name == size_field)
        return replace(config, **{size_field: default})
    return config


def _no_match(name: str, model: PreTrainedModel, error: ValueError) -> str:
    """PEFT's own words on target modules, in one line with what there is."""
    reason = " ".join(str(error).split())
    if "target" not in reason:
        return f"{name}: {reason}"
    kind = getattr(model.config, "model_type", "this")
    names = ", ".join(sorted({module.rsplit(".", 1)[-1] for module in linear_modules(model)}))
    return f"{name} has nothing to sit on in a {kind} model ({reason}); set target_modules to some of {names}"

"""Which projections all methods of a comparison adapt: the same ones, so that only the methods differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from ketune.comparison.spec import SpecError

if TYPE_CHECKING:
    from peft import PeftConfig

    from ketune.adapters import Method

_USUAL = ("q_proj", "v_proj")


def known_targets(model: nn.Module) -> tuple[str, ...]:
    """The query and value projections of this type of model by PEFT's own table, or by their usual names.

    Returns:
        Names of modules; empty for a model that PEFT does not know and that has none of the usual names.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

    config: Any = getattr(model, "config", None)
    if found := known.get(getattr(config, "model_type", "")):
        return tuple(found)
    there = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    return _USUAL if set(_USUAL) <= there else ()


def choose_targets(model: nn.Module, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The modules to adapt: those asked for, or the known ones.

    Raises:
        SpecError: None are known for this type of model.
        ConfigError: What is asked for matches nothing; names near misses.
    """
    from peft import LoraConfig

    from ketune.adapters import check_targets, linear_modules

    if asked:
        check_targets(model, LoraConfig(target_modules=list(asked)))
        return tuple(asked)
    if found := known_targets(model):
        return found
    names = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear_modules(model)}))
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    raise SpecError(
        f"no projections are known for models of type {kind!r}; pass target_modules, its linear layers are {names}"
    )


def with_targets(method: Method, targets: Sequence[str]) -> Method:
    """The same method on these modules; one that adapts no modules (full, prefix tuning) is returned as it is."""
    configure = method.configure
    if configure is None or not _takes_targets(configure(1)):
        return method
    return replace(method, configure=lambda size: replace(configure(size), target_modules=set(targets)))  # pyright: ignore


def _takes_targets(config: PeftConfig) -> bool:
    return is_dataclass(config) and "target_modules" in {f.name for f in fields(config)}

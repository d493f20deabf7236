"""Which modules a method adapts: the same projections for all methods, so that only the methods differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, PeftConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN
from torch import nn

from ketune.adapters.config import ConfigError
from ketune.adapters.inspection import check_targets, linear_modules

if TYPE_CHECKING:
    from ketune.adapters.registry import Method

_USUAL = (("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("query_key_value",), ("qkv_proj",), ("Wqkv",))
"""Names of query and value projections, or of the layer that holds both, in models that PEFT has no table for."""


def known_targets(model: nn.Module) -> tuple[str, ...]:
    """The query and value projections of this type of model by PEFT's own table, or by their usual names.

    Returns:
        Names of modules; empty for a model that PEFT does not know and that has none of the usual names.
    """
    config: Any = getattr(model, "config", None)
    if found := KNOWN.get(getattr(config, "model_type", "")):
        return tuple(found)
    there = {name.rsplit(".", 1)[-1] for name in linear_modules(model)}
    return next((names for names in _USUAL if set(names) <= there), ())


def choose_targets(model: nn.Module, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The modules to adapt: those asked for, or the known ones.

    Raises:
        ConfigError: What is asked for matches nothing (names near misses), or nothing is known for this type of model.
    """
    if asked:
        check_targets(model, LoraConfig(target_modules=list(asked)))
        return tuple(asked)
    if found := known_targets(model):
        return found
    names = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear_modules(model)}))
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    raise ConfigError(
        f"no projections are known for models of type {kind!r}; pass target_modules, its linear layers are {names}"
    )


def with_targets(method: Method, model: nn.Module, targets: Sequence[str]) -> Method:
    """The same method on these modules of this model.

    A method that adapts no modules (full, prefix tuning) is returned as it is; one that adapts others (IA3, LN tuning)
    gets those of its own.
    """
    configure = method.configure
    if configure is None:
        return method
    chosen = target_fields(method, configure(1), model, targets)
    return replace(method, configure=lambda size: replace(configure(size), **chosen))  # pyright: ignore


def target_fields(method: Method, config: PeftConfig, model: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    """The fields that put a config of this method on its modules; none for one that adapts no modules."""
    if "target_modules" not in {f.name for f in fields(config)}:
        return {}
    return {"target_modules": set(targets)} if method.own_targets is None else method.own_targets(model, targets)


def norm_targets(model: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    """For LN tuning: every normalisation with a weight, whatever the projections.

    Raises:
        ConfigError: The model has none.
    """
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    if not names:
        raise ConfigError("the model has no normalisation with a weight; leave LN tuning out")
    return {"target_modules": names}


def ia3_targets(model: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    """For IA3: what PEFT's own tables name; the projections' outputs for models that are not in them."""
    from peft.utils import constants

    kind = getattr(getattr(model, "config", None), "model_type", "")
    own = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(kind)
    inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(kind)
    if own is None or inner is None:
        return {"target_modules": set(targets), "feedforward_modules": set()}
    return {"target_modules": set(own), "feedforward_modules": set(inner)}

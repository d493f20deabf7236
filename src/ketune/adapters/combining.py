"""Weighted sums of adapters: one update that holds copies of others and adds them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ketune.adapters.config import AdapterConfig
from ketune.adapters.fields import plain_values
from ketune.adapters.update import HasWeight, Place, Update

if TYPE_CHECKING:
    from ketune.adapters.adapter_layer import AdapterLayer

_NOT_PASSED_ON = ("peft_type", "auto_mapping", "peft_version", "dropout")


class CombinedUpdate(Update):
    """`x -> sum_i weight_i update_i(x)`."""

    def __init__(self, config: AdapterConfig, update_cls: type[Update], in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        self.weights = [float(part["weight"]) for part in config.combined or ()]
        self.parts = nn.ModuleList(
            make_update(part, update_cls, in_features, out_features) for part in part_configs(config)
        )
        reasons = [part.why_not_mergeable for part in self._updates() if part.why_not_mergeable]
        self.why_not_mergeable = reasons[0] if reasons else None
        self.meets_stored_weight = any(part.meets_stored_weight for part in self._updates())

    def _updates(self) -> list[Update]:
        return [cast(Update, part) for part in self.parts]

    def attach(self, shared: nn.Module, place: Place) -> None:
        super().attach(shared, place)
        for number, part in enumerate(self._updates()):
            if str(number) in cast(nn.ModuleDict, shared):
                part.attach(cast(nn.ModuleDict, shared)[str(number)], place)

    def beside(self, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer) -> torch.Tensor:
        terms = [w * part.beside(x, output, layer) for w, part in zip(self.weights, self._updates())]
        return sum(terms[1:], terms[0])

    def delta_weight_beside(self, layer: HasWeight) -> torch.Tensor:
        terms = [w * part.delta_weight_beside(layer) for w, part in zip(self.weights, self._updates())]
        return sum(terms[1:], terms[0])

    def low_rank_factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        factors = [part.low_rank_factors() for part in self._updates()]
        if any(pair is None for pair in factors):
            return None
        ups, downs = zip(*cast(list[tuple[torch.Tensor, torch.Tensor]], factors))
        return torch.cat([w * up for w, up in zip(self.weights, ups)], 1), torch.cat(downs)


def part_configs(config: AdapterConfig) -> list[AdapterConfig]:
    """The configs of the adapters that a combined one adds up."""
    known = {f.name for f in fields(config)} - set(_NOT_PASSED_ON)
    parts = [part["config"] for part in config.combined or ()]
    return [type(config)(**{name: value for name, value in part.items() if name in known}) for part in parts]


def combined_config(configs: Sequence[AdapterConfig], weights: Sequence[float]) -> AdapterConfig:
    """The config of a weighted sum of adapters of one method."""
    parts = [{"weight": float(w), "config": _settings(config)} for config, w in zip(configs, weights)]
    return replace(configs[0], combined=parts, size_pattern={}, inference_mode=False, dropout=0.0)


def changed_parts(config: AdapterConfig, change: Callable[[AdapterConfig], AdapterConfig]) -> AdapterConfig:
    """A combined config with each of its parts changed: by `AdapterConfig.for_module`, say."""
    parts = zip(config.combined or (), part_configs(config))
    return replace(config, combined=[{**part, "config": _settings(change(its))} for part, its in parts])


def _settings(config: AdapterConfig) -> dict[str, Any]:
    return {name: plain_values(value) for name, value in config.to_dict().items() if name not in _NOT_PASSED_ON}


def copy_parts(combined: Update, updates: Sequence[Update]) -> None:
    """Gives a combined update the values of the updates that it adds up."""
    experts = [getattr(update, "experts", None) for update in (combined, *updates)]
    if experts[0] is not None:
        for sums, *its in zip(*cast(list[nn.ModuleList], experts)):
            copy_parts(sums, its)
        return
    for part, update in zip(cast(CombinedUpdate, combined).parts, updates):
        part.load_state_dict(update.state_dict())


def make_update(config: AdapterConfig, update_cls: type[Update], in_features: int, out_features: int) -> Update:
    """The update of a config, combined or not."""
    if config.combined:
        return CombinedUpdate(config, update_cls, in_features, out_features)
    return update_cls(config, in_features, out_features)


def counting_parts(count: Callable[..., int]) -> Callable[..., int]:
    """A method that counts parameters, made to add up the counts of the parts of a combined config."""

    @wraps(count)
    def counted(self: AdapterConfig, *args: Any) -> int:
        if self.combined:
            return sum(getattr(part, count.__name__)(*args) for part in part_configs(self))
        return count(self, *args)

    return counted


def make_shared(config: AdapterConfig, places: Sequence[Place]) -> nn.Module | None:
    """The shared part of a config, combined or not."""
    if not config.combined:
        return config.make_shared(places)
    made = {str(number): make_shared(part, places) for number, part in enumerate(part_configs(config))}
    parts = {number: part for number, part in made.items() if part is not None}
    return nn.ModuleDict(parts) if parts else None

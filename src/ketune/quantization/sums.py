"""Adapters under "quantise the sum": what is rounded is weight plus update, so that merging changes nothing.

An adapter beside a quantised layer gives Q(W) x + D x; merged, the layer gives Q(W + D) x. Training sees the first and
deployment runs the second. Here the layer computes Q(W + D) Q(x) in training too, for every PEFT method whose update is
a matrix, PEFT's own and Ketune's.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.schemes import QuantizationError

ADDITIVE = (
    "adalora",
    "fourierft",
    "loha",
    "lokr",
    "lora",
    "randlora",
    "shira",
    "tinylora",
    "unilora",
    "vera",
    "waveft",
)
"""PEFT's tuners that merge by adding `get_delta_weight` to the weight. Others multiply (OFT) or rescale it (IA3)."""


def quantize_sums_(model: nn.Module) -> nn.Module:
    """Make every adapter on a `QuantizedLinear` part of the weight that is quantised. Changes the model and returns it.

    Call it when the adapters are on the model, before training. Merging and unmerging then leave the outputs as they
    are, up to the rounding of the sum in floating point.

    Raises:
        QuantizationError: Where no adapter stands on a quantised layer; for an update that is no matrix; for dropout,
            which acts on the input of an update alone; and in the forward pass for rows with adapters of their own.
    """
    check_sums(model)
    for _, layer in _tuner_layers(model):
        layer.forward = MethodType(_forward, layer)
    return model


def check_sums(model: nn.Module) -> None:
    """Raise what `quantize_sums_` would; change nothing."""
    layers = list(_tuner_layers(model))
    if not layers:
        raise QuantizationError(
            "no adapter stands on a layer with fake quantisers; call quantize_(model, QuantizeConfig(...)) before the "
            "adapter is put on"
        )
    for name, layer in layers:
        for adapter in _adapters(layer):
            _check(name, layer, adapter)


def has_quantized_sums(model: nn.Module) -> bool:
    """Whether `quantize_sums_` was called on the model."""
    return any(getattr(layer.forward, "__func__", None) is _forward for _, layer in _tuner_layers(model))


def can_be_quantized(layer: Any, adapter: str) -> bool:
    """Whether an adapter of a layer is a matrix that is added to the weight when it is merged."""
    if hasattr(layer, "update_of"):
        return layer.update_of(adapter).why_not_mergeable is None
    # A variant of LoRA (DoRA and others) does more to the weight than add.
    is_variant = adapter in getattr(layer, "lora_variant", {})
    return type(layer).__module__.removeprefix("peft.tuners.").split(".")[0] in ADDITIVE and not is_variant


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if kwargs.pop("adapter_names", None) is not None:
        raise QuantizationError(
            "adapter_names: rows with adapters of their own cannot share one quantised sum; run them in batches of one "
            "adapter each"
        )
    if self.disable_adapters and self.merged:
        self.unmerge()
    base: QuantizedLinear = self.get_base_layer()
    deltas: list[torch.Tensor] = []
    if not self.disable_adapters and not self.merged:
        deltas = [_delta_weight(self, adapter) for adapter in self.active_adapters if adapter in _adapters(self)]
    return base.forward_with(x, *deltas)


def _delta_weight(layer: Any, adapter: str) -> torch.Tensor:
    """The update as a matrix (out_features, in_features), with its gradient."""
    if hasattr(layer, "update_of"):  # ours: `get_delta_weight` is for merging and keeps no graph
        return layer.update_of(adapter).delta_weight_beside(layer)
    return layer.get_delta_weight(adapter)


def _tuner_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and isinstance(module.get_base_layer(), QuantizedLinear):
            yield name, module


def _adapters(layer: Any) -> list[str]:
    """Names of all adapters of a layer."""
    names: dict[str, None] = {}
    for group in layer.adapter_layer_names:
        part = getattr(layer, group, None)
        if isinstance(part, nn.ModuleDict | nn.ParameterDict):
            names.update(dict.fromkeys(part.keys()))
    return list(names)


def _check(name: str, layer: Any, adapter: str) -> None:
    if not can_be_quantized(layer, adapter):
        kind = type(layer).__name__
        raise QuantizationError(
            f"{name}: adapter {adapter!r} ({kind}) is no matrix that is added to the weight; take one of Ketune's "
            f"methods that merge, or one of PEFT's {', '.join(ADDITIVE)}; or leave quantize_sums_ out, and the "
            "adapter stands beside the quantised layer"
        )
    dropouts = [part[adapter] for key, part in vars(layer)["_modules"].items() if "dropout" in key and adapter in part]
    dropouts += [layer.update_of(adapter).dropout] if hasattr(layer, "update_of") else []
    for dropout in dropouts:
        if isinstance(dropout, nn.Dropout) and dropout.p > 0:
            raise QuantizationError(
                f"{name}: adapter {adapter!r} has dropout={dropout.p:g}, which acts on the input of the update alone; "
                "a sum that is quantised has one input. Set dropout to 0"
            )

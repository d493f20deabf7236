"""`quantize_`: a model with fake quantisers to train with, and then the quantised model that was trained for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ketune.quantization.attention import add_kv_quantizers
from ketune.quantization.coded_linear import CodedLinear
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.modules import replace_module
from ketune.quantization.schemes import QuantizationError, QuantizationScheme, as_scheme
from ketune.quantization.transformers_quantizer import attach_quantizer, detach_quantizer

STEPS = ("prepare", "convert")


@dataclass(frozen=True)
class QuantizeConfig:
    """What `quantize_` does.

    Attributes:
        scheme: A `QuantizationScheme`, or its spelling: "w4a4kv4", "w4a16", "w2a16g128".
        step: "prepare" puts fake quantisers into the model; "convert" turns the weights of a prepared model into packed
            codes, "prepare" first where that has not been done: rounding to nearest.
        modules: Names (suffixes) of the linear layers meant, or a regular expression that matches their whole names.
            None: all except the output head.
        quantize_queries: Queries are quantised too, with the scheme of the activations, as ZeroQAT does.

    Raises:
        QuantizationError: An unknown step or scheme.
    """

    scheme: QuantizationScheme | str
    step: str = "prepare"
    modules: list[str] | str | None = None
    quantize_queries: bool = False
    _scheme: QuantizationScheme = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.step not in STEPS:
            raise QuantizationError(f"QuantizeConfig(step={self.step!r}): choose one of {', '.join(map(repr, STEPS))}")
        object.__setattr__(self, "_scheme", as_scheme(self.scheme))


def quantize_(model: PreTrainedModel, config: QuantizeConfig) -> PreTrainedModel:
    """Put fake quantisers into a model, or turn one that has them into codes. Changes the model and returns it.

        quantize_(model, QuantizeConfig("w4a4kv4"))  # weights in full precision, computed as if quantised
        ...  # train it as any model
        quantize_(model, QuantizeConfig("w4a4kv4", step="convert"))
        model.save_pretrained("quantised")  # after `import ketune`, AutoModelForCausalLM.from_pretrained reads it

    The converted model computes what the prepared one does, to the last bit.

    Raises:
        QuantizationError: Nothing to quantise, groups that do not fill the rows, adapters in the way, or a model that
            was prepared with another scheme.
    """
    _refuse_adapters(model)
    prepared = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    if not prepared:
        prepare_(model, config)
    elif config.step == "prepare":
        raise QuantizationError("the model has fake quantisers already; load it anew to give it others")
    else:
        _check_scheme(prepared, config._scheme)
    if config.step == "convert":
        convert_(model)
    return model


def prepare_(model: nn.Module, config: QuantizeConfig) -> None:
    """The first step of `quantize_`, on any module; keys and values only on a `PreTrainedModel`."""
    scheme = config._scheme
    wanted = _selector(model, config.modules)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not isinstance(module, CodedLinear) and wanted(name)
    ]
    if (scheme.weights or scheme.activations) and not found:
        raise QuantizationError(f"modules={config.modules!r}: no linear layer of this model is meant by that")
    for name, module in found:  # all or nothing: groups are checked before any layer is replaced
        if scheme.weights is not None:
            _in_layer(name, scheme.weights.size_of_groups, module.weight.shape[0 if isinstance(module, Conv1D) else 1])
    if scheme.weights or scheme.activations:
        for name, module in found:
            replace_module(model, name, QuantizedLinear.from_linear(module, scheme))
    queries = scheme.activations if config.quantize_queries else None
    if scheme.kv is not None or queries is not None:
        if not isinstance(model, PreTrainedModel):
            raise QuantizationError("keys and values: only models of transformers can quantise them; leave kv out")
        add_kv_quantizers(model, scheme.kv, queries)


def convert_(model: PreTrainedModel) -> None:
    """The second step of `quantize_`: codes instead of weights, and what transformers needs to save and load them."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear) and module.weight_quantizer is not None:
            replace_module(model, name, CodedLinear.from_quantized(module))
    attach_quantizer(model)


def dequantize_(model: PreTrainedModel) -> PreTrainedModel:
    """Turn codes back into weights: the values that the codes stand for. Quantisers of inputs stay.

    Changes the model and returns it.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, CodedLinear):
            replace_module(model, name, module.to_quantized())
    detach_quantizer(model)
    return model


def _selector(model: nn.Module, modules: list[str] | str | None) -> Callable[[str], bool]:
    if isinstance(modules, str):
        return lambda name: re.fullmatch(modules, name) is not None
    if modules is not None:
        return lambda name: any(name == suffix or name.endswith("." + suffix) for suffix in modules)
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return lambda name: model.get_submodule(name) is not head


def _refuse_adapters(model: nn.Module) -> None:
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise QuantizationError(
            "the model carries adapters; quantize it before they are put on, or merge them first (merge_and_unload)"
        )


def _check_scheme(prepared: list[QuantizedLinear], scheme: QuantizationScheme) -> None:
    for layer in prepared:
        has = QuantizationScheme(
            layer.weight_quantizer and layer.weight_quantizer.scheme,
            layer.input_quantizer and layer.input_quantizer.scheme,
        )
        for part in ("weights", "activations"):
            mine, asked = getattr(has, part), getattr(scheme, part)
            if (mine is None) != (asked is None) or (mine is not None and mine.bits != asked.bits):
                raise QuantizationError(f"the model was prepared for {has}, not for {scheme}; convert it as it is")


def _in_layer(name: str, check: Callable[[int], Any], width: int) -> None:
    try:
        check(width)
    except QuantizationError as error:
        raise QuantizationError(f"{name}: {error}") from None

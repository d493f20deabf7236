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
from ketune.quantization.outliers import RULES, count_outliers
from ketune.quantization.range_search import RANGES, FixedClipping, search_ranges_
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
        range: Of each group of a weight, which is an output channel ("row-wise") unless the scheme has a group size.
            "minmax": all that it spans. "mse": the part with the least squared error, searched when the model is
            prepared.
        outliers: This share of the entries of each weight stays in full precision when the model is converted, as
            PreQuant does (arXiv 2306.00014); 0: none. 0.005 is its 0.5 %.
        outlier_rule: "error" keeps the entries farthest from their quantised values, "magnitude" the largest.

    Raises:
        QuantizationError: An unknown step, scheme, range or rule, a share out of range, or outliers of weights that
            stay as they are.
    """

    scheme: QuantizationScheme | str
    step: str = "prepare"
    modules: list[str] | str | None = None
    quantize_queries: bool = False
    range: str = "minmax"
    outliers: float = 0.0
    outlier_rule: str = "error"
    _scheme: QuantizationScheme = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, allowed in (("step", STEPS), ("range", RANGES), ("outlier_rule", RULES)):
            if (value := getattr(self, name)) not in allowed:
                raise QuantizationError(
                    f"QuantizeConfig({name}={value!r}): choose one of {', '.join(map(repr, allowed))}"
                )
        object.__setattr__(self, "_scheme", as_scheme(self.scheme))
        if not 0 <= self.outliers < 1:
            raise QuantizationError(f"QuantizeConfig(outliers={self.outliers!r}): must be a share, from 0 to below 1")
        for name, default in (("range", "minmax"), ("outliers", 0.0)):
            if (value := getattr(self, name)) != default and self._scheme.weights is None:
                raise QuantizationError(f"QuantizeConfig({name}={value!r}): the scheme leaves weights as they are")


def quantize_(model: PreTrainedModel, config: QuantizeConfig) -> PreTrainedModel:
    """Put fake quantisers into a model, or turn one that has them into codes. Changes the model and returns it.

        quantize_(model, QuantizeConfig("w4a4kv4"))  # weights in full precision, computed as if quantised
        ...  # train it as any model
        quantize_(model, QuantizeConfig("w4a4kv4", step="convert"))
        model.save_pretrained("quantised")  # after `import ketune`, AutoModelForCausalLM.from_pretrained reads it

    The converted model computes what the prepared one does, to the last bit; with outliers, which the prepared one does
    not know, it is nearer to the weights in full precision.

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
        _check_prepared(prepared, config)
    if config.step == "convert":
        convert_(model, config.outliers, config.outlier_rule)
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
    if config.range == "mse":
        search_ranges_(model)
    queries = scheme.activations if config.quantize_queries else None
    if scheme.kv is not None or queries is not None:
        if not isinstance(model, PreTrainedModel):
            raise QuantizationError("keys and values: only models of transformers can quantise them; leave kv out")
        add_kv_quantizers(model, scheme.kv, queries)


def convert_(model: PreTrainedModel, outliers: float = 0.0, outlier_rule: str = "error") -> None:
    """The second step of `quantize_`: codes instead of weights, and what transformers needs to save and load them."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear) and module.weight_quantizer is not None:
            kept = count_outliers(outliers, module.weight.numel()) if outliers else 0
            replace_module(model, name, CodedLinear.from_quantized(module, kept, outlier_rule))
        elif isinstance(module, QuantizedLinear):
            module.fold_rotations()
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


def _check_prepared(prepared: list[QuantizedLinear], config: QuantizeConfig) -> None:
    scheme = config._scheme
    for layer in prepared:
        if config.range == "mse" and not isinstance(getattr(layer.weight_quantizer, "clipping", None), FixedClipping):
            raise QuantizationError(
                "the model was prepared with other ranges than 'mse', and converting keeps them; leave range out, or "
                "call ketune.quantization.search_ranges_(model) first"
            )
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

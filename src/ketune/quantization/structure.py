"""What a quantised model is made of, as plain values, and a model without weights built that way."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ketune.quantization.attention import NAME, KVQuantizer, add_kv_quantizers, kv_quantizers
from ketune.quantization.coded_linear import CodedLinear
from ketune.quantization.hadamard import Rotation
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.modules import replace_module
from ketune.quantization.norm_fusing import fuse_structure, has_fused_norms
from ketune.quantization.schemes import QuantizationError, QuantizationScheme, TensorScheme
from ketune.quantization.shifted_norm import shift_norm_, shifted_norms


def describe_structure(model: PreTrainedModel) -> dict[str, Any]:
    """The arguments of `KetuneQuantizationConfig` for a model whose weights are codes."""
    kinds: list[dict[str, Any]] = []
    layers = {name: _number(kinds, _describe_layer(m)) for name, m in model.named_modules() if _is_ours(m)}
    attention = {name: _number(kinds, _describe_attention(m)) for name, m in kv_quantizers(model)}
    return {
        "kinds": kinds,
        "layers": layers,
        "attention": attention,
        "fused_norms": has_fused_norms(model),
        "shifted_norms": shifted_norms(model),
    }


def build_structure(model: PreTrainedModel, config: Any) -> None:
    """Give a model, usually one without weights, the modules that a quantised one has.

    Args:
        model: Changed in place.
        config: A `KetuneQuantizationConfig`, whose base class hides its fields from type checkers.
    """
    if config.fused_norms:
        fuse_structure(model)
    for name in config.shifted_norms:
        shift_norm_(model, name)
    modules = dict(model.named_modules())
    for name, number in config.layers.items():
        if name not in modules:
            raise QuantizationError(f"quantization_config names a layer {name!r} that this model does not have")
        replace_module(model, name, _build_layer(modules[name], config.kinds[number]))
    if config.attention:
        first = config.kinds[next(iter(config.attention.values()))]
        add_kv_quantizers(model, _scheme(first["kv"]), _scheme(first["queries"]))
        for name, number in config.attention.items():
            quantizer: Any = model.get_submodule(f"{name}.{NAME}")
            quantizer.rotation = _build_rotation(config.kinds[number]["rotation"])


def _number(kinds: list[dict[str, Any]], kind: dict[str, Any]) -> int:
    """The place of a description among those that differ; it joins them if it is new."""
    if kind not in kinds:
        kinds.append(kind)
    return kinds.index(kind)


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module, CodedLinear | QuantizedLinear)


def _describe_layer(layer: Any) -> dict[str, Any]:
    weights = layer.scheme if isinstance(layer, CodedLinear) else None
    inputs = layer.input_quantizer.scheme if layer.input_quantizer is not None else None
    rotation = layer.input_rotation if getattr(layer, "rotates_input", True) else None
    return {
        "scheme": QuantizationScheme(weights, inputs).to_dict(),
        "bias": layer.bias is not None,
        "n_outliers": layer.n_outliers if isinstance(layer, CodedLinear) else 0,
        "rotation": _describe_rotation(rotation),
    }


def _build_layer(linear: Any, description: dict[str, Any]) -> nn.Module:
    scheme = QuantizationScheme.from_dict(description["scheme"])
    transposed = not isinstance(linear, nn.Linear)  # Conv1D
    in_features, out_features = linear.weight.shape if transposed else linear.weight.shape[::-1]
    settings = {"scheme": scheme, "device": linear.weight.device, "dtype": linear.weight.dtype}
    shape = (in_features, out_features, description["bias"])
    if scheme.weights is None:
        layer = QuantizedLinear(*shape, **settings)
    else:
        layer = CodedLinear(*shape, n_outliers=description["n_outliers"], **settings)
    layer.input_rotation = _build_rotation(description["rotation"])
    return layer.requires_grad_(False)


def _describe_attention(quantizer: KVQuantizer) -> dict[str, Any]:
    kv, queries = quantizer.key_quantizer, quantizer.query_quantizer
    return {
        "kv": None if kv is None else asdict(kv.scheme),
        "queries": None if queries is None else asdict(queries.scheme),
        "rotation": _describe_rotation(quantizer.rotation),
    }


def _scheme(values: dict[str, Any] | None) -> TensorScheme | None:
    return None if values is None else TensorScheme(**values)


def _describe_rotation(rotation: Any) -> dict[str, Any] | None:
    return None if rotation is None else rotation.settings()


def _build_rotation(settings: dict[str, Any] | None) -> nn.Module | None:
    return None if settings is None else Rotation(**settings)

"""Quantised keys and values: what happens between the projections of an attention layer and the attention itself.

Keys are quantised after their rotary embedding, token by token and head by head, which is what a quantised cache holds
(R3 of RoSTE, arXiv 2502.09003, turns queries and keys first). Attention modules of transformers call one function for
the attention; we put ours before it. GPT-Neo has a method of its own instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from ketune.quantization.fake_quantize import FakeQuantizer
from ketune.quantization.schemes import QuantizationError, TensorScheme

NAME = "kv_quantizer"
"""Of the module inside an attention layer."""
_PREFIX = "ketune_"


class KVQuantizer(nn.Module):
    """Fake-quantises keys and values, and queries where asked for.

    Args:
        kv: How keys and values are quantised, each head of each token a row; None leaves them.
        queries: The same for queries, as ZeroQAT does with the scheme of the activations.

    Attributes:
        rotation: Turns queries and keys alike before they are quantised, which leaves their products as they are.
    """

    def __init__(self, kv: TensorScheme | None, queries: TensorScheme | None = None) -> None:
        super().__init__()
        self.key_quantizer = FakeQuantizer(kv) if kv is not None else None
        self.value_quantizer = FakeQuantizer(kv) if kv is not None else None
        self.query_quantizer = FakeQuantizer(queries) if queries is not None else None
        self.rotation: nn.Module | None = None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(batch, heads, tokens, head width) each, keys and values with their own number of heads."""
        if self.rotation is not None:
            query, key = self.rotation(query), self.rotation(key)
        parts = ((self.query_quantizer, query), (self.key_quantizer, key), (self.value_quantizer, value))
        query, key, value = (x if quantizer is None else quantizer(x) for quantizer, x in parts)
        return query, key, value


class _QuantizedGPTNeoAttention(GPTNeoSelfAttention):
    """GPT-Neo's attention, whose keys and values go through its `kv_quantizer`."""

    def _attn(self, query: Any, key: Any, value: Any, attention_mask: Any = None) -> Any:
        quantizer: Any = getattr(self, NAME)
        query, key, value = quantizer(query, key, value)
        return super()._attn(query, key, value, attention_mask)


def add_kv_quantizers(model: PreTrainedModel, kv: TensorScheme | None, queries: TensorScheme | None = None) -> None:
    """Give every attention layer of a model a `KVQuantizer`; changes the model.

    Raises:
        QuantizationError: Where no attention layer is found, or one calls its attention in a way of its own.
    """
    layers = list(attention_layers(model))
    if not layers:
        raise QuantizationError(
            f"{type(model).__name__}: no attention layer found whose keys and values could be quantised; leave kv out "
            "of the bits"
        )
    for layer in layers:
        setattr(layer, NAME, KVQuantizer(kv, queries))
        if isinstance(layer, GPTNeoSelfAttention):
            if type(layer) not in (GPTNeoSelfAttention, _QuantizedGPTNeoAttention):
                raise QuantizationError(
                    f"{type(layer).__name__}: quantised keys and values need attn_implementation='eager' on GPT-Neo"
                )
            layer.__class__ = _QuantizedGPTNeoAttention
    if any(not isinstance(layer, GPTNeoSelfAttention) for layer in layers):
        inner = str(model.config._attn_implementation or "sdpa").removeprefix(_PREFIX)
        model.set_attn_implementation(_register("sdpa" if inner == "eager" else inner))


def attention_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that hand queries, keys and values to the attention."""
    for module in model.modules():
        calls_interface = type(module).__name__.endswith("Attention") and hasattr(module, "layer_idx")
        if calls_interface or isinstance(module, GPTNeoSelfAttention):
            yield module


def kv_quantizers(model: nn.Module) -> Iterator[tuple[str, KVQuantizer]]:
    """The `KVQuantizer`s of a model, by the names of their attention layers."""
    for name, module in model.named_modules():
        if isinstance(module, KVQuantizer):
            yield name.removesuffix("." + NAME), module


def _register(inner: str) -> str:
    """The name under which transformers finds an attention with our quantisers before it."""
    name = _PREFIX + inner
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, partial(_attend, inner))
        if inner in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys():
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[inner])
    return name


def _attend(
    inner: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    quantizer: Any = getattr(module, NAME, None)
    if quantizer is not None:
        query, key, value = quantizer(query, key, value)
    attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[inner]
    return attend(module, query, key, value, *args, **kwargs)

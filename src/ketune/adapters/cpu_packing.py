"""Weights of bitsandbytes that its fast CPU kernel has turned into another layout: read right, and put back in time.

On a CPU with AVX512-BF16 a `Linear4bit` in evaluation mode rewrites its own weight on the first forward pass whose
input has no gradient (bitsandbytes 0.50): codes in blocks of 32 rows, steps transposed and rounded to bfloat16. The
layer keeps that layout and says so in `weight.quant_state.packing_format_for_cpu`. What goes wrong from then on:

- `dequantize_4bit` does not look there. What it gives is unrelated to the weight (relative error 1.4), and so is what
  PEFT merges and what DoRA computes.
- Training goes on through the kernel, which has no backward pass: gradients end at the layer.
- `state_dict()` puts the layout back, but leaves steps transposed that are not quantised themselves
  (`compress_statistics=False`).
- Rows that are no whole blocks (64 values), or no multiple of 32, end in an error.

Here everything goes by codes and steps as they lie there, so what is read is what the layer computes with: the weight
up to the rounding of its steps, at most 2^-9 of each value, which nothing undoes. Layers may pack where that is sound,
because generation is up to ten times as fast then.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

_ROWS = 32
"""Of a block in the kernel's layout."""
_MAY_PACK = "support_avx512bf16_for_cpu"
"""The attribute by which bitsandbytes decides whether a layer packs its weight."""


def is_packed(layer: object) -> bool:
    """Whether a layer is a `Linear4bit` whose weight has the layout of the CPU kernel."""
    # Not `layer.weight`, which other layers compute when it is asked for.
    weight = layer._parameters.get("weight") if isinstance(layer, nn.Linear) else None
    return bool(getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False))


def packed_weight(layer: nn.Module) -> torch.Tensor:
    """The weight (out_features, in_features) of a layer that `is_packed`, in its dtype; the layer stays as it is."""
    from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

    return dequantize_4bit(*_unpacked(layer.weight))


def unpack_(model: nn.Module) -> nn.Module:
    """Give every packed layer of a model the layout that all of bitsandbytes and PEFT read; changes it and returns it.

    Call it before PEFT's own adapters are merged, and before `state_dict()`. The next forward pass in evaluation mode
    packs the layers again.
    """
    for layer in model.modules():
        if is_packed(layer):
            _unpack_layer(layer)
    return model


def guard_packing_(model: nn.Module) -> nn.Module:
    """Let no layer of a model pack its weight where that would break something; changes the model and returns it.

    Layers that fit the kernel may pack, and unpack when gradients have to pass through them. Never packed are those
    that do not fit, and those under adapters of PEFT's that may read the weight: all but plain LoRA. Call it again for
    a model that has got an adapter.
    """
    for module in model.modules():
        if _may_read(module):
            base: Any = module.get_base_layer()  # pyright: ignore[reportCallIssue]
            if is_packed(base):
                _unpack_layer(base)
            if hasattr(base, _MAY_PACK):
                setattr(base, _MAY_PACK, False)
        if not isinstance(module, nn.Linear) or not getattr(module, _MAY_PACK, False):
            continue
        blocksize: Any = getattr(module.weight, "blocksize")  # noqa: B009  of bitsandbytes' parameter
        if module.in_features % blocksize or module.out_features % _ROWS:
            setattr(module, _MAY_PACK, False)
        elif _unpack_for_gradients not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_unpack_for_gradients)
    return model


def restore_weight(layer: Any, weight: Any, device: torch.device) -> None:
    """Give a `Linear4bit` a weight back that it had before, codes and steps, and not quantised a second time."""
    weight.bnb_quantized = True  # PEFT says otherwise while it makes the next one
    layer.weight, layer.quant_state = weight, weight.quant_state
    if weight.device != device:
        if is_packed(layer):
            _unpack_layer(layer)
        layer.weight = weight.to(device)
        layer.quant_state = layer.weight.quant_state


def _may_read(module: nn.Module) -> bool:
    """Whether a module is an adapter of PEFT's own that may compute with the weight of the layer it stands on."""
    if not isinstance(module, BaseTunerLayer) or hasattr(module, "plain_weight"):  # ours ask `packed_weight`
        return False
    return not isinstance(module, LoraLayer) or bool(module.lora_variant)


def _unpack_for_gradients(layer: nn.Module, given: tuple[Any, ...]) -> None:
    if is_packed(layer) and torch.is_grad_enabled() and given and given[0].requires_grad:
        _unpack_layer(layer)


def _unpack_layer(layer: Any) -> None:
    layer.weight.data, layer.weight.quant_state = _unpacked(layer.weight)
    layer.quant_state = layer.weight.quant_state


def _unpacked(weight: Any) -> tuple[torch.Tensor, Any]:
    """Codes and state as `quantize_4bit` gives them, the steps in float32 and not quantised themselves."""
    from bitsandbytes.functional import (  # pyright: ignore[reportMissingImports]
        _convert_weight_packed_for_cpu_inverse,
    )

    state = copy.copy(weight.quant_state)
    steps = state.absmax.T.reshape(-1).float()
    state.original_nested = False  # what follows would quantise the steps once more, or leave them transposed
    codes, state = _convert_weight_packed_for_cpu_inverse(weight.data, state)
    state.absmax = steps
    return codes, state

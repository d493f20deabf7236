"""What a layer of a model is given for a text: vectors to load."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ketune.errors import KetuneError
from ketune.finetuning.base import load_base


class LayerError(KetuneError, ValueError):
    """A layer that the model does not have, or a text without tokens."""


def layer_vectors(
    model: str | Path,
    layer: str,
    text: str,
    *,
    max_length: int | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Tensor:
    """The inputs of one layer, one row for each token of a text.

    Args:
        model: as `load_base`.
        layer: its name, as in `model.named_modules()`, or the end of it where that tells it from all others.
        text: what the model reads.
        max_length: at most so many tokens.
        device: where the model runs.
        trust_remote_code: as `load_base`.

    Returns:
        (n_tokens, width) float32.

    Raises:
        LayerError: for a layer that is not there or not the only one of that name, or a text without tokens.
    """
    base, tokenizer = load_base(model, "float32", device, trust_remote_code=trust_remote_code)
    found = _layer(base, layer)
    ids = tokenizer(text, return_tensors="pt", truncation=max_length is not None, max_length=max_length)["input_ids"]
    if not ids.numel():
        raise LayerError(f"text={text!r}: the tokenizer makes no token of it; pass some words")
    seen: list[Tensor] = []
    handle = found.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    try:
        with torch.no_grad():
            base(input_ids=ids.to(base.device))
    finally:
        handle.remove()
    if not seen or not seen[0].is_floating_point():
        raise LayerError(f"layer {layer!r} is given no vectors; choose a projection, such as the q_proj of a block")
    return seen[0].flatten(0, -2).float().cpu()


def _layer(model: nn.Module, layer: str) -> nn.Module:
    modules = dict(model.named_modules())
    if layer in modules and layer:
        return modules[layer]
    ends = [name for name in modules if name.endswith(f".{layer}")]
    if len(ends) == 1:
        return modules[ends[0]]
    linear = [name for name, module in modules.items() if hasattr(module, "weight") and name]
    shown = ", ".join((ends or linear)[:8])
    reason = f"{len(ends)} layers end so" if ends else "the model has no such layer"
    raise LayerError(f"layer {layer!r}: {reason}; choose one of {shown}, ...")

"""From a sparse gate to a smaller adapter: SoRA becomes a plain LoRA that needs no Ketune to load."""

from __future__ import annotations

import re
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from ketune.adapters.base import AdapterLayer
from ketune.adapters.config import ConfigError
from ketune.adapters.sora import SoraConfig, SoraUpdate


def prune(model: PeftModel, adapter_name: str = "default") -> PeftModel:
    """Drop the ranks whose gate is zero and return the same function as a plain LoRA adapter.

    Row i of A and column i of B go where gate i is zero; the other gates are folded into B. The scale stays
    `alpha / r` with the r before pruning, so outputs do not change. Layers without any rank left lose their adapter.

    Args:
        model: a model with a SoRA adapter; the adapter is removed from it (its base model is taken over).
        adapter_name: which adapter; the LoRA adapter gets the same name.

    Returns:
        The base model with a LoRA adapter, one rank per layer; `save_pretrained` gives files that PEFT alone loads.

    Raises:
        ConfigError: when the adapter is not SoRA, the base model's biases train with it, it adapts parameters without
            a layer, it is one of several, or no gate is left.
    """
    config = model.peft_config.get(adapter_name)
    if not isinstance(config, SoraConfig):
        raise ConfigError(
            f"prune(adapter_name={adapter_name!r}): needs a SoRA adapter, this is {type(config).__name__}"
        )
    if len(model.peft_config) > 1:
        raise ConfigError(f"prune: the model has the adapters {sorted(model.peft_config)}; delete the others first")
    if config.bias != "none":
        raise ConfigError(f"prune: bias={config.bias!r} changes the base model, which a LoRA adapter would not carry")
    if config.target_parameters:
        raise ConfigError(
            f"prune: target_parameters={config.target_parameters} has ranks that differ from expert to expert, which "
            "no LoRA adapter can hold; merge the adapter instead"
        )
    inner: Any = model.base_model
    updates: dict[str, SoraUpdate] = {}
    for name, layer in inner.model.named_modules():
        if isinstance(layer, AdapterLayer) and isinstance(layer.updates[adapter_name], SoraUpdate):
            updates[name] = layer.updates[adapter_name]  # pyright: ignore[reportArgumentType]
    ranks = {name: int(torch.count_nonzero(update.gate)) for name, update in updates.items()}
    kept = {name: rank for name, rank in ranks.items() if rank}
    if not kept:
        raise ConfigError("prune: every gate is zero, nothing would be left; train with a smaller sparse_lambda")
    scale = config.alpha / config.r
    lora_config = LoraConfig(
        task_type=config.task_type,
        r=max(kept.values()),
        lora_alpha=1,
        # One number per layer, matched as a whole name: alpha / rank must stay the scale from before pruning.
        rank_pattern={f"^{re.escape(name)}$": rank for name, rank in kept.items()},
        alpha_pattern={f"^{re.escape(name)}$": scale * rank for name, rank in kept.items()},
        target_modules="|".join(re.escape(name) for name in kept),
        modules_to_save=config.modules_to_save,
        lora_dropout=config.dropout,
        base_model_name_or_path=config.base_model_name_or_path,
    )
    saved = {n: w.modules_to_save[adapter_name].state_dict() for n, w in _saved_modules(inner.model).items()}
    pruned = get_peft_model(model.unload(), lora_config, adapter_name=adapter_name)
    layers: Any = pruned.base_model
    with torch.no_grad():
        for name in kept:
            update, layer = updates[name], layers.model.get_submodule(name)
            alive = update.gate != 0
            layer.lora_A[adapter_name].weight.copy_(update.a[alive])
            layer.lora_B[adapter_name].weight.copy_(update.b[:, alive] * update.gate[alive])
    for name, wrapper in _saved_modules(layers.model).items():
        wrapper.modules_to_save[adapter_name].load_state_dict(saved[name])
    return pruned


def _saved_modules(model: torch.nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "modules_to_save")}

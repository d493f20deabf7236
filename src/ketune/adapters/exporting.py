"""From a generated adapter to a plain one: files that PEFT alone loads, without Ketune."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from ketune.adapters.adapter_layer import AdapterLayer
from ketune.adapters.config import ConfigError
from ketune.adapters.generated import DirectionAndMagnitude
from ketune.adapters.qpa import QPAConfig, QPAUpdate
from ketune.adapters.qpa_prefix import QPAPrefixConfig


def export_plain(model: PeftModel, folder: str | Path, adapter_name: str = "default") -> Path:
    """Writes what a QPA adapter generates as an adapter of PEFT's own kind: LoRA, DoRA or prefix tuning.

    The outputs are the same up to rounding, and nothing of the generator is needed any more: the folder loads where
    Ketune is not installed. Modules trained in full (`modules_to_save`) go along.

    Args:
        model: a model with a QPA adapter; it is left as it is.
        folder: where `adapter_config.json` and `adapter_model.safetensors` go; made when it is not there.
        adapter_name: which adapter.

    Returns:
        The folder.

    Raises:
        ConfigError: for an adapter that is not QPA, a weighted sum, biases that train along, `target_parameters`, or
            `target="adapter"`, which PEFT has no counterpart of.
    """
    config = model.peft_config.get(adapter_name)
    if isinstance(config, QPAPrefixConfig):
        plain, tensors = _prefix(model, config, adapter_name)
    elif isinstance(config, QPAConfig):
        plain, tensors = _lora(model, config, adapter_name)
    else:
        raise ConfigError(
            f"export_plain(adapter_name={adapter_name!r}): needs a QPA adapter, this is {type(config).__name__}; "
            "merge_and_unload folds an adapter into its model, prune makes a LoRA adapter of SoRA"
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    plain.inference_mode = True
    plain.save_pretrained(str(target))
    staged = target / "adapter_model.safetensors.tmp"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, staged)
    staged.replace(target / "adapter_model.safetensors")
    return target


@torch.no_grad()
def _lora(model: PeftModel, config: QPAConfig, adapter_name: str) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    if config.combined:
        raise ConfigError("export_plain: a weighted sum of adapters is no single LoRA; merge it instead")
    if config.target == "adapter":
        raise ConfigError("export_plain: target='adapter' is a bottleneck on the output, which PEFT has no adapter for")
    if config.bias != "none":
        raise ConfigError(f"export_plain: bias={config.bias!r} changes the base model's biases; train with bias='none'")
    if config.target_parameters:
        raise ConfigError("export_plain: target_parameters has no plain counterpart; merge the adapter instead")
    inner: Any = model.base_model
    prefix = "base_model.model."
    layers = {
        name: layer
        for name, layer in inner.model.named_modules()
        if isinstance(layer, AdapterLayer) and adapter_name in layer.updates
    }
    tensors = {
        name: tensor
        for name, tensor in get_peft_model_state_dict(model, adapter_name=adapter_name).items()
        if not name.startswith("base_model.qpa_shared.")
    }
    for name, layer in layers.items():
        update = cast(QPAUpdate, layer.update_of(adapter_name))
        now, moved = update.vectors(layer.plain_weight().device)
        up, down = update.target.factors(now, moved)
        tensors[f"{prefix}{name}.lora_A.weight"] = down
        tensors[f"{prefix}{name}.lora_B.weight"] = up
        if isinstance(update.target, DirectionAndMagnitude):
            gain, norm = update.target.gain(up, down, moved, layer.plain_weight())
            tensors[f"{prefix}{name}.lora_magnitude_vector"] = gain * norm
    plain = LoraConfig(
        task_type=config.task_type,
        r=config.r,
        lora_alpha=config.r,  # the scale is in lora_B already
        lora_dropout=config.dropout,
        use_dora=config.target == "dora",
        target_modules="|".join(re.escape(name) for name in layers),
        fan_in_fan_out=all(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        modules_to_save=list(config.modules_to_save) if config.modules_to_save else None,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
    )
    return plain, tensors


@torch.no_grad()
def _prefix(model: PeftModel, config: QPAPrefixConfig, adapter_name: str) -> tuple[PeftConfig, dict[str, torch.Tensor]]:
    encoder: Any = cast(nn.ModuleDict, model.prompt_encoder)[adapter_name]
    tensors = get_peft_model_state_dict(model, adapter_name=adapter_name)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(encoder.SAVED)}
    plain = PrefixTuningConfig(
        task_type=config.task_type,
        num_virtual_tokens=config.num_virtual_tokens,
        token_dim=config.token_dim,
        num_transformer_submodules=config.num_transformer_submodules,
        num_attention_heads=config.num_attention_heads,
        num_layers=config.num_layers,
        modules_to_save=config.modules_to_save,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
    )
    return plain, {**kept, "prompt_embeddings": encoder.embedding.weight.float()}

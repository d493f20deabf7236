"""One adapter in the place of another while a model serves: the same tensors get other values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, load_peft_weights
from peft.utils.hotswap import check_hotswap_configs_compatible, hotswap_adapter
from torch import Tensor, nn

from ketune.adapters.combining import make_shared
from ketune.adapters.config import AdapterConfig, ConfigError
from ketune.adapters.fields import plain_values
from ketune.adapters.loading import read_config
from ketune.adapters.qpa_prefix import GeneratedPrefix, QPAPrefixConfig, QPAPrefixEncoder
from ketune.adapters.tuner import AdapterTuner

_BOOKKEEPING = (
    *("peft_type", "task_type", "auto_mapping", "peft_version", "inference_mode"),
    *("base_model_name_or_path", "revision", "tokenizer_name_or_path"),
    "dropout",  # the model keeps its own, for which its modules were made
)
_SEED = "seed"


@torch.no_grad()
def hotswap(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> None:
    """Puts a saved adapter in the place of one that is loaded, without a new tensor or module.

    All that the file holds is copied into the tensors that are there: parameters, frames and frozen angles, parts that
    layers share, modules trained in full. What is made from a seed (starts of QuanTA, Quantum-PEFT, QPA) is made again
    where the seeds differ. So `torch.compile` does not compile again, and CUDA graphs stay valid.

    Everything is checked before anything changes. Plain values such as `scale` or `alpha` are constants of the layers
    that stand there, and of what was compiled, so that another value is refused. Fields of training alone
    (`init_weights`, SoRA's penalty, how Compass found its frames) are taken over into the config; the dropout stays
    that of the model. Do not swap while a forward pass runs in another thread.

    LoRA goes to `peft.utils.hotswap.hotswap_adapter`, with what PEFT refuses there (other targets, `use_rslora`, ...);
    see `prepare_model_for_compiled_hotswap` for ranks and scales that differ.

    Args:
        model: a model with the adapter, compiled or not.
        folder: what `save_pretrained` wrote, or a hub id.
        adapter_name: the adapter to replace; it keeps its name.

    Raises:
        KetuneError: when the folder holds no adapter.
        ConfigError: when the two do not fit together (method, fields, shapes, modules), naming what differs, or the
            adapter is merged or not there. The model is as it was.
    """
    inner: Any = getattr(model, "_orig_mod", model)
    if not isinstance(inner, PeftModel) or adapter_name not in inner.peft_config:
        known = sorted(inner.peft_config) if isinstance(inner, PeftModel) else "no adapter at all"
        raise ConfigError(f"hotswap(adapter_name={adapter_name!r}): no such adapter; the model has {known}")
    now, new = inner.peft_config[adapter_name], read_config(folder)
    if type(now) is not type(new):
        raise ConfigError(
            f"hotswap({str(folder)!r}): is {type(new).__name__}, and adapter {adapter_name!r} is {type(now).__name__}; "
            "only adapters of one method take each other's place"
        )
    _check_unmerged(inner, adapter_name)
    if isinstance(now, LoraConfig):
        _hotswap_lora(model, inner, folder, adapter_name, cast(LoraConfig, new))
        return
    if not isinstance(now, AdapterConfig | QPAPrefixConfig):
        raise ConfigError(f"hotswap: {type(now).__name__} cannot be swapped; Ketune's methods and PEFT's LoRA can")

    taken_over = _check_fields(now, new, folder)
    pairs = _saved_pairs(inner, now, folder, adapter_name)
    if _SEED in taken_over:
        pairs += _seeded_pairs(inner, new, adapter_name)
    for here, there in pairs:
        here.copy_(there)
    for name in taken_over:
        setattr(now, name, getattr(new, name))


def _check_unmerged(model: PeftModel, adapter_name: str) -> None:
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and adapter_name in module.merged_adapters:
            raise ConfigError(
                f"hotswap: adapter {adapter_name!r} is merged into the weights; call unmerge_adapter() first"
            )


def _hotswap_lora(model: Any, inner: PeftModel, folder: str | Path, adapter_name: str, new: LoraConfig) -> None:
    now = cast(LoraConfig, inner.peft_config[adapter_name])
    for config in (now, new):
        if config.modules_to_save:
            raise ConfigError(
                f"hotswap: LoraConfig(modules_to_save={sorted(config.modules_to_save)}): "
                "PEFT swaps LoRA factors only; load the adapter under another name and set_adapter instead"
            )
    try:
        check_hotswap_configs_compatible(now, new)  # PEFT itself looks at the active adapter, whichever that is
        hotswap_adapter(model, str(folder), adapter_name, torch_device="cpu")
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"hotswap({str(folder)!r}): {error}") from error
    if (now.r, now.rank_pattern) == (new.r, new.rank_pattern):
        now.lora_alpha = new.lora_alpha  # PEFT changes the layers' scale alone, and would save the old one


def _check_fields(now: PeftConfig, new: PeftConfig, folder: str | Path) -> list[str]:
    """The fields whose new value can be taken over; any other that differs is refused."""
    free = (_SEED, *getattr(now, "start_fields", ()))
    before, after = now.to_dict(), new.to_dict()
    differ = [
        field.name
        for field in fields(now)
        if field.name not in _BOOKKEEPING
        and plain_values(before.get(field.name)) != plain_values(after.get(field.name))
    ]
    fixed = [f"{name} is {after[name]!r} there and {before[name]!r} here" for name in differ if name not in free]
    if fixed:
        raise ConfigError(
            f"hotswap({str(folder)!r}): {'; '.join(fixed)}. These are built into the loaded layers; load the adapter "
            "under another name (model.load_adapter) and call set_adapter"
        )
    return differ


# ----------------------------------------------------------------------------------------------------------- tensors

_Pairs = list[tuple[Tensor, Tensor]]


def _saved_pairs(model: PeftModel, config: PeftConfig, folder: str | Path, adapter_name: str) -> _Pairs:
    """Tensors of the model, and what the file has for them."""
    if isinstance(config, QPAPrefixConfig):  # what PEFT would save of it are copies
        here = {QPAPrefixEncoder.SAVED + key: t for key, t in _prefix(model, adapter_name).bank.state_dict().items()}
        here |= _saved_modules(model, adapter_name)
    else:
        here = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    here = {key.replace("_orig_mod.", ""): tensor for key, tensor in here.items()}  # of modules compiled one by one
    there = load_peft_weights(str(folder), device="cpu")
    for words, keys in (("lacks", here.keys() - there.keys()), ("also has", there.keys() - here.keys())):
        if keys:
            some = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            raise ConfigError(f"hotswap({str(folder)!r}): {words} {len(keys)} of the tensors of this adapter: {some}")
    for key, tensor in here.items():
        if tensor.shape != there[key].shape:
            raise ConfigError(
                f"hotswap({str(folder)!r}): {key} has shape {tuple(there[key].shape)} there and "
                f"{tuple(tensor.shape)} here"
            )
    return [(tensor, there[key]) for key, tensor in here.items()]


def _prefix(model: PeftModel, adapter_name: str) -> GeneratedPrefix:
    encoder: Any = cast(nn.ModuleDict, model.prompt_encoder)[adapter_name]
    return encoder.embedding


def _saved_modules(model: PeftModel, adapter_name: str) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        if isinstance(kept := getattr(module, "modules_to_save", None), nn.ModuleDict) and adapter_name in kept
        for key, tensor in kept[adapter_name].state_dict().items()
    }


def _seeded_pairs(model: PeftModel, config: PeftConfig, adapter_name: str) -> _Pairs:
    """Buffers that a seed makes and no file holds, and the same made by the new config."""
    pairs: _Pairs = []
    # Serving draws random numbers too; making modules must not change which.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for here, there in _twins(model, config, adapter_name):
            fresh = dict(there.named_buffers())
            saved = here.state_dict().keys()
            pairs += [(tensor, fresh[name]) for name, tensor in here.named_buffers() if name not in saved]
    return pairs


def _twins(model: PeftModel, config: PeftConfig, adapter_name: str) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each module of the adapter, and one made like it by the new config."""
    if isinstance(config, QPAPrefixConfig):
        yield _prefix(model, adapter_name), GeneratedPrefix(config)
        return
    assert isinstance(config, AdapterConfig)
    tuner = cast(AdapterTuner, model.base_model)
    for name, layer in tuner.adapted_layers(adapter_name):
        yield layer.update_of(adapter_name), layer._make_update(config.for_module(layer.key(name)))
    shared = make_shared(config, tuner.places(adapter_name))
    if shared is not None:
        yield tuner.shared_parts()[adapter_name], shared

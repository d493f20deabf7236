"""Any adapter that is a change of weights as a plain LoRA, for servers that know nothing else, and what that costs."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.miss import MissLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ketune.adapters.adapter_layer import AdapterLayer
from ketune.adapters.config import ConfigError
from ketune.adapters.new_folder import free_folder, write_folder
from ketune.adapters.qpa_prefix import QPAPrefixConfig
from ketune.adapters.truncation import decompose, decompose_product, needed_rank, squared_error, thin_factors

_INNER = "base_model.model."
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class ConvertedLora:
    """A LoRA adapter that was written, and how far it is from the adapter it came from.

    Attributes:
        folder: where it lies.
        ranks: rows of `lora_A` by the module's name in the base model.
        errors: `|delta - B A|_F / |delta|_F` of each module, with the factors as they are in the file; zero for a
            module whose change is zero.
        error: the same over all modules together.
        n_parameters: numbers in all factors.
    """

    folder: Path
    ranks: dict[str, int]
    errors: dict[str, float]
    error: float
    n_parameters: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "folder": str(self.folder)}


@torch.no_grad()
def to_lora(
    model: PeftModel,
    folder: str | Path,
    rank: int | float | None = None,
    adapter_name: str = "default",
    *,
    dtype: torch.dtype = torch.float32,
) -> ConvertedLora:
    """Writes the best plain LoRA for an adapter that is linear in x; PEFT loads it without Ketune, and so do servers.

    Each module's change of weight is cut to its largest singular values, the best approximation of a rank that there
    is (Eckart and Young 1936). Changes of a low rank (Compass, Quantum-PEFT, SoRA, QPA, QTHA) stay exact, and need no
    singular values of a large matrix. The scale is in the factors: `lora_alpha` equals `r`, everywhere. Modules trained
    in full go along; vLLM refuses a folder with them.

    PEFT has `peft.convert_to_lora` for its own methods. This one reports the error, finds the rank of an exact
    conversion, takes modules trained in full along for the right adapter, and keeps the task type and what the adapter
    left out, so that the folder loads as it is.

    Args:
        model: a model with the adapter; it is left as it is.
        folder: a folder that does not stand yet, or is empty; it appears whole or not at all.
        rank: None for the smallest rank of each module whose error is below 1e-5; a whole number for the same rank in
            every module (narrower ones are filled up with zeros), which is what servers reserve memory for; a float in
            (0, 1] for the smallest rank of each module that keeps this share of its squared singular values.
        adapter_name: which adapter.
        dtype: of the factors in the file. float32 by default, whatever the model's: PEFT keeps adapters in it, servers
            round to their own dtype on loading, and half precision alone costs an error of about 2e-3 (bfloat16).
            Computed in float64 always.

    Returns:
        The folder, the rank and error of each module, and the error of all.

    Raises:
        ConfigError: for an adapter that is not there or has no counterpart (prefix and prompt methods, updates that
            are not linear in x, trained biases, layers that are not linear), a rank or dtype out of range, and values
            that are not finite.
        KetuneError: when something stands in the folder already.

    Example:
        >>> import torch, ketune
        >>> from peft import get_peft_model
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
        >>> config = ketune.QuantumPeftConfig(target_modules=["0", "1"], rank=2, init_weights=False)
        >>> converted = ketune.to_lora(get_peft_model(net, config), "as-lora")
        >>> converted.ranks, converted.error < 1e-5
        ({'0': 2, '1': 2}, True)
    """
    config = _config_of(model, adapter_name)
    if dtype not in _DTYPES:
        raise ConfigError(f"to_lora(dtype={dtype}): choose one of {', '.join(map(str, _DTYPES))}")
    layers = _linear_layers(model, config, adapter_name)
    _check_rank(rank, layers)
    target = free_folder(folder)

    tensors = _other_tensors(model, config, adapter_name, layers)
    ranks, errors, n_parameters, lost, total = {}, {}, 0, 0.0, 0.0
    for name, layer in layers.items():
        delta = _delta(layer, adapter_name)
        if not torch.isfinite(delta).all():
            raise ConfigError(f"to_lora: the update of {name} holds values that are not finite; the adapter is broken")
        svd = _decompose(layer, adapter_name, delta)
        keep = rank if isinstance(rank, int) else needed_rank(svd[1], rank)
        up, down = (factor.to(dtype) for factor in thin_factors(svd, keep))
        if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
            raise ConfigError(f"to_lora(dtype={dtype}): the factors of {name} are too large for it; use torch.float32")
        missed, square = squared_error(delta.to(up.device), up, down)
        ranks[name], errors[name] = keep, math.sqrt(missed / square) if square else 0.0
        n_parameters, lost, total = n_parameters + up.numel() + down.numel(), lost + missed, total + square
        tensors[f"{_INNER}{name}.lora_A.weight"] = down
        tensors[f"{_INNER}{name}.lora_B.weight"] = up

    plain = _lora_config(model, config, layers, ranks)

    def write(place: Path) -> None:
        plain.save_pretrained(str(place))
        # Clones, because safetensors refuses tensors that share memory, as a row of a larger one does.
        whole = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in tensors.items()}
        save_file(whole, place / "adapter_model.safetensors", metadata={"format": "pt"})

    write_folder(target, write)
    return ConvertedLora(target, ranks, errors, math.sqrt(lost / total) if total else 0.0, n_parameters)


# --------------------------------------------------------------------------------------------------------- refusals


def _config_of(model: PeftModel, adapter_name: str) -> PeftConfig:
    config = model.peft_config.get(adapter_name)
    if config is None:
        raise ConfigError(
            f"to_lora(adapter_name={adapter_name!r}): no such adapter; the model has {sorted(model.peft_config)}"
        )
    kind = type(config).__name__
    if config.is_prompt_learning:
        hint = "; export_plain writes it as plain prefix tuning" if isinstance(config, QPAPrefixConfig) else ""
        raise ConfigError(
            f"to_lora: {kind} trains vectors beside the text, which no change of weights stands for{hint}"
        )
    for field in ("bias", "lora_bias"):
        value = getattr(config, field, None)
        if value not in (None, False, "none"):
            raise ConfigError(f"to_lora: {kind}({field}={value!r}) trains biases, which servers of LoRA do not read")
    for field in ("target_parameters", "trainable_token_indices"):
        if getattr(config, field, None):
            raise ConfigError(f"to_lora: {kind}({field}=...) trains more than linear layers, nothing is written")
    return config


def _linear_layers(model: PeftModel, config: PeftConfig, adapter_name: str) -> dict[str, BaseTunerLayer]:
    """The layers that carry the adapter, by their names in the base model; all of them can become LoRA."""
    inner: Any = model.base_model
    found: dict[str, BaseTunerLayer] = {}
    for name, layer in inner.model.named_modules():
        if isinstance(layer, BaseTunerLayer) and adapter_name in layer._get_available_adapters():
            reason = _why_not(layer, adapter_name)
            if reason:
                raise ConfigError(f"to_lora: {name} cannot become LoRA: {reason}")
            found[name] = layer
    if not found:
        raise ConfigError(f"to_lora: no layer of the model carries the adapter {adapter_name!r}")
    return found


def _why_not(layer: BaseTunerLayer, adapter_name: str) -> str | None:
    if isinstance(layer, AdapterLayer):
        return layer.why_not_lora(adapter_name)
    kind = type(layer).__name__
    if isinstance(layer.get_base_layer(), nn.Embedding | nn.modules.conv._ConvNd):
        return f"it is a {type(layer.get_base_layer()).__name__}, and only linear layers can"
    variant = layer.lora_variant.get(adapter_name) if isinstance(layer, LoraLayer) else None
    if variant is not None:  # PEFT's own conversion takes B A alone and loses DoRA's magnitudes, say
        return f"{type(variant).__name__} is more than a product of two factors; merge it instead"
    if not layer.supports_lora_conversion(adapter_name):
        return f"its {kind} is not a change of weights added to the layer's own"
    if isinstance(layer, MissLinear):  # whose change PEFT computes from the weight, by another signature
        return "PEFT itself knows the exact factors of MiSS; use peft.save_as_lora"
    return None


def _check_rank(rank: int | float | None, layers: dict[str, BaseTunerLayer]) -> None:
    widest = max(min(_shape(layer)) for layer in layers.values())
    advice = f"pass a whole number from 1 to {widest} (the widest layer's full rank), a float in (0, 1], or None"
    good = rank is None or (not isinstance(rank, bool) and isinstance(rank, int | float))
    if good and isinstance(rank, int):
        good = 1 <= rank <= widest
    elif good and rank is not None:
        good = 0 < rank <= 1
    if not good:
        raise ConfigError(f"to_lora(rank={rank!r}): {advice}")


# ------------------------------------------------------------------------------------------------------- the numbers


def _shape(layer: Any) -> tuple[int, int]:
    return layer.in_features, layer.out_features


def _delta(layer: Any, adapter_name: str) -> Tensor:
    """(out_features, in_features), for `Conv1D` too, which stores its weight the other way."""
    delta = layer.get_delta_weight(adapter_name)
    return delta.T if isinstance(layer.get_base_layer(), Conv1D) else delta


def _decompose(layer: Any, adapter_name: str, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    factors = None
    if isinstance(layer, AdapterLayer):
        factors = layer.update_of(adapter_name).low_rank_factors()
    if factors is None or factors[0].shape[1] >= min(delta.shape):
        return decompose(delta)
    return decompose_product(*factors)


def _other_tensors(
    model: PeftModel, config: PeftConfig, adapter_name: str, layers: dict[str, BaseTunerLayer]
) -> dict[str, Tensor]:
    """What else PEFT saves: modules trained in full, and embeddings of another size than the base model's."""
    own: tuple[str, ...] = tuple(f"{_INNER}{name}." for name in layers)
    own += (f"base_model.{model.base_model.prefix}",)
    resized = _has_other_vocabulary(model, config.base_model_name_or_path)
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=resized)
    # LoRA's layers hold the layer below by the same name, so that an adapted head of another size is found again.
    return {name: tensor for name, tensor in saved.items() if not name.startswith(own) or ".base_layer." in name}


def _has_other_vocabulary(model: Any, base: str | None) -> bool:
    """Whether tokens were added; PEFT's own answer asks the hub, and counts embeddings that are only adapted."""
    size, place = getattr(getattr(model, "config", None), "vocab_size", None), Path(base or "")
    if size is None or not (place / "config.json").is_file():
        return False
    return type(model.config).from_pretrained(place).vocab_size != size


# -------------------------------------------------------------------------------------------------------- the config


def _lora_config(
    model: PeftModel, config: PeftConfig, layers: dict[str, BaseTunerLayer], ranks: dict[str, int]
) -> LoraConfig:
    r = max(ranks.values())
    # Where all have one rank nothing is in the patterns, which vLLM and others do not read. It reads the r that it has
    # to make room for, and lora_alpha / r, which is one in each module.
    others = {f"^{re.escape(name)}$": rank for name, rank in ranks.items() if rank != r}
    modules_to_save = getattr(config, "modules_to_save", None)
    plain = LoraConfig(
        task_type=config.task_type,
        inference_mode=True,
        r=r,
        lora_alpha=r,
        rank_pattern=others,
        alpha_pattern=dict(others),
        fan_in_fan_out=all(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        modules_to_save=list(modules_to_save) if modules_to_save else None,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
    )
    plain.target_modules = _targets(model, layers)  # as a list: a set, which PEFT makes of it, has an order by chance
    return plain


def _targets(model: PeftModel, layers: dict[str, BaseTunerLayer]) -> list[str] | str:
    """The shortest way to name the layers and no others; a list wherever one can, which some servers insist on."""
    inner: Any = model.base_model
    wrapped = tuple(f"{name}." for name, module in inner.model.named_modules() if isinstance(module, BaseTunerLayer))
    names = [name for name, _ in inner.model.named_modules() if name and not name.startswith(wrapped)]

    def matched(targets: set[str]) -> set[str]:
        endings = tuple(f".{target}" for target in targets)
        return {name for name in names if name in targets or name.endswith(endings)}

    for targets in ({name.rsplit(".", 1)[-1] for name in layers}, set(layers)):
        if matched(targets) == set(layers):
            return sorted(targets)
    return "|".join(re.escape(name) for name in layers)

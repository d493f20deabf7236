"""Looking into an adapted model: the updates as matrices, and which modules a config would adapt."""

from __future__ import annotations

import difflib

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from ketune.adapters.config import ConfigError
from ketune.adapters.parameter_layer import ParameterLayer


def update_matrices(model: nn.Module, adapter_name: str = "default") -> dict[str, torch.Tensor]:
    """The change of weight (out_features, in_features) of each adapted layer, float32 on the CPU, by module name.

    Parameters that are adapted themselves (`target_parameters`) stand there by the parameter's name, and each of their
    experts with its number behind it.

    Layers whose update is not linear in x (QAA without the amplitude readout, say) have no such matrix and are left
    out, so the result of a wholly non-linear adapter is empty. Works for Ketune's methods and for PEFT's that offer
    `get_delta_weight` on a plain layer, LoRA among them.
    """
    found: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, ParameterLayer) and adapter_name in layer.updates:
            found |= _matrices_of_parameter(name, layer, adapter_name)
            continue
        if not isinstance(layer, BaseTunerLayer) or not layer.supports_lora_conversion(adapter_name):
            continue
        if adapter_name not in layer._get_available_adapters():
            continue
        with torch.no_grad():
            delta = layer.get_delta_weight(adapter_name)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        if isinstance(layer.get_base_layer(), Conv1D):  # stored as (in, out)
            delta = delta.T
        found[name] = delta.float().cpu()
    return found


def _matrices_of_parameter(name: str, layer: ParameterLayer, adapter_name: str) -> dict[str, torch.Tensor]:
    delta = layer.get_delta_weight(adapter_name).float().cpu()
    delta = delta.mT if layer.stored_transposed else delta
    if delta.ndim == 2:
        return {layer.key(name): delta}
    return {f"{layer.key(name)}.{number}": matrix for number, matrix in enumerate(delta)}


def linear_modules(model: nn.Module) -> list[str]:
    """The names of all layers that an adapter can sit on."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _endings(names: list[str]) -> list[str]:
    """The last two parts of each name, which tell a kind of parameter."""
    return sorted({".".join(name.split(".")[-2:]) for name in names})


def check_targets(model: nn.Module, config: PeftConfig) -> None:
    """Refuse target modules and target parameters that match nothing in the model, and say what comes nearest.

    Raises:
        ConfigError: naming each target without a match, near misses, and the names that are there.
    """
    parameters = [name for name, _ in model.named_parameters()]
    wanted = getattr(config, "target_parameters", None) or []
    if missing := [t for t in wanted if not any(name == t or name.endswith(f".{t}") for name in parameters)]:
        near = {hit for target in missing for hit in difflib.get_close_matches(target, _endings(parameters), n=2)}
        raise ConfigError(
            f"target_parameters {', '.join(map(repr, missing))}: no such parameter in the model"
            + (f"; did you mean {', '.join(map(repr, sorted(near)))}?" if near else "; see model.named_parameters()")
        )
    targets = getattr(config, "target_modules", None)
    if not targets or isinstance(targets, str):
        return
    modules = [name for name, _ in model.named_modules()]
    missing = [t for t in sorted(targets) if not any(name == t or name.endswith(f".{t}") for name in modules)]
    if not missing:
        return
    short = sorted({name.rsplit(".", 1)[-1] for name in linear_modules(model)})
    near = sorted({hit for target in missing for hit in difflib.get_close_matches(target, short, n=2, cutoff=0.4)})
    hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
    raise ConfigError(
        f"target_modules {', '.join(map(repr, missing))}: no such layer in the model{hint} "
        f"Its linear layers are {', '.join(short)}"
    )

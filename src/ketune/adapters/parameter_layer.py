"""One frozen `nn.Parameter` with named updates added to it, where no linear layer stands that could be adapted.

Fused mixture-of-experts layers keep the weights of all experts in one parameter and multiply by it themselves. PEFT
names such parameters in `target_parameters`. What the updates add is a matrix for each expert, so only methods that are
linear in the layer's input can do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ketune.adapters.adapter_layer import AdapterLayer
from ketune.adapters.config import AdapterConfig, ConfigError
from ketune.adapters.update import HasWeight, Place, Update

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Dtypes of parameters that can be adapted; eight bits and fewer would not hold the sum."""


@dataclass(frozen=True)
class FrozenMatrix:
    """One expert's weight, (out_features, in_features), for updates that depend on it."""

    weight: torch.Tensor

    def plain_weight(self) -> torch.Tensor:
        return self.weight


@contextmanager
def replaced(module: nn.Module, name: str, value: torch.Tensor) -> Iterator[None]:
    """Lets a module see another tensor in the place of one of its own parameters.

    FSDP1 puts the gathered parameter into the module's `__dict__`, where it hides the registered one; swapping that
    one, as `torch.func.functional_call` does, would change nothing and say nothing.
    """
    store: Any = module.__dict__ if name in module.__dict__ else module._parameters
    own = store[name]
    store[name] = value
    try:
        yield
    finally:
        store[name] = own


class ExpertsUpdate(Update):
    """An update for each matrix of a parameter (experts, out_features, in_features)."""

    def __init__(self, config: AdapterConfig, n_experts: int, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        self.experts = nn.ModuleList(
            config.for_expert(number).make_update(in_features, out_features) for number in range(n_experts)
        )
        self.why_not_mergeable = self.each()[0].why_not_mergeable

    def each(self) -> list[Update]:
        """The updates of the experts, in order."""
        return [cast(Update, expert) for expert in self.experts]

    def randomize(self) -> None:
        for expert in self.each():
            expert.randomize()

    def start_beside(self, layer: HasWeight) -> None:
        for expert, weight in zip(self.each(), layer.plain_weight()):
            expert.start_beside(FrozenMatrix(weight))

    def attach(self, shared: nn.Module, place: Place) -> None:
        super().attach(shared, place)
        for number, expert in enumerate(self.each()):
            expert.attach(shared, replace(place, index=place.index + number, expert=number))

    def delta_weight_beside(self, layer: Any) -> torch.Tensor:
        """(experts, out_features, in_features)."""
        weights = layer.plain_weight()
        return torch.stack([u.delta_weight_beside(FrozenMatrix(w)) for u, w in zip(self.each(), weights)])


class ParameterLayer(AdapterLayer):
    """A frozen module, of whose parameters one has named updates added to it.

    The parameter holds a matrix (out_features, in_features), or one for each expert (experts, out_features,
    in_features); the last two axes are swapped where the module says `is_transposed`, as transformers' experts do, and
    in a `Conv1D`. In the forward pass the module runs with the sum in the parameter's place. Several parameters of one
    module nest, as in PEFT's LoRA.

    What a sum of weights cannot do is refused: updates that are not linear in the layer's input, dropout, another
    adapter for each row of a batch. The sum has the dtype of the parameter, so in bfloat16 it keeps what a merge would
    keep; the update itself is computed in float32. Like PEFT's, an adapter is not seen by code that reads the parameter
    without calling its module.

    Args:
        base_layer: the module that owns the parameter, or another `ParameterLayer` around it.
        adapter_name: name of the first adapter.
        config: its hyper-parameters.
        parameter_name: which parameter of the module.

    Raises:
        ConfigError: for a parameter that is no matrix or stack of matrices, or of too few bits, or an update that is
            not linear.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, parameter_name: str) -> None:
        self.parameter_name = parameter_name
        super().__init__(base_layer, adapter_name, config)

    def _resolve_backend(self, base_layer: nn.Module, **kwargs: Any) -> None:
        return None

    def _find_widths(self, base_layer: nn.Module) -> tuple[int, int]:
        parameter = self.parameter()
        where = f"target_parameters: {self.parameter_name!r} of {type(base_layer).__name__}"
        if hasattr(parameter, "ds_shape"):
            raise ConfigError(f"{where} is partitioned by DeepSpeed ZeRO-3; adapt parameters with ZeRO-2 or FSDP2")
        if self.parameter_name not in base_layer._parameters:
            raise ConfigError(
                f"{where} is computed from another tensor (torch.nn.utils.parametrize); remove that first"
            )
        if parameter.dtype not in DTYPES:
            raise ConfigError(f"{where} is {parameter.dtype}; only floating point of 16 bits or more can be adapted")
        if parameter.ndim not in (2, 3):
            raise ConfigError(
                f"{where} has the shape {tuple(parameter.shape)}; only matrices and stacks of them can be adapted"
            )
        self.n_experts = parameter.shape[0] if parameter.ndim == 3 else None
        fused = parameter.ndim == 3 and bool(getattr(base_layer, "is_transposed", False))
        self.stored_transposed = fused or (isinstance(base_layer, Conv1D) and self.parameter_name == "weight")
        out_features, in_features = (parameter.mT if self.stored_transposed else parameter).shape[-2:]
        return in_features, out_features

    def _make_update(self, config: AdapterConfig) -> Update:
        if config.dropout:
            raise ConfigError(
                f"{type(config).__name__}(dropout={config.dropout}): the input of a parameter is not seen, so nothing "
                "of it can be dropped; set dropout=0 with target_parameters"
            )
        if self.n_experts is None:
            update = config.make_update(self.in_features, self.out_features)
        else:
            update = ExpertsUpdate(config, self.n_experts, self.in_features, self.out_features)
        if update.why_not_mergeable:
            raise ConfigError(
                f"target_parameters: {self.parameter_name!r} cannot be adapted: {update.why_not_mergeable}"
            )
        return update

    def parameter(self) -> nn.Parameter:
        """The frozen parameter."""
        return getattr(self.get_base_layer(), self.parameter_name)

    def key(self, name: str) -> str:
        return f"{name.replace('.base_layer', '')}.{self.parameter_name}"

    def places(self, name: str, first: int) -> list[Place]:
        place = Place(first, self.key(name), self.in_features, self.out_features)
        if self.n_experts is None:
            return [place]
        return [replace(place, index=first + number, expert=number) for number in range(self.n_experts)]

    # ------------------------------------------------------------------------------------------------- forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.pop("adapter_names", None) is not None:
            raise ValueError(
                f"adapter_names: {self.parameter_name!r} is adapted through target_parameters, and one sum of weights "
                "serves all rows of a batch; call the model once for each adapter"
            )
        if self.disable_adapters and self.merged:
            self.unmerge()
        names = [name for name in self.active_adapters if name in self.updates]
        if self.disable_adapters or self.merged or not names:
            return self.base_layer(*args, **kwargs)
        with replaced(self.get_base_layer(), self.parameter_name, self._adapted(names)):
            return self.base_layer(*args, **kwargs)

    def _adapted(self, names: list[str]) -> torch.Tensor:
        """The parameter with the updates of some adapters added."""
        weight = self.parameter()
        with torch.autocast(weight.device.type, enabled=False):
            total = weight.to(torch.promote_types(weight.dtype, torch.float32))
            for name in names:
                delta = self.update_of(name).delta_weight_beside(self)
                total = total + (delta.mT if self.stored_transposed else delta).to(total.dtype)
            return total.to(weight.dtype)

    # ------------------------------------------------------------------------------------------------- merging

    def get_base_weight(self) -> torch.Tensor:
        return self.parameter().data

    def set_base_weight(self, weight_data: torch.Tensor) -> None:
        self.parameter().data = weight_data

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """The module without its layers of adapters, called by PEFT; merged ones keep their updates."""
        layer: nn.Module = self
        while isinstance(layer, ParameterLayer):
            if merge:
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
            layer = layer.base_layer
        return layer

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False  # PEFT's conversion makes LoRA layers for linear modules

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        parameter = self.parameter()
        return parameter.device, parameter.dtype

    def extra_repr(self) -> str:
        return f"parameter_name={self.parameter_name!r}"

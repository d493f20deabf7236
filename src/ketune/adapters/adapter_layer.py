"""One frozen linear layer with named updates beside it: forward, rows of a batch, merging and exact unmerging.

`torch.nn.Linear`, `Conv1D` and quantised layers alike. What PEFT asks of the whole model is in `tuner.py`.
"""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr, resolve_quantization_backend
from peft.utils.integrations import gather_params_ctx
from peft.utils.quantization_utils import Bnb4bitBackend, TorchaoBackend
from torch import nn
from transformers.pytorch_utils import Conv1D

from ketune.adapters.config import AdapterConfig
from ketune.adapters.cpu_packing import guard_packing_, is_packed, packed_weight, restore_weight
from ketune.adapters.update import Place, Update
from ketune.quantization.coded_linear import CodedLinear, is_stored_as_met

BASE_ONLY = "__base__"
"""PEFT's name, in `adapter_names`, for a row that no adapter touches."""


class AdapterLayer(nn.Module, BaseTunerLayer):
    """A frozen linear layer with any number of named updates beside it."""

    has_shared_part: bool = False
    """Whether updates of this method share a part, kept by the tuner."""

    stored_transposed: bool
    """Whether the base stores its weight as (in_features, out_features)."""

    adapter_layer_names: tuple[str, ...] = ()
    other_param_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, **kwargs: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        guard_packing_(self.get_base_layer())
        self.quantization_backend = self._resolve_backend(self.get_base_layer(), **kwargs)
        setattr(self, self.adapter_layer_names[0], nn.ModuleDict())
        self.merged_adapters = []
        self.cast_input_dtype_enabled = True
        self._weight_before_merge: Any = None
        self._stored_before_merge: Any = None
        self.in_features, self.out_features = self._find_widths(self.get_base_layer())
        self._active_adapter = [adapter_name]
        self.update_layer(adapter_name, config)

    def _resolve_backend(self, base_layer: nn.Module, **kwargs: Any) -> Any:
        return resolve_quantization_backend(
            base_layer, get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass")
        )

    def _find_widths(self, base_layer: nn.Module) -> tuple[int, int]:
        in_features, out_features = _get_in_out_features(base_layer)
        if in_features is None or out_features is None:
            raise TypeError(f"a {type(base_layer).__name__} has no input and output width to adapt")
        self.stored_transposed = isinstance(base_layer, Conv1D)
        return in_features, out_features

    def _make_update(self, config: AdapterConfig) -> Update:
        return config.make_update(self.in_features, self.out_features)

    def key(self, name: str) -> str:
        """What is adapted, for a layer that the base model calls `name`."""
        return name

    def places(self, name: str, first: int) -> list[Place]:
        """Where the matrices of this layer stand among those of all layers, counted from `first`."""
        return [Place(first, self.key(name), self.in_features, self.out_features)]

    @property
    def updates(self) -> nn.ModuleDict:
        """The updates by adapter name."""
        return getattr(self, self.adapter_layer_names[0])

    def update_layer(self, adapter_name: str, config: AdapterConfig, inference_mode: bool = False) -> None:
        """Add one adapter to this layer."""
        update = self._make_update(config)
        if not config.init_weights:
            update.randomize()
        self.updates[adapter_name] = update
        self._move_adapter_to_device_of_base_layer(adapter_name)
        if all(tensor.device.type != "meta" for tensor in (*update.parameters(), self.stored_tensor())):
            with gather_params_ctx(self.get_base_layer().parameters()):  # of DeepSpeed's ZeRO-3
                update.start_beside(self)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        super()._move_adapter_to_device_of_base_layer(adapter_name, device)
        if adapter_name in self.updates and (
            place := device or self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        ):
            self.update_of(adapter_name).move_attached(place)

    # ------------------------------------------------------------------------------------------------- forward

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, *args, adapter_names=adapter_names, **kwargs)
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        frozen = result
        for name in self.active_adapters:
            if name in self.updates:
                result = result + self._delta(name, x, frozen)
        return result.to(dtype)

    def update_of(self, name: str) -> Update:
        """The update of the adapter called `name`."""
        return cast(Update, self.updates[name])

    def _delta(self, name: str, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        update = self.update_of(name)
        return update.beside(update.dropout(self._cast_input_dtype(x, update.dtype)), output, self)

    def _mixed_batch_forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str], **kwargs: Any
    ) -> torch.Tensor:
        """Forward with another adapter for each row of the batch, as PEFT's `adapter_names` asks."""
        if len(x) != len(adapter_names):
            raise ValueError(
                f"Length of `adapter_names` should be the same as the number of inputs, but got {len(adapter_names)} "
                f"and {len(x)} respectively."
            )
        if self.merged:
            raise ValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        result = result.clone()
        for name in dict.fromkeys(adapter_names):
            if name == BASE_ONLY or name not in self.updates:
                continue
            rows = torch.tensor([i for i, row in enumerate(adapter_names) if row == name], device=x.device)
            result[rows] = (result[rows] + self._delta(name, x[rows], result[rows])).to(result.dtype)
        return result

    # ------------------------------------------------------------------------------------------------- merging

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the base weight. `unmerge` restores the weight bit for bit.

        Raises:
            ValueError: when an update is not linear in x, or `safe_merge` meets a value that is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) or [] if name in self.updates]
        if not names:
            return
        for name in names:
            self._check_mergeable(name)
        weight = self.get_base_weight()
        # The sum of several adapters is rounded once, and nothing is changed before all of them are known to be sound.
        total = weight.to(torch.promote_types(weight.dtype, torch.float32))
        for name in names:
            total = total + self.get_delta_weight(name).to(total)
            if safe_merge and not torch.isfinite(total.to(weight.dtype)).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        if not self.merged:
            self._weight_before_merge = self._keep_weight(weight)
            if self.quantization_backend is not None:
                self._stored_before_merge = self.base_layer, getattr(self.get_base_layer(), "weight", None)
        self.set_base_weight(total.to(weight.dtype))
        self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the weight back as it was before the first merge."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        device = self.stored_tensor().device
        if self.quantization_backend is None:
            self.set_base_weight(self._weight_before_merge.to(device))
        else:
            self._restore_quantized(device)
        self._weight_before_merge = self._stored_before_merge = None
        self.merged_adapters.clear()

    def _keep_weight(self, weight: torch.Tensor) -> Any:
        # Merging builds a new tensor and only rebinds the layer to it, so keeping the old one costs no copy.
        if self.quantization_backend is None:
            return weight
        return weight.detach().clone()

    def _restore_quantized(self, device: torch.device) -> None:
        layer, stored = self._stored_before_merge
        if layer is not self.base_layer:  # HQQ quantises into a layer of its own, and the old one is still whole
            self.base_layer = layer
        elif isinstance(self.quantization_backend, TorchaoBackend):  # so is its old tensor
            self.get_base_layer().weight = stored
        elif isinstance(self.quantization_backend, Bnb4bitBackend):  # quantised steps are not met a second time
            restore_weight(self.get_base_layer(), stored, device)
        else:  # int8: quantising values that already lie on its grid gives the same codes back
            self.set_base_weight(self._weight_before_merge.to(device))

    def get_base_weight(self) -> torch.Tensor:
        base = self.get_base_layer()
        return packed_weight(base) if is_packed(base) else super().get_base_weight()

    def set_base_weight(self, weight_data: torch.Tensor) -> None:
        before, inner = self.base_layer, self.get_base_layer()
        if isinstance(inner, CodedLinear):
            inner.set_weight(weight_data)  # takes a change of its outliers, and says why it takes no other
            return
        super().set_base_weight(weight_data)
        if self.base_layer is not before:  # PEFT makes HQQ's new layer from the weight alone
            self.base_layer.bias = before.bias

    def _check_mergeable(self, adapter_name: str) -> None:
        reason = self.update_of(adapter_name).why_not_mergeable
        if reason:
            raise ValueError(f"adapter {adapter_name!r} cannot be merged: {reason}")

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """The change of the stored weight that an adapter linear in x stands for.

        (out_features, in_features) for linear layers, transposed for `Conv1D`, which stores its weight the other way.
        """
        self._check_mergeable(adapter_name)
        with torch.no_grad():
            delta = self.update_of(adapter_name).delta_weight_beside(self)
        return delta.mT if self.stored_transposed else delta

    def stored_tensor(self) -> torch.Tensor:
        """The first tensor of the base layer; GPTQ and AWQ keep all of theirs in buffers."""
        base = self.get_base_layer()
        return next(chain(base.parameters(), base.buffers()))

    def plain_weight(self) -> torch.Tensor:
        """The frozen weight without any merged adapter, (out_features, in_features), dequantised where it has to be.

        Raises:
            TypeError: when the layer is quantised in a way that cannot be undone (GPTQ, AWQ and others).
        """
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise TypeError(
                f"a layer quantised by {backend.backend_name} cannot hand out its weight, which this adapter needs; "
                "take a method that does not (QPA with target='lora'), or a base in bitsandbytes, HQQ or torchao"
            )
        weight = self._weight_before_merge if self.merged else self.get_base_weight()
        return weight.mT if self.stored_transposed else weight

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return adapter_name in self.updates and self.why_not_lora(adapter_name) is None

    def why_not_lora(self, adapter_name: str) -> str | None:
        """None where an adapter is a matrix that is multiplied with the layer's own input, else what it is instead."""
        update, base = self.update_of(adapter_name), self.get_base_layer()
        if update.meets_stored_weight and is_stored_as_met(base) and base.input_rotation is not None:
            return "its update acts on inputs that the quantised layer has rotated, which LoRA would see unrotated"
        return update.why_not_mergeable

    def extra_repr(self) -> str:
        return quantization_extra_repr(self)

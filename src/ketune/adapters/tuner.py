"""What Hugging Face PEFT asks of a method on a whole model: injection, parts shared by all layers, weighted sums.

One subclass of `AdapterTuner` per method is made by `ketune.adapters.base.register`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, cast

import torch
from accelerate import init_empty_weights
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import get_quantization_kwargs, resolve_quantization_backend
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from ketune.adapters.adapter_layer import BASE_ONLY, AdapterLayer
from ketune.adapters.combining import combined_config, copy_parts, make_shared
from ketune.adapters.config import AdapterConfig, ConfigError
from ketune.adapters.parameter_layer import ParameterLayer
from ketune.adapters.sharding import FSDP1_WRAPPER, WithoutWrappers
from ketune.adapters.update import Place


class AdapterTuner(BaseTuner):
    """Injects `AdapterLayer`s into a model; one subclass per method is made by `register`."""

    prefix: str = "ketune_"
    tuner_layer_cls: type[AdapterLayer] = AdapterLayer
    parameter_layer_cls: type[ParameterLayer] = ParameterLayer
    target_module_mapping: ClassVar[dict[str, Any]] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(
        self,
        config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        kwargs = get_quantization_kwargs(self)
        config = config.for_module(current_key)
        if parameter_name is not None:
            self._adapt_parameter(config, adapter_name, target, target_name, parent, parameter_name)
            return
        if isinstance(target, ParameterLayer):
            raise ConfigError(
                f"target_modules: {current_key} has an adapter on its parameter {target.parameter_name!r} already; "
                "target the parameter with this adapter too, or give the adapters models of their own"
            )
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, config)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = resolve_quantization_backend(base, **kwargs)
        if not isinstance(base, nn.Linear | Conv1D) and (backend is None or backend.layer_type != "linear"):
            raise TypeError(
                f"{current_key} is a {type(base).__name__}, which {type(config).__name__} cannot adapt; "
                "name torch.nn.Linear, transformers Conv1D or quantised linear layers in target_modules"
            )
        layer = self.tuner_layer_cls(target, adapter_name, config, **kwargs)
        if adapter_name not in self.active_adapters:
            layer.updates.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _adapt_parameter(
        self,
        config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        parameter_name: str,
    ) -> None:
        if isinstance(target, ParameterLayer) and target.parameter_name == parameter_name:
            target.update_layer(adapter_name, config)
            return
        layer = self.parameter_layer_cls(target, adapter_name, config, parameter_name)
        if adapter_name not in self.active_adapters:
            layer.updates.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(new_module, ParameterLayer) or isinstance(child, ParameterLayer):
            setattr(parent, child_name, new_module)  # PEFT's way copies a `weight`, which fused experts do not have
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        config = cast(AdapterConfig, config)
        if not config.target_parameters:
            return
        if config.needs_calibration:
            raise ConfigError(
                f"{type(config).__name__}(target_parameters={config.target_parameters}): its start is chosen on the "
                "inputs of linear layers, which are not seen here; take a start that needs no data "
                "(CompassConfig(frame='random'), QAAConfig(init_angles='uniform'))"
            )
        # Which parameter a layer of a nest adapts is told by its depth, in saved files too.
        for name, other in self.peft_config.items():
            theirs = cast(AdapterConfig, other).target_parameters
            if theirs and set(theirs) != set(config.target_parameters):
                raise ConfigError(
                    f"target_parameters={config.target_parameters}: adapter {name!r} has {theirs}; all adapters of a "
                    "model that name parameters have to name the same ones"
                )

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        config = cast(AdapterConfig, peft_config)
        known = model_config["model_type"] in self.target_module_mapping
        if config.target_modules is None and config.target_parameters and not known:
            config.target_modules = []
        return super()._prepare_adapter_config(peft_config, model_config)

    # ------------------------------------------------------------------------------------- parts of all layers

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        # As PEFT does for the layers: a new adapter leaves open or frozen what stood before it.
        trained_before = [(p, p.requires_grad) for part in self._known_parts() for p in part.parameters()]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for parameter, trained in trained_before:
            parameter.requires_grad = trained
        layers = [layer for _, layer in self.adapted_layers(adapter_name)]
        of_layers = self.places_by_layer(adapter_name)
        config = cast(AdapterConfig, self.peft_config[adapter_name])
        with init_empty_weights() if kwargs.get("low_cpu_mem_usage") else nullcontext():
            shared = make_shared(config, self.places(adapter_name))
        if shared is None:
            return
        if layers:
            weight = layers[0].stored_tensor()
            if weight.device.type != "meta" and not any(p.device.type == "meta" for p in shared.parameters()):
                shared.to(weight.device, weight.dtype if weight.is_floating_point() else None)
        if self.tuner_layer_cls.has_shared_part:
            self.shared_parts()[adapter_name] = shared
        for layer, places in zip(layers, of_layers):
            layer.update_of(adapter_name).attach(shared, places[0])
        shared.requires_grad_(adapter_name in self.active_adapters and not config.inference_mode)

    def _known_parts(self) -> Iterator[nn.Module]:
        if self.tuner_layer_cls.has_shared_part:
            yield from self.shared_parts().values()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype and self.tuner_layer_cls.has_shared_part and adapter_name in self.shared_parts():
            for parameter in self.shared_parts()[adapter_name].parameters():
                if parameter.dtype in (torch.float16, torch.bfloat16):
                    parameter.data = parameter.data.float()

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        if self.tuner_layer_cls.has_shared_part:
            for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
                if name in self.shared_parts():
                    self.shared_parts()[name].requires_grad_(requires_grad)

    def adapted_layers(self, adapter_name: str) -> Iterator[tuple[str, AdapterLayer]]:
        """The layers that carry an adapter, with their names in the base model."""
        for name, module in self.model.named_modules():
            if isinstance(module, self.tuner_layer_cls) and adapter_name in module.updates:
                yield name, module

    def places_by_layer(self, adapter_name: str) -> list[list[Place]]:
        """Where the matrices of each of those layers stand among those of all."""
        found: list[list[Place]] = []
        for name, layer in self.adapted_layers(adapter_name):
            found.append(layer.places(name, sum(map(len, found))))
        return found

    def places(self, adapter_name: str) -> list[Place]:
        """Where the matrices of all those layers stand."""
        return [place for places in self.places_by_layer(adapter_name) for place in places]

    def shared_parts(self) -> nn.ModuleDict:
        """The shared part of each adapter that has one, by the adapter's name."""
        name = f"{self.prefix}shared"
        if name not in self._modules:
            setattr(self, name, nn.ModuleDict())
        return cast(nn.ModuleDict, self._modules[name])

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        self._train_active_parts(not inference_mode)

    def _train_active_parts(self, trains: bool) -> None:
        if self.tuner_layer_cls.has_shared_part:
            for name, shared in self.shared_parts().items():
                shared.requires_grad_(trains and name in self.active_adapters)

    def delete_adapter(self, adapter_name: str) -> None:
        was_active = adapter_name in self.active_adapters
        super().delete_adapter(adapter_name)
        if self.tuner_layer_cls.has_shared_part and adapter_name in self.shared_parts():
            del self.shared_parts()[adapter_name]
            if was_active:
                self._train_active_parts(True)

    # -------------------------------------------------------------------------------------------- weighted sums

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "sum"
    ) -> None:
        """Adds an adapter whose update is the weighted sum of the updates of others, exactly, whatever the method.

        The new adapter holds copies: it trains, saves and loads on its own, merges when all of its parts do, and costs
        as much as its parts together.

        Args:
            adapters: names of adapters of this model, which must adapt the same modules.
            weights: a factor for each.
            adapter_name: name of the new adapter.
            combination_type: only "sum".

        Raises:
            ValueError: for unknown or unequal adapters, a name that is taken, or another combination.
        """
        if combination_type != "sum":
            raise ValueError(f"add_weighted_adapter(combination_type={combination_type!r}): only 'sum' is offered")
        if adapter_name in self.peft_config:
            raise ValueError(f"add_weighted_adapter: there is already an adapter {adapter_name!r}; delete it first")
        unknown = [name for name in adapters if name not in self.peft_config]
        if unknown or not adapters or len(adapters) != len(weights):
            raise ValueError(
                f"add_weighted_adapter(adapters={adapters}, weights={weights}): name one or more adapters out of "
                f"{list(self.peft_config)}, with one weight each"
            )
        modules = {name: [layer.key(module) for module, layer in self.adapted_layers(name)] for name in adapters}
        if any(modules[name] != modules[adapters[0]] for name in adapters):
            raise ValueError(
                "add_weighted_adapter: the adapters adapt different modules; only adapters of the same modules add up"
            )
        configs = [cast(AdapterConfig, self.peft_config[name]) for name in adapters]
        self.peft_config[adapter_name] = combined_config(configs, weights)
        try:
            self.inject_adapter(self.model, adapter_name)
        except Exception:
            del self.peft_config[adapter_name]
            raise
        for _, layer in self.adapted_layers(adapter_name):
            copy_parts(layer.update_of(adapter_name), [layer.update_of(name) for name in adapters])
        if self.tuner_layer_cls.has_shared_part:
            parts = self.shared_parts()
            for part, name in zip(cast(nn.ModuleDict, parts[adapter_name]).values(), adapters):
                part.load_state_dict(parts[name].state_dict())

    # ---------------------------------------------------------------------------------------------------- saving

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if any(FSDP1_WRAPPER in name for name, _ in model.named_modules()):
            model = cast(nn.Module, WithoutWrappers(model))
            state_dict = {name.replace(FSDP1_WRAPPER, ""): tensor for name, tensor in state_dict.items()}
        return super()._get_adapter_state_dict(model, config, adapter_name, state_dict, *args, **kwargs)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT looks for the adapter's name in the last two parts of the key; an update may nest deeper than that.
        for container in (f"{cls.prefix}update.", f"{cls.prefix}shared."):
            head, found, tail = key.rpartition(container)
            if found and tail.startswith(f"{adapter_name}."):
                return head + container + tail.removeprefix(f"{adapter_name}.")
        return super()._remove_adapter_name_from_key(key, adapter_name)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for module in self.model.modules():
            if isinstance(module, AdapterLayer):
                for name in module.active_adapters:
                    if name in module.updates:
                        module._check_mergeable(name)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        layers = [module for module in self.modules() if isinstance(module, AdapterLayer)]
        known = {name for layer in layers for name in layer.updates}
        unknown = set(adapter_names) - known - {BASE_ONLY}
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")
        hook = partial(_pass_adapter_names, adapter_names=adapter_names)
        handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": adapter_names}

"""Where a method is made: an `AdapterConfig` (hyper-parameters) and an `Update` (the trainable function beside one
frozen linear map, `y = W0 x + update(x)`), joined by one call of `register`.

All the rest is written once: `adapter_layer.py` has the layer (forward, several adapters, adapters per row of a batch,
disabling, merging and exact unmerging, `torch.nn.Linear` and `Conv1D`, quantised bases, dtypes), `parameter_layer.py`
parameters that are no layer's weight, `tuner.py` the model (injection, parts shared by all layers, weighted sums,
saving and loading).
"""

from __future__ import annotations

import sys
from typing import TypeVar

from ketune.adapters._peft_types import register_with_peft
from ketune.adapters.adapter_layer import BASE_ONLY, AdapterLayer
from ketune.adapters.combining import counting_parts, make_update
from ketune.adapters.config import AdapterConfig
from ketune.adapters.parameter_layer import ParameterLayer
from ketune.adapters.tuner import AdapterTuner
from ketune.adapters.update import Update

__all__ = ["BASE_ONLY", "AdapterLayer", "AdapterTuner", "register"]

ConfigT = TypeVar("ConfigT", bound=AdapterConfig)


def register(name: str, config_cls: type[ConfigT], update_cls: type[Update]) -> type[ConfigT]:
    """Make a method: after this call `get_peft_model(model, config_cls(...))` and loading by PEFT work.

    Args:
        name: lower-case name; `name.upper()` becomes the PEFT type and `name + "_"` the parameter prefix.
        config_cls: the hyper-parameters.
        update_cls: built as `update_cls(config, in_features, out_features)` for each adapted layer.

    Raises:
        RuntimeError: when PEFT already holds another method of this name.
    """
    title = config_cls.__name__.removesuffix("Config")
    home = config_cls.__module__
    layer_cls = type(
        # PEFT's "all-linear" finds layers that already carry adapters by this part of their class name.
        f"{title}Linear",
        (AdapterLayer,),
        {
            "adapter_layer_names": (f"{name}_update",),
            "has_shared_part": config_cls.has_shared_part,
            "__module__": home,
        },
    )
    parameter_cls = type(
        # PEFT finds wrappers of parameters, and looks into nested ones, by this class name.
        "ParamWrapper",
        (ParameterLayer, layer_cls),
        {"__module__": home, "__qualname__": f"{title}Parameter"},
    )
    tuner_cls = type(
        f"{title}Model",
        (AdapterTuner,),
        {
            "prefix": f"{name}_",
            "tuner_layer_cls": layer_cls,
            "parameter_layer_cls": parameter_cls,
            "uses_shared_state": config_cls.has_shared_part,
            "__module__": home,
        },
    )
    # Pickle finds classes by module and name, so the generated ones have to be there.
    for cls in (layer_cls, parameter_cls, tuner_cls):
        setattr(sys.modules[home], cls.__qualname__, cls)
    config_cls.method = name
    config_cls.parameter_count = counting_parts(config_cls.parameter_count)
    config_cls.model_parameter_count = counting_parts(config_cls.model_parameter_count)
    config_cls.make_update = lambda self, in_features, out_features: make_update(
        self, update_cls, in_features, out_features
    )
    register_with_peft(name, config_cls, tuner_cls)
    return config_cls

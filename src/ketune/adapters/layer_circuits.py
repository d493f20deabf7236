"""The circuits that a quantum adapter puts beside a model's layers, one for each width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ketune.adapters.calibration import circuits_of
from ketune.adapters.choice import choose
from ketune.adapters.config import ConfigError
from ketune.adapters.counting import adapted_modules, meta_model
from ketune.adapters.registry import METHODS, get_method
from ketune.circuits import Circuit


@dataclass(frozen=True)
class LayerCircuit:
    """A circuit and the layers that it stands beside.

    Attributes:
        in_features: width of these layers' input.
        layers: their names, in the model's order.
        circuit: the circuit; each layer has its own angles, unless the method shares one circuit among layers.
    """

    in_features: int
    layers: tuple[str, ...]
    circuit: Circuit


def layer_circuits(model: PreTrainedModel, config: PeftConfig) -> list[LayerCircuit]:
    """The circuits of an adapter on a model.

    Args:
        model: a model from `meta_model`.
        config: the adapter's config.

    Raises:
        ConfigError: when the method has no circuit.
    """
    if config.is_prompt_learning:
        raise ConfigError(f"{type(config).__name__}: its circuit generates a prefix and stands beside no layer")
    names = adapted_modules(model, config)
    layers = [model.get_submodule(name) for name in names]
    circuits = circuits_by_layer(config, [_shape(layer) for layer in layers])
    if circuits is None:
        raise ConfigError(f"{type(config).__name__}: this method has no circuit")
    found: dict[tuple[int, Circuit], list[str]] = {}
    for name, layer, circuit in zip(names, layers, circuits):
        found.setdefault((_shape(layer)[0], circuit), []).append(name)
    return [LayerCircuit(width, tuple(names), circuit) for (width, circuit), names in found.items()]


def circuits_by_layer(config: PeftConfig, shapes: Sequence[tuple[int, int]]) -> list[Circuit] | None:
    """The circuit of each of an adapter's layers, (in_features, out_features) each; None for a method without one."""
    together: Any = getattr(config, "circuits", None)
    if together is not None:
        return together(shapes)
    make: Any = getattr(config, "circuit_for", None)
    return None if make is None else [make(width) for width, _ in shapes]


def trained_circuit(model: PeftModel, layer: str | None = None) -> tuple[str, Circuit, Tensor]:
    """The circuit of one layer of an adapter, with the angles that it was trained to.

    Args:
        model: a model with an adapter, whose first active one counts.
        layer: name of the layer, or the end of it where that tells it from all others; None: the first.

    Returns:
        the layer's name, the circuit, and its (n_angles,) angles.

    Raises:
        ConfigError: for an adapter without circuits that embed activations, or a layer that has none.
    """
    adapter = model.active_adapters[0]
    circuits = circuits_of(model, adapter)
    if not circuits:
        raise ConfigError(f"adapter {adapter!r} has no circuit that embeds activations; QAA has")
    found = [name for name in circuits if layer is None or name == layer or name.endswith(f".{layer}")]
    if layer is not None and len(found) != 1:
        reason = f"{len(found)} circuits' layers end so" if found else "no circuit stands beside it"
        raise ConfigError(f"layer {layer!r}: {reason}; choose one of {', '.join(list(found or circuits)[:6])}, ...")
    update = model.get_submodule(found[0]).update_of(adapter)  # pyright: ignore[reportCallIssue]
    return found[0], circuits[found[0]].circuit, update.angles.detach().double()


def _shape(layer: Any) -> tuple[int, int]:
    """(in_features, out_features)."""
    if isinstance(layer, Conv1D):
        n_in, n_out = layer.weight.shape
        return n_in, n_out
    return layer.in_features, layer.out_features


def model_circuits(
    model: str | Path | PretrainedConfig,
    method: str = "qaa",
    *,
    preset: str | None = None,
    settings: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> list[LayerCircuit]:
    """The circuits of a method on a model, from the model's config alone.

    Args:
        model: as in `meta_model`.
        method, preset, settings: as in `ketune.adapters.choice.choose`.
        trust_remote_code: whether the model's own code may run.

    Raises:
        KetuneError: for a method without circuits, or as in `choose` and `meta_model`.
    """
    if not get_method(method).quantum:
        quantum = ", ".join(name for name, known in METHODS.items() if known.quantum)
        raise ConfigError(f"{method} has no circuit; methods with one are {quantum}")
    meta = meta_model(model, trust_remote_code)
    choice = choose(method, meta, preset=preset, settings=settings)
    assert choice.config is not None
    return layer_circuits(meta, choice.config)

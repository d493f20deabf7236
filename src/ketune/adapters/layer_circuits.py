"""The circuits that a quantum adapter puts beside a model's layers, one for each width."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ketune.adapters.choice import choose
from ketune.adapters.circuit_features import n_wires_for
from ketune.adapters.config import ConfigError
from ketune.adapters.counting import adapted_modules, meta_model
from ketune.adapters.registry import METHODS, get_method
from ketune.circuits import ANSATZE, MAX_WIRES, Circuit


@dataclass(frozen=True)
class LayerCircuit:
    """A circuit and the layers that it stands beside.

    Attributes:
        in_features: width of these layers' input.
        layers: their names, in the model's order.
        circuit: the circuit; each layer has its own angles.
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
    make: Any = getattr(config, "circuit", None)
    if make is None:
        raise ConfigError(f"{type(config).__name__}: this method has no circuit")
    by_width: dict[int, list[str]] = {}
    for name in adapted_modules(model, config):
        by_width.setdefault(_in_features(model.get_submodule(name)), []).append(name)
    return [LayerCircuit(width, tuple(names), make(width)) for width, names in by_width.items()]


def _in_features(layer: Any) -> int:
    return layer.weight.shape[0] if isinstance(layer, Conv1D) else layer.in_features


def build_circuit(
    ansatz: str,
    n_wires: int | None = None,
    n_layers: int = 1,
    entangler: str = "ring",
    in_features: int | None = None,
) -> Circuit:
    """A circuit by the name of its ansatz.

    Args:
        ansatz: a name in `ketune.circuits.ANSATZE`.
        n_wires: number of wires.
        n_layers: how often the layer repeats.
        entangler: "ring", "linear" or "none".
        in_features: instead of `n_wires`: as many wires as hold so many amplitudes.

    Raises:
        ConfigError: for an unknown name, or a number that is out of range.
    """
    if ansatz not in ANSATZE:
        near = difflib.get_close_matches(ansatz, ANSATZE, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown ansatz {ansatz!r}: choose from {', '.join(ANSATZE)}{hint}")
    if (n_wires is None) == (in_features is None):
        raise ConfigError(f"n_wires={n_wires}, in_features={in_features}: pass one of them")
    if in_features is not None:
        if in_features < 1:
            raise ConfigError(f"in_features={in_features}: must be at least 1")
        n_wires = n_wires_for(in_features)
    assert n_wires is not None
    if not 1 <= n_wires <= MAX_WIRES:
        raise ConfigError(f"n_wires={n_wires}: must be 1 to {MAX_WIRES}")
    try:
        return ANSATZE[ansatz](n_wires, n_layers, entangler)
    except ValueError as error:
        raise ConfigError(str(error)) from error


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

"""Puts a device in the place of the simulator in a model's circuits, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ketune.adapters.circuit_features import CircuitFeatures
from ketune.circuits import Circuit, Device, DeviceLayer, DeviceRunner, QuantumLayer


class TokenRunner(DeviceRunner):
    """A `DeviceRunner` for layers of a language model: circuits of padding are not run and read out as zeros.

    Args:
        device: as `DeviceRunner`, and so are further options.
        counted: (batch, length) bool, the tokens that count.
    """

    def __init__(self, device: Device, counted: torch.Tensor, **options: Any) -> None:
        super().__init__(device, **options)
        self.counted = counted

    def __call__(self, circuit: Circuit, x: torch.Tensor | None, angles: torch.Tensor, **options: Any) -> torch.Tensor:
        leading = angles if x is None else x
        if leading.shape[:-1] != self.counted.shape:
            return super().__call__(circuit, x, angles, **options)
        angles = angles if angles.ndim == 1 else angles[self.counted]
        kept = super().__call__(circuit, None if x is None else x[self.counted], angles, **options)
        out = kept.new_zeros(*self.counted.shape, kept.shape[-1])
        out[self.counted] = kept
        return out


@contextmanager
def circuits_on(model: torch.nn.Module, runner: DeviceRunner) -> Iterator[None]:
    """Runs all circuits of a model that read its input with a runner, for a while."""
    places = circuit_modules(model)
    before = {module: module.run_circuit for _, _, module in places if isinstance(module, CircuitFeatures)}
    try:
        for parent, name, module in places:
            if isinstance(module, CircuitFeatures):
                module.run_circuit = runner
            else:
                setattr(parent, name, DeviceLayer(module, runner))
        yield
    finally:
        for parent, name, module in places:
            if isinstance(module, CircuitFeatures):
                module.run_circuit = before[module]
            else:
                setattr(parent, name, module)


def circuit_modules(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, CircuitFeatures | QuantumLayer]]:
    """The circuits of a model that read its input, each with the module that holds it and its name there."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, CircuitFeatures | QuantumLayer)
    ]

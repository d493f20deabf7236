"""Choosing a circuit's starting angles on data: the readout should spread over the activations it will see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ketune.adapters.base import AdapterLayer
from ketune.adapters.circuit_features import CircuitFeatures

N_CANDIDATES = 8
N_STEPS = 20
MAX_ROWS = 512


def spread_readouts(
    model: nn.Module, batches: Iterable[dict[str, torch.Tensor]], adapter_name: str = "default"
) -> dict[str, tuple[float, float]]:
    """Set the angles of each QAA layer so that its readout has much variance in many directions.

    The objective is the mean log-eigenvalue of the readout's covariance over the calibration activations (floored, so
    that a readout of fewer independent values than wires stays finite). The best of a few random starts, with the
    present angles among them, is improved by a few Adam steps and kept only if it beats the present angles.

    Args:
        model: a model with QAA adapters.
        batches: keyword arguments of the model, a few batches.
        adapter_name: which adapter.

    Returns:
        The objective before and after, by layer name.

    Raises:
        ValueError: when the model has no QAA circuit under that name, or `batches` is empty.
    """
    circuits = circuits_of(model, adapter_name)
    if not circuits:
        raise ValueError(f"spread_readouts(adapter_name={adapter_name!r}): the model has no QAA circuit of that name")
    inputs = collect_inputs(model, {name: model.get_submodule(name) for name in circuits}, batches)
    return {name: _spread(features, inputs[name]) for name, features in circuits.items()}


def circuits_of(model: nn.Module, adapter_name: str) -> dict[str, CircuitFeatures]:
    """The amplitude-encoded circuits of an adapter by the names of their layers."""
    found: dict[str, CircuitFeatures] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, AdapterLayer) and adapter_name in layer.updates:
            features = getattr(layer.update_of(adapter_name), "features", None)
            if isinstance(features, CircuitFeatures):
                found[name] = features
    return found


def collect_inputs(
    model: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """The inputs that each layer sees on the batches, at most MAX_ROWS rows each, evenly taken."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def keeper(name: str):
        def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen[name].append(args[0].detach().flatten(0, -2).float())

        return keep

    handles = [layer.register_forward_pre_hook(keeper(name)) for name, layer in layers.items()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(**batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if not all(seen.values()):
        raise ValueError("spread_readouts(batches=...): no batch reached the adapted layers; pass at least one batch")
    rows = {name: torch.cat(parts) for name, parts in seen.items()}
    return {name: x[:: max(1, len(x) // MAX_ROWS)][:MAX_ROWS] for name, x in rows.items()}


def _spread(features: CircuitFeatures, x: torch.Tensor) -> tuple[float, float]:
    def objective(angles: torch.Tensor) -> torch.Tensor:
        z = features.read(x, angles)
        z = z - z.mean(0)
        covariance = z.T @ z / len(x)
        floor = 1e-6 * torch.eye(len(covariance), device=x.device)
        return torch.linalg.slogdet(covariance + floor)[1] / len(covariance)

    start = features.angles.detach()
    candidates = [start] + [torch.empty_like(start).uniform_(-torch.pi, torch.pi) for _ in range(N_CANDIDATES)]
    with torch.no_grad():
        values = [float(objective(angles)) for angles in candidates]
    best, best_value = candidates[values.index(max(values))], max(values)
    with torch.enable_grad():
        angles = best.clone().requires_grad_()
        optimizer = torch.optim.Adam([angles], lr=0.1)
        for _ in range(N_STEPS):
            optimizer.zero_grad()
            loss = -objective(angles)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        value = float(objective(angles))
        if value > best_value:
            best, best_value = angles.detach(), value
        features.turns.restart(best)
    return values[0], best_value

"""Frames of a layer: the directions of its inputs and outputs in which the loss falls fastest.

The gradient of the loss in a weight is G = sum over tokens of g x^T. Its singular vectors are the directions of
steepest descent where every weight costs the same. In the natural metric they are those of G after the activations are
whitened, G E[x x^T]^(-1/2): a direction that carries little activation needs a larger change of weight for the same
change of the output. `kfac` whitens the gradients too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ketune.adapters.adapter_layer import AdapterLayer
from ketune.adapters.config import ConfigError
from ketune.adapters.update import Update

KINDS = ("natural", "kfac", "gradient", "random")
"""Ways to choose frames."""

FLOOR = 1e-4
"""Directions with less than this share of the largest activation energy count as having it."""

SHORTEST = 1e-2
"""Length of a frame's shortest direction, against their root mean square: none is out of reach."""

MAX_BYTES = 2 << 30
"""Bytes of statistics that are gathered in one pass over the batches; larger models take several passes."""


class _Statistics:
    """Sums over tokens for one layer: the gradient of its weight, and second moments of inputs, outputs, gradients."""

    def __init__(self, layer: Any, kind: str, device: torch.device) -> None:
        n_in, n_out = layer.in_features, layer.out_features
        self.gradient = torch.zeros(n_out, n_in, device=device)
        self.inputs = torch.zeros(n_in, n_in, device=device) if kind != "gradient" else None
        self.gradients = torch.zeros(n_out, n_out, device=device) if kind == "kfac" else None
        self.output_square, self.n_tokens, self.saw_gradient = 0.0, 0, False

    @staticmethod
    def n_bytes(layer: Any, kind: str) -> int:
        n_in, n_out = layer.in_features, layer.out_features
        squares = (n_in**2 if kind != "gradient" else 0) + (n_out**2 if kind == "kfac" else 0)
        return 4 * (n_in * n_out + squares)

    def see(self, x: Tensor, output: Tensor) -> None:
        x = x.detach().flatten(0, -2).float()
        self.n_tokens += len(x)
        self.output_square += float(output.detach().float().square().sum())
        if self.inputs is not None:
            self.inputs += x.T @ x

        def see_gradient(gradient: Tensor) -> None:
            g = gradient.detach().flatten(0, -2).float()
            self.gradient += g.T @ x
            self.saw_gradient = True
            if self.gradients is not None:
                self.gradients += g.T @ g

        output.register_hook(see_gradient)

    def frames(self, m: int) -> tuple[Tensor, Tensor]:
        """U (out, m) and V (m, in): each entry of V x is about one, U has the scale of the outputs.

        Columns of U are as long as their singular values, so that where an optimiser moves all lambdas alike, as Adam
        does, the update moves along the (whitened) gradient and not as far along each of its faintest directions.
        """
        gradient, whiten_out = self.gradient, None
        whiten_in = torch.eye(gradient.shape[1], device=gradient.device)
        if self.inputs is not None:
            whiten_in = _inverse_root(self.inputs / self.n_tokens)
        if self.gradients is not None:
            whiten_out = _inverse_root(self.gradients / self.gradients.diagonal().mean().clamp_min(1e-30))
            gradient = whiten_out @ gradient
        u, singular, v = torch.linalg.svd(gradient @ whiten_in, full_matrices=False)
        up, down = u[:, :m], v[:m] @ whiten_in
        if whiten_out is not None:
            up = whiten_out @ up
            up = up / up.norm(dim=0).clamp_min(1e-30)
        lengths = singular[:m] / singular[:m].square().mean().sqrt().clamp_min(1e-30)
        up = up * lengths.clamp_min(SHORTEST)
        return up * (self.output_square / max(1, self.n_tokens * len(gradient))) ** 0.5, down


def _inverse_root(moments: Tensor) -> Tensor:
    """The inverse square root of a positive matrix, its small eigenvalues lifted to FLOOR of the largest."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp_min(float(values[-1].clamp_min(1e-30)) * FLOOR)
    return (vectors * values.rsqrt()) @ vectors.T


def point_frames(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], kind: str = "kfac", adapter_name: str = "default"
) -> None:
    """Chooses the frames of every layer of an adapter from the loss on a few batches.

    The model is run in evaluation mode, forward and backward, and nothing of it changes but the frames. Memory: a layer
    needs about in * out + in^2 numbers while it is looked at; layers are taken in groups of at most MAX_BYTES.

    Args:
        model: an adapted model whose adapter is at its start and trainable.
        batches: keyword arguments of the model, labels among them; about 64 sequences are enough for small models.
        kind: an entry of `KINDS` other than "random".
        adapter_name: which adapter.

    Raises:
        ConfigError: when the model has no such layers, there is no batch, the model returns no loss, nothing trains, or
            the loss does not depend on a layer. Layers of a group that fails keep their frames.
    """
    layers: dict[str, AdapterLayer] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, AdapterLayer)
        and adapter_name in module.updates
        and hasattr(module.update_of(adapter_name), "point")
    }
    batches = list(batches)
    if not layers or not batches:
        raise ConfigError(
            f"point_frames(adapter_name={adapter_name!r}): "
            + ("no batch was given; pass at least one" if layers else "the model has no adapter of that name to point")
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError(
            f"point_frames(adapter_name={adapter_name!r}): no parameter of the model trains; "
            "load the adapter with is_trainable=True, or set_adapter it first"
        )
    for group in _groups(layers, kind):
        gathered = {}
        with _watching(model, group, kind, gathered):
            for batch in batches:
                loss = getattr(model(**batch), "loss", None)
                if loss is None:
                    raise ConfigError("point_frames(batches=...): the model gave no loss; put labels into the batches")
                loss.backward(inputs=trained)
                for parameter in trained:
                    parameter.grad = None
        missed = [name for name in group if name not in gathered or not gathered[name].saw_gradient]
        if missed:
            raise ConfigError(
                f"point_frames: the loss of these batches does not depend on {missed[0]!r} ({len(missed)} such "
                "layers); leave layers that the batches do not reach out of target_modules"
            )
        for name, layer in group.items():
            update = layer.update_of(adapter_name)
            _point(update, *gathered[name].frames(update.down.shape[0]))


def _point(update: Update, up: Tensor, down: Tensor) -> None:
    if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise ConfigError("point_frames: gradients or activations are not finite numbers; check the batches")
    with torch.no_grad():
        update.point(up, down)  # pyright: ignore[reportCallIssue]


def _groups(layers: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    group: dict[str, Any] = {}
    size = 0
    for name, layer in layers.items():
        needs = _Statistics.n_bytes(layer, kind)
        if group and size + needs > MAX_BYTES:
            yield group
            group, size = {}, 0
        group[name] = layer
        size += needs
    yield group


@contextmanager
def _watching(model: nn.Module, group: dict[str, Any], kind: str, gathered: dict[str, _Statistics]) -> Iterator[None]:
    """Lets the layers of a group gather statistics whenever the model runs, in evaluation mode with gradients."""

    def hook(name: str):
        def watch(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in gathered:
                gathered[name] = _Statistics(layer, kind, output.device)
            gathered[name].see(args[0], output)

        return watch

    handles = [layer.register_forward_hook(hook(name)) for name, layer in group.items()]
    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()

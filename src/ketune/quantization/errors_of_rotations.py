"""What quantising costs a model, tensor by tensor, as it stands and with each rotation: RoSTE's lower level.

Calibration prompts pass through the model once, with all quantisers off. What each quantiser would have met is then
quantised both ways, so that both errors belong to the same inputs and do not depend on what is chosen elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ketune.quantization.attention import NAME as KV_QUANTIZER
from ketune.quantization.attention import kv_quantizers
from ketune.quantization.fake_quantize import FakeQuantizer, quantizers_off
from ketune.quantization.hadamard import Rotation
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.rotations import RotationPlace
from ketune.quantization.schemes import QuantizationError

NORMS = ("relative", "frobenius", "mean")
Batch = dict[str, torch.Tensor]
Key = tuple[str, str]
"""A module's name, and which of its tensors: "weight", "input", "query", "key" or "value"."""


@dataclass
class Errors:
    """Errors of quantising every tensor of a model.

    Attributes:
        plain: Without rotations, by module and tensor.
        rotated: With the rotation of its place, for tensors that have one.
        norm: "relative": |Q(x) - x|^2 / |x|^2. "frobenius": |Q(x) - x|^2, for activations per prompt, as in RoSTE's
            paper. "mean": the mean over entries, as in its code.
    """

    norm: str
    plain: dict[Key, float] = field(default_factory=dict)
    rotated: dict[Key, float] = field(default_factory=dict)

    def of_place(self, place: RotationPlace) -> tuple[float, float]:
        """The error of the tensors that a place's rotation turns: without it, and with it."""
        keys = [key for key in keys_of(place) if key in self.plain]
        return sum(self.plain[key] for key in keys), sum(self.rotated[key] for key in keys)

    def total(self, chosen: Iterable[RotationPlace]) -> float:
        """The error of the whole model with the rotations of some places."""
        turned = {key for place in chosen for key in keys_of(place)}
        return sum(self.rotated[key] if key in turned else error for key, error in self.plain.items())


def keys_of(place: RotationPlace) -> list[Key]:
    """The tensors that a rotation turns before they are quantised."""
    if place.kind == "R3":
        name = f"{place.consumer}.{KV_QUANTIZER}"
        return [(name, "query"), (name, "key")]
    keys = [(place.consumer, "weight"), (place.consumer, "input")]
    if place.values is not None:
        attention = place.consumer.rpartition(".")[0]
        keys += [(place.values.linear, "weight"), (f"{attention}.{KV_QUANTIZER}", "value")]
    return keys


@torch.no_grad()
def measure_errors(
    model: PreTrainedModel, places: Sequence[RotationPlace], batches: Iterable[Batch], norm: str = "relative"
) -> Errors:
    """Measure the errors of a prepared model whose places have no rotations yet. Leaves the model as it was.

    Args:
        model: With `QuantizedLinear` layers.
        places: Where rotations may go; each has to be unset.
        batches: Keyword arguments of the model: `input_ids` and `attention_mask`, which says what is not padding.
        norm: As in `Errors`.

    Raises:
        QuantizationError: An unknown norm, or no batch.
    """
    if norm not in NORMS:
        raise QuantizationError(f"norm={norm!r}: choose one of {', '.join(map(repr, NORMS))}")
    meter = _Meter(model, places, norm)
    n_prompts = 0
    with _evaluating(model), meter.watching():
        for batch in batches:
            n_prompts += len(batch["input_ids"])
            mask = batch.get("attention_mask")
            meter.mask = None if mask is None else mask.bool()
            model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False)
    if not n_prompts:
        raise QuantizationError("no calibration prompts: pass at least one batch")
    return meter.errors(n_prompts)


class _Sum:
    """Squared errors and squares of one tensor, over all batches."""

    def __init__(self) -> None:
        self.error = self.square = 0.0
        self.count = 0

    def add(self, x: torch.Tensor, quantizer: FakeQuantizer) -> None:
        x = x.detach().float()
        self.error += float((quantizer.quantize(x).dequantize() - x).square().sum(dtype=torch.float64))
        self.square += float(x.square().sum(dtype=torch.float64))
        self.count += x.numel()

    def value(self, norm: str, n_prompts: int) -> float:
        if norm == "relative":
            return self.error / self.square if self.square else 0.0
        return self.error / (n_prompts if norm == "frobenius" else max(1, self.count))


class _Meter:
    def __init__(self, model: PreTrainedModel, places: Sequence[RotationPlace], norm: str) -> None:
        self.model, self.norm = model, norm
        self.mask: torch.Tensor | None = None
        self.plain: dict[Key, _Sum] = {}
        self.rotated: dict[Key, _Sum] = {}
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}
        self.turns = {key: _turn(key, place) for place in places for key in keys_of(place)}
        self._weigh(places)

    def _weigh(self, places: Sequence[RotationPlace]) -> None:
        for name, layer in self.layers.items():
            self._add((name, "weight"), layer.rotated_weight(), layer.weight_quantizer, self.plain)
        for place in places:
            if place.kind == "R3":
                continue
            place.set(self.model)
            for name, part in keys_of(place):
                if part == "weight":
                    layer = self.layers[name]
                    self._add((name, part), layer.rotated_weight(), layer.weight_quantizer, self.rotated)
            place.set(self.model, on=False)

    def _add(self, key: Key, x: torch.Tensor, quantizer: Any, sums: dict[Key, _Sum]) -> None:
        if quantizer is not None:
            sums.setdefault(key, _Sum()).add(x, quantizer)

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [
            layer.register_forward_pre_hook(partial(self._before_layer, name)) for name, layer in self.layers.items()
        ]
        handles += [
            module.register_forward_pre_hook(partial(self._before_attention, name))
            for name, module in ((f"{layer}.{KV_QUANTIZER}", m) for layer, m in kv_quantizers(self.model))
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before_layer(self, name: str, layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        self._saw((name, "input"), self._seen(given[0]), layer.input_quantizer)

    def _before_attention(self, name: str, module: Any, given: tuple[torch.Tensor, ...]) -> None:
        for part, heads in zip(("query", "key", "value"), given):
            self._saw((name, part), self._seen(heads.transpose(1, 2)), getattr(module, f"{part}_quantizer"))

    def _saw(self, key: Key, x: torch.Tensor, quantizer: Any) -> None:
        self._add(key, x, quantizer, self.plain)
        if key in self.turns:
            self._add(key, self.turns[key](x), quantizer, self.rotated)

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """What is not padding: (batch, tokens, ...) to (seen tokens, ...)."""
        if self.mask is None or x.shape[:2] != self.mask.shape:
            return x
        return x[self.mask]

    def errors(self, n_prompts: int) -> Errors:
        found = Errors(self.norm)
        for sums, values in ((self.plain, found.plain), (self.rotated, found.rotated)):
            for key, total in sums.items():
                values[key] = total.value(self.norm, 1 if key[1] == "weight" else n_prompts)
        return found


def _turn(key: Key, place: RotationPlace) -> nn.Module:
    """What turns a tensor of a place: all heads of the consumer's input, or one head of keys and values."""
    return place.rotation() if key[1] == "input" else Rotation(place.head_dim)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode without its quantisers."""
    was_training = model.training
    model.eval()
    try:
        with quantizers_off(model):
            yield
    finally:
        model.train(was_training)

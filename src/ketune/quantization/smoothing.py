"""Smoothing: channels that quantise badly handed from activations to weights, by scales and shifts that train.

A linear layer computes X W^T + b = ((X - d) / s) (W s)^T + (b + W d) for any s > 0 and d, one of each per channel of X.
The left factor is what the activations' quantiser sees. What makes X takes over the division and the subtraction, so
that the function stays the same and nothing is added to what runs (SmoothQuant, arXiv 2211.10438; with shifts, Outlier
Suppression+, arXiv 2304.09145; trained, OmniQuant, arXiv 2308.13137; ZeroQAT, arXiv 2509.00031, eq. 4).

In a block there are four such places: the attention's norm before query, key and value; the MLP's norm before the
layers that it reads with; the value layer before the output layer, as the weights of an attention sum to one; and, by a
scale alone, query against key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ketune.quantization.layouts import BlockLayout, Heads
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.schemes import QuantizationError
from ketune.quantization.shifted_norm import check_gain, shift_norm_

LEAST = 1e-5
"""Smallest magnitude of a channel, so that one that is always zero gets a scale."""


class Smoothing(nn.Module):
    """A scale s > 0 and a shift d per channel.

    Args:
        width: Channels.
        has_shift: False leaves the shift out.

    Attributes:
        log_scale: (width,) the logarithm of s, so that any step leaves s positive.
        shift: (width,) or None.
    """

    def __init__(self, width: int, has_shift: bool = True, *, device: Any = None) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(width, device=device))
        self.shift = nn.Parameter(torch.zeros(width, device=device)) if has_shift else None

    def start(self, low: Tensor, high: Tensor, weights: Tensor, exponent: float) -> None:
        """Start as SmoothQuant does: s = max|x - d|^exponent / max|w|^(1 - exponent), d the middle of the range.

        Args:
            low, high: (width,) range of each channel of the activations.
            weights: (width,) largest magnitude of the weights that read it.
            exponent: From 0, all difficulty is the activations', to 1, all is the weights'.
        """
        with torch.no_grad():
            if self.shift is not None:
                self.shift.copy_((low + high) / 2)
                largest = (high - low) / 2
            else:
                largest = torch.maximum(low.abs(), high.abs())
            scale = largest.clamp(min=LEAST) ** exponent / weights.clamp(min=LEAST) ** (1 - exponent)
            self.log_scale.copy_(scale.log())


class BlockSmoothing(nn.Module):
    """The four smoothings of a block, as functions of its weights; the block itself changes in `fold` alone.

    Args:
        model: Holds the block. It is given biases of zeros where a shift will need them, which changes no output.
        layout: Of the block.
        has_shift: Whether there are shifts beside scales.
        rotary: Width of the part of each head that rotary embeddings turn, whose halves must share their scales.

    Raises:
        QuantizationError: For layers that are not a `QuantizedLinear` or are rotated, and norms without a gain.
    """

    def __init__(self, model: nn.Module, layout: BlockLayout, *, has_shift: bool = True, rotary: int = 0) -> None:
        super().__init__()
        for name in dict.fromkeys((*(r for place in layout.norms for r in place.readers), layout.output)):
            _check_layer(name, model.get_submodule(name))
        for place in layout.norms:
            check_gain(place.norm, model.get_submodule(place.norm))
        # In a tuple: its parameters are the model's, and not of this module.
        self._model, self.layout, self.rotary = (model,), layout, rotary
        if has_shift:
            for place in layout.norms:
                shift_norm_(model, place.norm)
            for name in self._needs_bias():
                _give_bias(model.get_submodule(name))
        device = self._weight(layout.output).device
        hidden = self._weight(layout.norms[0].readers[0]).shape[1]
        n_turned = rotary // 2 + layout.key.head_dim - rotary
        self.attention = Smoothing(hidden, has_shift, device=device)
        self.mlp = Smoothing(hidden, has_shift, device=device)
        self.values = Smoothing(layout.value.width, has_shift, device=device)
        self.keys = Smoothing(layout.key.n_heads * n_turned, has_shift=False, device=device)

    def start(self, ranges: Mapping[str, tuple[Tensor, Tensor]], exponent: float) -> None:
        """Set scales and shifts from the range of what enters the linear layers; `keys` start at one.

        Args:
            ranges: Lowest and highest value, (in_features,) each, by the name of the layer: one reader of each norm,
                and the output layer.
            exponent: See `Smoothing.start`.
        """
        for smoothing, place in zip((self.attention, self.mlp), self.layout.norms):
            low, high = next(ranges[name] for name in place.readers if name in ranges)
            weights = torch.stack([self._weight(name).abs().amax(0) for name in place.readers]).amax(0)
            smoothing.start(low, high, weights, exponent)
        low, high = ranges[self.layout.output]
        weights = self._weight(self.layout.output).abs().amax(0)
        # Values are shared by the queries' heads of a group.
        low, high, weights = (self._by_group(x) for x in (low, high, weights))
        self.values.start(low.amin(1).flatten(), high.amax(1).flatten(), weights.amax(1).flatten(), exponent)

    def forward(self) -> dict[str, Tensor]:
        """The smoothed parameters, differentiable, by their names in the model."""
        changed = _Changed(self._model[0])
        for smoothing, place in zip((self.attention, self.mlp), self.layout.norms):
            scale, shift = smoothing.log_scale.exp(), smoothing.shift
            for name in place.readers:
                changed.multiply_inputs(name, scale, shift)
            changed.divide_outputs(place.norm, scale, shift)
        scale, shift = self.values.log_scale.exp(), self.values.shift
        wide = [None if x is None else self._for_queries(x, self.layout.value) for x in (scale, shift)]
        changed.multiply_inputs(self.layout.output, *wide)  # pyright: ignore[reportArgumentType]
        changed.divide_outputs(self.layout.value.linear, scale, shift, rows=self.layout.value.rows())
        scale = self._over_pairs(self.keys.log_scale.exp())
        wide_scale = self._for_queries(scale, self.layout.key)
        changed.divide_outputs(self.layout.query.linear, wide_scale, rows=self.layout.query.rows())
        changed.divide_outputs(self.layout.key.linear, scale.reciprocal(), rows=self.layout.key.rows())
        return changed.tensors

    @torch.no_grad()
    def fold(self) -> None:
        """Write the smoothed parameters into the model."""
        for name, tensor in self().items():
            self._model[0].get_parameter(name).copy_(tensor)

    def _needs_bias(self) -> tuple[str, ...]:
        layout = self.layout
        readers = (name for place in layout.norms for name in place.readers)
        return tuple(dict.fromkeys((*readers, layout.value.linear, layout.output)))

    def _weight(self, name: str) -> Tensor:
        return self._model[0].get_parameter(f"{name}.weight").detach()

    def _by_group(self, x: Tensor) -> Tensor:
        """(width of the queries) to (heads of the values, queries' heads of each, head width)."""
        heads = self.layout.value
        return x.view(heads.n_heads, -1, heads.head_dim)

    def _for_queries(self, x: Tensor, heads: Heads) -> Tensor:
        """What belongs to heads of keys or values, for the heads of queries that share them."""
        n_shared = self.layout.query.n_heads // heads.n_heads
        return x.view(heads.n_heads, heads.head_dim).repeat_interleave(n_shared, 0).flatten()

    def _over_pairs(self, x: Tensor) -> Tensor:
        """Scales of the keys' channels, (width of the keys); the two that are turned together share one."""
        x = x.view(self.layout.key.n_heads, -1)
        half = x[:, : self.rotary // 2]
        return torch.cat([half, half, x[:, self.rotary // 2 :]], 1).flatten()


def rotary_width(model: nn.Module) -> int:
    """Width of the part of each head that rotary embeddings turn; 0 where there are none."""
    frequencies = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    return 2 * frequencies[0].numel() if frequencies else 0


class _Changed:
    """Parameters of a model that have become others, by their names."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.tensors: dict[str, Tensor] = {}

    def multiply_inputs(self, name: str, scale: Tensor, shift: Tensor | None) -> None:
        """The linear layer for an input x in place of scale x + shift."""
        weight = self._get(name, "weight")
        if shift is not None:
            self._set(name, "bias", self._get(name, "bias") + weight @ shift)
        self._set(name, "weight", weight * scale)

    def divide_outputs(self, name: str, scale: Tensor, shift: Tensor | None = None, rows: Tensor | None = None) -> None:
        """A norm or a linear layer that gives (y - shift) / scale in place of y.

        Args:
            name: Of the module.
            scale, shift: Of each output, or of each of `rows`.
            rows: The outputs meant.
        """
        weight = self._get(name, "weight")
        if rows is not None:
            rows = rows.to(weight.device)
            scale = torch.ones_like(weight[:, 0]).index_copy(0, rows, scale)
            shift = None if shift is None else torch.zeros_like(scale).index_copy(0, rows, shift)
        if getattr(self._model.get_submodule(name), "bias", None) is not None:
            bias = self._get(name, "bias")
            self._set(name, "bias", (bias if shift is None else bias - shift) / scale)
        self._set(name, "weight", weight / (scale if weight.ndim == 1 else scale.unsqueeze(1)))

    def _get(self, name: str, kind: str) -> Tensor:
        name = f"{name}.{kind}"
        return self.tensors[name] if name in self.tensors else self._model.get_parameter(name).detach()

    def _set(self, name: str, kind: str, tensor: Tensor) -> None:
        self.tensors[f"{name}.{kind}"] = tensor


def _check_layer(name: str, layer: nn.Module) -> None:
    if not isinstance(layer, QuantizedLinear):
        raise QuantizationError(
            f"{name} is a {type(layer).__name__}: smoothing wants every linear layer of a block with fake quantisers; "
            "call quantize_(model, QuantizeConfig(...)) for all of them first"
        )
    if layer.input_rotation is not None or layer.output_rotation is not None:
        raise QuantizationError(f"{name} is rotated; smooth a model or rotate it, not both")


def _give_bias(linear: Any) -> None:
    if linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features), linear.weight.requires_grad)

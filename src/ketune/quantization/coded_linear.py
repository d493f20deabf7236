"""A linear layer whose weight is stored as packed integer codes: what a quantised model is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from ketune.quantization.fake_quantize import FakeQuantizer, Quantized, dequantize
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.outliers import find_outliers
from ketune.quantization.packing import pack, packed_width, unpack
from ketune.quantization.schemes import QuantizationError, QuantizationScheme

FROZEN = (
    "the weights of this model are packed codes, which cannot be changed (but for outliers, by PreQuant); call "
    "ketune.quantization.dequantize_(model) first, or merge before quantize_(..., step='convert')"
)


class _ReadOnly(torch.Tensor):
    """A weight that is made anew whenever it is asked for, so that writing into it would change nothing."""

    @property
    def data(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        raise QuantizationError(FROZEN)


def is_stored_as_met(layer: object) -> bool:
    """Whether an adapter at entries of the stored weight meets inputs that the layer has rotated and quantised.

    So it is beside a `CodedLinear`, and beside what `dequantize_` makes of it, so that the same adapter does the same
    there. The weight of a layer that trains is rotated in each forward pass instead, and other layers rotate nothing.
    """
    return isinstance(layer, CodedLinear) or (isinstance(layer, QuantizedLinear) and layer.was_coded)


class CodedLinear(nn.Linear):
    """A linear layer that holds codes, steps and zero points, and no weight.

    Its output is that of the `QuantizedLinear` it was made from, to the last bit on the same inputs (without outliers):
    the weight that the codes stand for is computed in each forward pass and let go. Nothing in it trains; gradients
    reach its inputs, so adapters can stand beside it, PEFT's own among them (for which it counts as a
    `torch.nn.Linear`).

    A few entries of the weight can be outliers, which are kept as they were and take the place of what their codes
    stand for: `outlier_value` (n_outliers,) in the dtype of the weight, `outlier_index` (n_outliers,) int32 with
    row * in_features + column.

    Args:
        in_features, out_features: As of the layer it stands for.
        bias: Whether it has one.
        scheme: How weight and inputs are quantised; the weight has to be.
        n_outliers: How many entries are kept as they were.
        device, dtype: Of the bias, and the dtype of the weight that the codes stand for.

    Raises:
        QuantizationError: For a scheme without weights.
    """

    outlier_index: torch.Tensor | None
    outlier_value: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: QuantizationScheme,
        n_outliers: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)  # not that of Linear, which would make a weight
        if scheme.weights is None:
            raise QuantizationError("CodedLinear: the scheme leaves weights as they are, so there are no codes to hold")
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme.weights
        groups = in_features // self.scheme.size_of_groups(in_features)
        bytes_of_row = packed_width(in_features, self.scheme.bits)
        self.register_buffer("codes", torch.zeros(out_features, bytes_of_row, dtype=torch.uint8, device=device))
        self.register_buffer("scale", torch.ones(out_features, groups, dtype=torch.float32, device=device))
        zero = None
        if not self.scheme.symmetric:
            zero = torch.zeros(out_features, groups, dtype=torch.int32, device=device)
        self.register_buffer("zero_point", zero)
        dtype = dtype or torch.get_default_dtype()
        index = torch.zeros(n_outliers, dtype=torch.int32, device=device) if n_outliers else None
        self.register_buffer("outlier_index", index)
        value = torch.zeros(n_outliers, dtype=dtype, device=device) if n_outliers else None
        self.register_buffer("outlier_value", value)
        # A parameter as in torch.nn.Linear, for those who look for one; it is frozen like all the rest.
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype), False) if bias else None
        self.compute_dtype = dtype
        self.input_quantizer = FakeQuantizer(scheme.activations) if scheme.activations is not None else None
        self.input_rotation: nn.Module | None = None

    @classmethod
    def from_quantized(cls, layer: QuantizedLinear, n_outliers: int = 0, outlier_rule: str = "error") -> Self:
        """The codes of a layer that was trained with fake quantisers; its rotations are folded in where they can be.

        Args:
            layer: A layer with a quantiser of its weight.
            n_outliers: How many entries of the weight stay as they are.
            outlier_rule: Which: "error" or "magnitude", see `find_outliers`.
        """
        assert layer.weight_quantizer is not None
        scheme = QuantizationScheme(
            layer.weight_quantizer.scheme, layer.input_quantizer.scheme if layer.input_quantizer is not None else None
        )
        weight = layer.weight
        coded = cls(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            scheme=scheme,
            n_outliers=n_outliers,
            device=weight.device,
            dtype=weight.dtype,
        )
        if weight.device.type != "meta":
            quantized = layer.quantized_weight()
            coded.set_codes(quantized)
            if n_outliers:
                with torch.no_grad():
                    exact = layer.rotated_weight()
                coded.outlier_index = find_outliers(exact, n_outliers, outlier_rule, coded.dequantize_codes())
                coded.outlier_value = exact.detach().reshape(-1)[coded.outlier_index.long()]
            if (bias := layer.effective_bias()) is not None:
                coded.bias = nn.Parameter(bias.detach().clone(), False)
        if layer.rotates_input:
            coded.input_rotation = layer.input_rotation
        return coded.train(layer.training)

    def set_codes(self, quantized: Quantized) -> None:
        """Take over codes (out_features, in_features) with their steps and zero points."""
        unsigned = quantized.codes.to(torch.int16) - self.scheme.bounds[0]
        self.codes = pack(unsigned.to(torch.uint8), self.scheme.bits)
        self.scale = quantized.scale.to(torch.float32)
        self.zero_point = quantized.zero_point

    def unpacked(self) -> torch.Tensor:
        """The codes, (out_features, in_features), from `scheme.bounds[0]` on."""
        codes = unpack(self.codes, self.scheme.bits, self.in_features)
        return codes if not self.scheme.symmetric else codes.to(torch.int16) + self.scheme.bounds[0]

    def dequantize(self) -> torch.Tensor:
        """The weight that codes and outliers stand for, (out_features, in_features)."""
        weight = self.dequantize_codes()
        if self.outlier_index is not None and self.outlier_value is not None:
            weight.view(-1).index_copy_(0, self.outlier_index.long(), self.outlier_value.to(weight.dtype))
        return weight

    def dequantize_codes(self) -> torch.Tensor:
        """The same without the outliers: at their places is what their codes stand for."""
        return dequantize(self.unpacked(), self.scale, self.zero_point, self.compute_dtype)

    def set_weight(self, weight: torch.Tensor) -> None:
        """Take over a weight (out_features, in_features) that differs from `weight` at outliers alone, if anywhere.

        An adapter that changes nothing else is merged so, exactly. Setting `weight` does the same.

        Raises:
            QuantizationError: Where another entry differs; the layer is as it was.
        """
        current = self.dequantize()
        given, value = weight.detach().to(current).reshape(-1), None
        if self.outlier_index is not None:
            places = self.outlier_index.long()
            value = given[places]
            current.view(-1).index_copy_(0, places, value)
        if not torch.equal(current.view(-1), given):
            raise QuantizationError(FROZEN)
        self.outlier_value = value

    def to_quantized(self) -> QuantizedLinear:
        """A layer with the weight that the codes stand for; its inputs are quantised and rotated as here.

        A weight that meets rotated inputs is turned back, so that other adapters and their merging find it as they
        expect; that rounds it in floating point.
        """
        activations = self.input_quantizer.scheme if self.input_quantizer is not None else None
        weight = self.dequantize()
        if self.input_rotation is not None:
            weight = self.input_rotation.inverse(weight)  # pyright: ignore[reportCallIssue]
        layer = QuantizedLinear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            scheme=QuantizationScheme(None, activations),
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.weight.copy_(weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        layer.input_rotation, layer.was_coded = self.input_rotation, True
        return layer.requires_grad_(False).train(self.training)

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`dequantize()`, for code that reads the weight of a linear layer; made anew on each access."""
        return self.dequantize().as_subclass(_ReadOnly)

    @weight.setter
    def weight(self, value: torch.Tensor) -> None:  # PEFT sets it to itself when it takes its adapters off
        self.set_weight(value)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        weight = self.dequantize()
        return functional.linear(self.quantize_input(input).to(weight.dtype), weight, self.bias)

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """The activations as the weight meets them: rotated where that happens here, and quantised."""
        x = x if self.input_rotation is None else self.input_rotation(x)
        return x if self.input_quantizer is None else self.input_quantizer(x)

    @property
    def n_outliers(self) -> int:
        """How many entries of the weight are kept as they were."""
        return 0 if self.outlier_index is None else len(self.outlier_index)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        # `.to(bfloat16)` must not round the steps: the codes would stand for other values. What was asked for becomes
        # the dtype of the weight instead.
        kept = self.scale
        self.compute_dtype = fn(torch.empty(0, dtype=self.compute_dtype, device=kept.device)).dtype
        super()._apply(fn, recurse)
        if self.scale.dtype != kept.dtype:
            self.scale = kept.to(self.scale.device)
        return self

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bits={self.scheme.bits}"
        return f"{text}, n_outliers={self.n_outliers}" if self.n_outliers else text

"""A linear layer that trains as it will run when quantised, rotations included."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from ketune.quantization.fake_quantize import FakeQuantizer, Quantized
from ketune.quantization.schemes import QuantizationScheme


class QuantizedLinear(nn.Linear):
    """`torch.nn.Linear` whose weight and inputs are fake-quantised; `weight` and `bias` stay in full precision.

    What it computes, with Q the quantisers and R rotations: `Q(x R) Q(R^T W^T)`, then a rotation of the output that is
    folded into the weight. The weight that trains is not rotated, so that its gradients come through the rotation
    (RoSTE, arXiv 2502.09003, section 3).

    Attributes:
        weight_quantizer, input_quantizer: `FakeQuantizer`, or None for what stays as it is.
        input_rotation: Rotates the input side of the weight, a module with (..., in_features) to the same shape.
        rotates_input: Whether the activations are rotated here too. False where they arrive rotated, because the
            layer before has an `output_rotation`.
        was_coded: Whether the layer stands for codes that were turned back into a weight.
        output_rotation: Rotates what the layer gives, folded into weight and bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: QuantizationScheme | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        scheme = scheme or QuantizationScheme()
        if scheme.weights is not None:
            scheme.weights.size_of_groups(in_features)
        self.weight_quantizer = FakeQuantizer(scheme.weights) if scheme.weights is not None else None
        self.input_quantizer = FakeQuantizer(scheme.activations) if scheme.activations is not None else None
        self.input_rotation: nn.Module | None = None
        self.output_rotation: nn.Module | None = None
        self.rotates_input = True
        self.was_coded = False

    @classmethod
    def from_linear(cls, linear: nn.Linear | Conv1D, scheme: QuantizationScheme) -> Self:
        """The same layer with quantisers; it takes over the parameters of a `torch.nn.Linear`, and copies a Conv1D's.

        Raises:
            QuantizationError: Where groups of the scheme do not fill the layer's rows.
        """
        weight = linear.weight.T if isinstance(linear, Conv1D) else linear.weight
        with torch.device("meta"):  # nothing is allocated that the next lines replace
            layer = cls(weight.shape[1], weight.shape[0], linear.bias is not None, scheme=scheme)
        layer.weight = (
            nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), linear.weight.requires_grad)
            if isinstance(linear, Conv1D)
            else linear.weight
        )
        layer.bias = linear.bias
        return layer.train(linear.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        return self.forward_with(input)

    def forward_with(self, x: torch.Tensor, *deltas: torch.Tensor) -> torch.Tensor:
        """`forward` with changes of the weight, (out_features, in_features), that are quantised with it as one sum.

        They are added one after another, as merging does: another order rounds otherwise, and now and then to another
        code.
        """
        weight = self.effective_weight(*deltas)
        return functional.linear(self.quantize_input(x).to(weight.dtype), weight, self.effective_bias())

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """The activations as the weight meets them: rotated where that happens here, and quantised."""
        if self.input_rotation is not None and self.rotates_input:
            x = self.input_rotation(x)
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def rotated_weight(self, *deltas: torch.Tensor) -> torch.Tensor:
        """The weight in full precision, between both rotations: (out_features, in_features)."""
        weight = self.weight
        for delta in deltas:
            weight = weight + delta.to(weight.dtype)
        if self.input_rotation is not None:
            weight = self.input_rotation(weight)
        if self.output_rotation is not None:
            weight = self.output_rotation(weight.T).T
        return weight

    def effective_weight(self, *deltas: torch.Tensor) -> torch.Tensor:
        """The fake-quantised weight that the input is multiplied with."""
        weight = self.rotated_weight(*deltas)
        return weight if self.weight_quantizer is None else self.weight_quantizer(weight)

    def effective_bias(self) -> torch.Tensor | None:
        """The bias, in the rotated basis of the output."""
        if self.bias is None or self.output_rotation is None:
            return self.bias
        return self.output_rotation(self.bias)

    def fold_rotations(self) -> None:
        """Put into the weight what need not be turned in each forward pass; changes the layer, not what it computes."""
        if self.output_rotation is None and (self.input_rotation is None or self.rotates_input):
            return
        with torch.no_grad():
            kept = self.input_rotation if self.rotates_input else None
            if kept is not None:
                self.input_rotation = None
            self.weight.copy_(self.rotated_weight())
            if (bias := self.effective_bias()) is not None:
                self.bias.copy_(bias)
        self.input_rotation, self.output_rotation, self.rotates_input = kept, None, True

    def quantized_weight(self) -> Quantized:
        """The codes of the weight; they stand for exactly what `effective_weight` returns."""
        assert self.weight_quantizer is not None
        with torch.no_grad():
            return self.weight_quantizer.quantize(self.rotated_weight())

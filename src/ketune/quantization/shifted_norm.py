"""RMS normalisation with a bias: where the shift of smoothing goes in models whose norms have none."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from ketune.quantization.modules import replace_module
from ketune.quantization.schemes import QuantizationError


class ShiftedRMSNorm(nn.Module):
    """`x / rms(x) * weight + bias`, computed in float32.

    Args:
        width: Of the last axis.
        eps: Added to the mean square.
        device, dtype: Of weight and bias.
    """

    def __init__(self, width: int, eps: float, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(width, device=device, dtype=dtype))
        self.variance_epsilon = eps

    @classmethod
    def from_norm(cls, name: str, norm: Any) -> Self:
        """The same function as an RMS norm of transformers, whose weight it takes over.

        Raises:
            QuantizationError: For anything else, such as norms whose gain is in the weights beside them already.
        """
        check_gain(name, norm)
        weight, eps = norm.weight, getattr(norm, "variance_epsilon", None)
        if eps is None:
            raise QuantizationError(
                f"{name} is a {type(norm).__name__}: no bias, and no RMS norm of transformers; smooth without shifts"
            )
        shifted = cls(len(weight), eps, device=weight.device, dtype=weight.dtype)
        shifted.weight = weight
        shifted.bias.requires_grad_(weight.requires_grad)
        return shifted.train(norm.training)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same shape and dtype."""
        x = hidden_states.to(torch.float32)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (x * self.weight + self.bias).to(hidden_states.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.variance_epsilon}"


def shift_norm_(model: PreTrainedModel | nn.Module, name: str) -> None:
    """Give a norm a bias of zeros, unless it has one. Changes the model.

    Raises:
        QuantizationError: As `ShiftedRMSNorm.from_norm`.
    """
    norm = model.get_submodule(name)
    if getattr(norm, "bias", None) is None:
        replace_module(model, name, ShiftedRMSNorm.from_norm(name, norm))


def check_gain(name: str, norm: Any) -> None:
    """Refuse a norm without a gain that smoothing could change.

    Raises:
        QuantizationError: As said.
    """
    if getattr(norm, "weight", None) is None:
        raise QuantizationError(
            f"{name} is a {type(norm).__name__} without a gain that smoothing could change; smooth a model whose norms "
            "are not fused, and do not rotate it"
        )


def shifted_norms(model: nn.Module) -> list[str]:
    """Names of the norms that `shift_norm_` replaced."""
    return [name for name, module in model.named_modules() if isinstance(module, ShiftedRMSNorm)]

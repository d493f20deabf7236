"""How large a model is, and how many bits each of its weights takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ketune.quantization.coded_linear import CodedLinear


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model's tensors as they are stored, tied ones once.

    Attributes:
        n_bytes: All of them.
        n_weights: Numbers that the model computes with: parameters, and weights that codes stand for.
        coded_bytes: Codes, steps, zero points and outliers of the quantised layers.
        coded_weights: Weights that those stand for.
    """

    n_bytes: int
    n_weights: int
    coded_bytes: int
    coded_weights: int

    @property
    def bits_per_weight(self) -> float:
        """Of the whole model, embeddings and norms included."""
        return 8 * self.n_bytes / max(1, self.n_weights)

    @property
    def bits_per_coded_weight(self) -> float | None:
        """Of the quantised layers alone, steps and zero points included; None without any."""
        return 8 * self.coded_bytes / self.coded_weights if self.coded_weights else None

    def to_dict(self) -> dict[str, float | None]:
        """As JSON holds it."""
        return {
            "model_bytes": self.n_bytes,
            "bits_per_weight": self.bits_per_weight,
            "bits_per_coded_weight": self.bits_per_coded_weight,
        }


def size_of(model: nn.Module) -> ModelSize:
    """The size of a model's tensors. Layers of bitsandbytes and torchao count as what they hold."""
    n_bytes = n_weights = coded_bytes = coded_weights = 0
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, CodedLinear):
            coded_weights += module.in_features * module.out_features
            coded_bytes += sum(_bytes(t) for t in module.buffers(recurse=False))
        persistent = {k: b for k, b in module._buffers.items() if k not in module._non_persistent_buffers_set}
        for tensor in (*module._parameters.values(), *persistent.values()):
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            n_bytes += _bytes(tensor)
            if tensor.is_floating_point() and not isinstance(module, CodedLinear):
                n_weights += tensor.numel()
            elif type(module).__name__ == "Linear4bit":  # two codes in a byte, with the steps beside the tensor
                n_weights += int(module.in_features) * int(module.out_features)  # pyright: ignore
            elif type(module).__name__ == "Linear8bitLt":
                n_weights += tensor.numel()
    bias = sum(m.bias.numel() for m in model.modules() if isinstance(m, CodedLinear) and m.bias is not None)
    return ModelSize(n_bytes, n_weights + coded_weights + bias, coded_bytes, coded_weights)


def _bytes(tensor: torch.Tensor) -> int:
    state = getattr(tensor, "quant_state", None)  # of bitsandbytes
    extra = 0
    if state is not None:
        extra = sum(_bytes(t) for t in vars(state).values() if isinstance(t, torch.Tensor) and t is not tensor)
    names = getattr(tensor, "tensor_data_names", None)  # of torchao
    if names:
        return sum(_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size() + extra

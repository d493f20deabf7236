"""GPTQ: rounding after training, in which each column takes over the errors of those before it.

Source: Frantar et al. 2023, arXiv 2210.17323. It stands here as the rounding that users know, beside methods that
train. Each layer's inputs are those of the prepared model, activations quantised and rotated as they will be; they are
gathered for all layers in one pass, so that later layers do not see the errors of earlier ones (the original goes block
by block).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from ketune.quantization.coded_linear import CodedLinear
from ketune.quantization.errors_of_rotations import Batch
from ketune.quantization.fake_quantize import Quantized, quantize
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.modules import replace_module
from ketune.quantization.schemes import QuantizationError
from ketune.quantization.transformers_quantizer import attach_quantizer

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it; the original's value."""


@torch.no_grad()
def convert_gptq_(model: PreTrainedModel, batches: Iterable[Batch], damping: float = DAMPING) -> PreTrainedModel:
    """Turn the weights of a prepared model into codes by GPTQ instead of rounding. Changes the model and returns it.

    Args:
        model: After `quantize_(model, QuantizeConfig(...))`, with quantised weights.
        batches: Calibration prompts: keyword arguments of the model.
        damping: Share of the mean diagonal that is added to each Hessian.

    Raises:
        QuantizationError: For a model without fake-quantised weights, or without prompts.
    """
    layers = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, QuantizedLinear) and m.weight_quantizer is not None
    }
    if not layers:
        raise QuantizationError("GPTQ needs fake-quantised weights; call quantize_(model, QuantizeConfig(...)) first")
    hessians = _hessians(model, layers, batches)
    for name, layer in layers.items():
        coded = CodedLinear.from_quantized(layer)
        coded.set_codes(gptq(layer.rotated_weight(), hessians.pop(name), layer, damping))
        replace_module(model, name, coded)
    attach_quantizer(model)
    return model


def gptq(weight: torch.Tensor, hessian: torch.Tensor, layer: QuantizedLinear, damping: float = DAMPING) -> Quantized:
    """Codes (out_features, in_features) that keep `|(W - Q) X|` low; steps and zero points are those of rounding.

    Args:
        weight: (out_features, in_features) to round.
        hessian: (in_features, in_features) sum of x x^T over inputs.
        layer: Whose quantiser says how.
        damping: As in `convert_gptq_`.
    """
    assert layer.weight_quantizer is not None
    scheme = layer.weight_quantizer.scheme
    grid = quantize(weight, scheme, layer.weight_quantizer.clipping)
    per_group = weight.shape[1] // grid.scale.shape[1]
    step = grid.scale.double().repeat_interleave(per_group, 1)
    zero = (
        torch.zeros_like(step) if grid.zero_point is None else grid.zero_point.repeat_interleave(per_group, 1).double()
    )
    lowest, highest = scheme.bounds
    inverse = _upper_inverse(hessian.double(), damping)
    left, codes = weight.double().clone(), torch.empty_like(step)
    for column in range(weight.shape[1]):
        value = left[:, column]
        codes[:, column] = (torch.round(value / step[:, column]) + zero[:, column]).clamp(lowest, highest)
        rounded = (codes[:, column] - zero[:, column]) * step[:, column]
        error = (value - rounded) / inverse[column, column]
        left[:, column + 1 :] -= error[:, None] * inverse[column, column + 1 :]
    return Quantized(codes.to(grid.codes.dtype), grid.scale, grid.zero_point, scheme)


def _hessians(
    model: PreTrainedModel, layers: dict[str, QuantizedLinear], batches: Iterable[Batch]
) -> dict[str, torch.Tensor]:
    sums: dict[str, torch.Tensor] = {}
    mask: list[torch.Tensor | None] = [None]

    def watch(name: str, layer: QuantizedLinear, x: torch.Tensor) -> None:
        seen = mask[0]
        x = x if seen is None or x.shape[:2] != seen.shape else x[seen]
        x = layer.quantize_input(x).reshape(-1, layer.in_features).float()
        sums[name] = sums.get(name, 0) + x.T @ x  # pyright: ignore[reportArgumentType]

    handles = [
        layer.register_forward_pre_hook(lambda m, given, name=name: watch(name, m, given[0]))
        for name, layer in layers.items()
    ]
    was_training = model.training
    try:
        model.eval()
        for batch in batches:
            attention = batch.get("attention_mask")
            mask[0] = None if attention is None else attention.bool()
            model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    if len(sums) < len(layers):
        raise QuantizationError("GPTQ: no calibration prompt reached every layer; pass at least one batch")
    return sums


def _upper_inverse(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse; inputs that never occur count as if they were rare."""
    diagonal = hessian.diagonal()
    hessian = hessian + torch.diag((diagonal.mean() * damping).clamp(min=1e-12).expand_as(diagonal))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)

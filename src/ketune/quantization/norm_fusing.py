"""Normalisations without parameters: what they scale, shift and subtract goes into their neighbours.

A rotation of the residual stream passes through `x / rms(x)`, but not through a gain, a bias or the subtraction of a
mean. Gains and biases go into the linear layers that read after the norm. The mean needs no subtraction once nothing
that writes into the stream has one: embeddings and output layers are centred, and LayerNorm becomes an RMS norm. The
function stays the same (QuaRot, arXiv 2404.00456, and SliceGPT, arXiv 2401.15024, section 3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ketune.quantization.layouts import ModelLayout, NormPlace, layout_of
from ketune.quantization.modules import replace_module
from ketune.quantization.rewriting import linear_with_weight, rewrite_rows
from ketune.quantization.schemes import QuantizationError


def fuse_norms(model: PreTrainedModel) -> PreTrainedModel:
    """Move what the norms of the residual stream do besides normalising into other weights. Changes the model.

    RMS norms keep their gain as a parameter, at one, so that the model is one that transformers loads as any other.
    LayerNorms are replaced by RMS norms without parameters, and every linear layer that reads after one gets a bias;
    such a model is loaded into what `fuse_structure` makes. Output head and embeddings are no longer tied. A second
    call changes nothing.

    Args:
        model: A causal language model of a type in `layouts.ARCHITECTURES`, in any dtype; computed in float64.

    Returns:
        The model, which computes the same logits up to rounding. Hidden states of a LayerNorm model lose their mean.

    Raises:
        QuantizationError: For a model type that is not in the table, wrapped layers, or layers that hold codes.
    """
    layout = layout_of(model)
    for name in (*layout.readers, *layout.writers):  # before anything is changed
        linear_with_weight(model, name)
    centred = _has_means(model, layout)
    untie_embeddings(model)
    for place in layout.norms:
        _absorb(model, place)
    if centred:
        for name in layout.embeddings:
            rewrite_rows(model.get_parameter(f"{name}.weight"), _without_mean)
        for name in layout.writers:
            writer = linear_with_weight(model, name)
            rewrite_rows(writer.weight.mT, _without_mean)
            if writer.bias is not None:
                rewrite_rows(writer.bias, _without_mean)
    return fuse_structure(model)


def fuse_structure(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model the modules that `fuse_norms` leaves, without computing: for one whose weights are loaded next.

    Args:
        model: With or without storage ("meta"). New biases are zero.

    Raises:
        QuantizationError: As `fuse_norms`.
    """
    layout = layout_of(model)
    untie_embeddings(model)
    for place in layout.norms:
        norm = model.get_submodule(place.norm)
        if isinstance(norm, nn.LayerNorm):
            for name in place.readers:
                _give_bias(model.get_submodule(name))
            replacement = nn.RMSNorm(list(norm.normalized_shape), norm.eps, elementwise_affine=False)
            replace_module(model, place.norm, replacement.train(norm.training))
    return model


def has_fused_norms(model: nn.Module) -> bool:
    """Whether no norm of the residual stream has a gain, a bias or a mean to subtract; False where unknown."""
    try:
        layout = layout_of(model)
    except QuantizationError:
        return False
    if _has_means(model, layout):
        return False
    gains = (getattr(model.get_submodule(place.norm), "weight", None) for place in layout.norms)
    return all(gain is None or (not gain.is_meta and bool((gain == 1).all())) for gain in gains)


def untie_embeddings(model: PreTrainedModel) -> None:
    """Give the head a weight of its own, here and in what is saved and loaded."""
    head: Any = model.get_output_embeddings()
    embeddings: Any = model.get_input_embeddings()
    if head.weight is embeddings.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    model.config.tie_word_embeddings = False
    # What transformers consults from now on; it is made from the config when a model is built.
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _absorb(model: nn.Module, place: NormPlace) -> None:
    """Move the gain and the bias of a norm into the layers that read after it, and leave one and zero."""
    norm: Any = model.get_submodule(place.norm)
    gain, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    for name in place.readers:
        linear = linear_with_weight(model, name)
        if shift is not None:
            _give_bias(linear)
            with torch.no_grad():
                linear.bias.copy_(linear.bias.double() + _product(linear.weight, shift))
        if gain is not None:
            factor = gain.detach().double().to(linear.weight.device)
            rewrite_rows(linear.weight, lambda rows, factor=factor: rows * factor)
    with torch.no_grad():
        if gain is not None:
            gain.fill_(1)
        if shift is not None:
            shift.zero_()


def _product(weight: Tensor, vector: Tensor) -> Tensor:
    """`weight @ vector` in float64, without a copy of the weight in float64."""
    result = torch.empty(len(weight), 1, dtype=torch.float64, device=weight.device)
    vector = vector.detach().double().to(weight.device)
    for row, rows in zip(result.split(4096), weight.detach().split(4096)):
        row[:, 0] = rows.double() @ vector
    return result[:, 0]


def _has_means(model: nn.Module, layout: ModelLayout) -> bool:
    return any(isinstance(model.get_submodule(place.norm), nn.LayerNorm) for place in layout.norms)


def _give_bias(linear: Any) -> None:
    if linear.bias is None:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features), linear.weight.requires_grad)


def _without_mean(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)

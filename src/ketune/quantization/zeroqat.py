"""ZeroQAT: quantisation-aware training at the memory of inference, by forward passes alone.

Two stages. `initialize_` puts fake quantisers into a model and learns smoothing and clipping block by block. Then
`zeroth_order` makes the optimiser that trains the full-precision weights through their quantised images: perturbations
are a part of the quantiser's step, so that codes do change and yet the loss hardly does. `quantize_(model,
QuantizeConfig(..., step="convert"))` gives the model that was trained for.

Source: ZeroQAT (arXiv 2509.00031). As in both trainers of its code, and as the paper has it for fine-tuning, smoothing
and clipping are learned in the first stage only. Perturbations of one absolute length for all weights, as the paper has
them, are `ketune.optim.ZerothOrder` without a scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from ketune.optim import ZerothOrder
from ketune.quantization.coded_linear import CodedLinear
from ketune.quantization.fake_quantize import step_of
from ketune.quantization.layouts import layout_of
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.modules import replace_module
from ketune.quantization.prepare import QuantizeConfig, quantize_
from ketune.quantization.reconstruction import Batch, BlockError, reconstruct_
from ketune.quantization.schemes import QuantizationError, QuantizationScheme, as_scheme


@dataclass(frozen=True)
class ZeroQATConfig:
    """What `initialize_` does.

    Attributes:
        scheme: A `QuantizationScheme`, or its spelling: "w4a4kv4", "w2a16g128".
        quantize_queries: Queries are quantised too, with the scheme of the activations, as in the released code.
        lightweight: Only the query and the value projections keep full-precision weights, and train; all other linear
            layers of the blocks become packed codes at once. For fine-tuning; memory is then nearly that of the
            quantised model. A layer that makes query, key and value in one (GPT-NeoX) stays whole.
        trained: Which parameters train: names (suffixes, such as "q_proj.weight"), or a regular expression that matches
            whole names. None: the weights of all linear layers with fake quantisers.
        smoothing: Learn scales (and shifts) between activations and weights; None: where activations are quantised.
        shift: Learn shifts too; layers and norms without a bias are given one.
        clipping: Learn the part of each weight group's range that is kept.
        epochs: Passes over the calibration data for each block; the paper's 2 for W4A4 and 4 for W2A16. 0: no first
            stage.
        smoothing_lr, clipping_lr, exponent: See `reconstruct_`.

    Raises:
        QuantizationError: For a scheme without weights, or negative epochs.
    """

    scheme: QuantizationScheme | str = "w4a4"
    quantize_queries: bool = False
    lightweight: bool = False
    trained: list[str] | str | None = None
    smoothing: bool | None = None
    shift: bool = True
    clipping: bool = True
    epochs: int = 2
    smoothing_lr: float = 1e-2
    clipping_lr: float = 5e-3
    exponent: float = 0.65
    _scheme: QuantizationScheme = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_scheme", as_scheme(self.scheme))
        if self._scheme.weights is None:
            raise QuantizationError(f"ZeroQATConfig(scheme={str(self.scheme)!r}): weights must be quantised, e.g. 'w4a4'")
        if self.epochs < 0:
            raise QuantizationError(f"ZeroQATConfig(epochs={self.epochs}): must be 0 or more")


def initialize_(model: PreTrainedModel, config: ZeroQATConfig, batches: Iterable[Batch]) -> list[BlockError]:
    """Prepare a model for `zeroth_order`. Changes the model.

    What will train requires gradients afterwards, and nothing else does.

    Args:
        model: A causal language model of a type that `layouts` knows, in float32, without adapters.
        config: What to do.
        batches: Calibration data for the first stage, token ids (batch, length); the paper takes 128 segments of 2048
            tokens, one at a time.

    Returns:
        Each block's error before and after the first stage; nothing without one.

    Raises:
        QuantizationError: As `quantize_` and `reconstruct_`; for `trained` that fits no parameter, or only parameters
            that `lightweight` turns into codes.
    """
    layout = layout_of(model)
    quantize_(model, QuantizeConfig(config._scheme, quantize_queries=config.quantize_queries))
    smoothing = config._scheme.activations is not None if config.smoothing is None else config.smoothing
    errors = []
    if config.epochs and (smoothing or config.clipping):
        errors = reconstruct_(
            model,
            batches,
            smoothing=smoothing,
            shift=config.shift,
            clipping=config.clipping,
            epochs=config.epochs,
            smoothing_lr=config.smoothing_lr,
            clipping_lr=config.clipping_lr,
            exponent=config.exponent,
        )
    if config.lightweight:
        kept = {name for block in layout.blocks for name in (block.query.linear, block.value.linear)}
        for name, layer in list(model.named_modules()):
            if isinstance(layer, QuantizedLinear) and name not in kept:
                replace_module(model, name, CodedLinear.from_quantized(layer))
    _choose(model, config)
    return errors


def zeroth_order(
    model: nn.Module,
    lr: float = 1e-2,
    *,
    epsilon: float = 0.1,
    n_probes: int = 1,
    clip: float | None = 0.2,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> ZerothOrder:
    """The optimiser of a model that `initialize_` prepared: `ZerothOrder` in units of the quantisers' steps.

    Args:
        model: Its parameters that require gradients train.
        lr: Learning rate in these units: a weight whose quantiser has the step s moves by lr s^2 g u where plain
            descent moves it by lr g u.
        epsilon: Length of the perturbation, in steps. For 4 bits 0.1 changes about one code in twelve.
        n_probes, clip, weight_decay, seed: As of `ZerothOrder`.

    Raises:
        QuantizationError: If no parameter requires gradients.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise QuantizationError("zeroth_order: no parameter of the model requires gradients; call initialize_ first")
    return ZerothOrder(
        parameters,
        lr,
        epsilon=epsilon,
        n_probes=n_probes,
        clip=clip,
        weight_decay=weight_decay,
        seed=seed,
        scale_of=quantizer_steps(model),
    )


def quantizer_steps(model: nn.Module) -> Callable[[nn.Parameter], float | torch.Tensor]:
    """A function that gives the current step of each group of a quantised weight, (out_features, groups).

    For a parameter that no quantiser rounds it gives 0.01: with epsilon = 0.1 that is the paper's perturbation of 1e-3.
    """
    layers = {id(m.weight): m for m in model.modules() if isinstance(m, QuantizedLinear) and m.weight_quantizer}

    def steps(parameter: nn.Parameter) -> float | torch.Tensor:
        layer = layers.get(id(parameter))
        if layer is None:
            return 0.01
        quantizer = layer.weight_quantizer
        assert quantizer is not None
        return step_of(layer.rotated_weight(), quantizer.scheme, quantizer.clipping).squeeze(-1)

    return steps


def _choose(model: nn.Module, config: ZeroQATConfig) -> None:
    """Makes what trains, and nothing else, require gradients."""
    trained, wanted = [], config.trained
    if wanted is None:
        trained = [m.weight for m in model.modules() if isinstance(m, QuantizedLinear)]
    else:
        for name, parameter in model.named_parameters():
            is_meant = (
                re.fullmatch(wanted, name) is not None
                if isinstance(wanted, str)
                else any(name == suffix or name.endswith("." + suffix) for suffix in wanted)
            )
            if is_meant:
                trained.append(parameter)
    if not trained:
        why = "; with lightweight=True only query and value projections have weights" if config.lightweight else ""
        raise QuantizationError(f"ZeroQATConfig(trained={wanted!r}): fits no parameter of this model{why}")
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)

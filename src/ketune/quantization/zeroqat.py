"""ZeroQAT: quantisation-aware training at the memory of inference, by forward passes alone.

Two stages. `prepare_zeroqat_` puts fake quantisers into a model and learns smoothing and clipping block by block. Then
`zeroth_order` makes the optimiser that trains the full-precision weights through their quantised images: perturbations
are a part of the quantiser's step, so that codes do change and yet the loss hardly does. `quantize_(model,
QuantizeConfig(scheme, step="convert"))` gives the model that was trained for.

Source: ZeroQAT (arXiv 2509.00031). As in both trainers of its code, and as the paper has it for fine-tuning, smoothing
and clipping are learned in the first stage only. Perturbations of one absolute length for all weights, as the paper has
them, are `ketune.optim.ZerothOrder` without a scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

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

SCALE_OF_OTHERS = 0.01
"""For parameters that no quantiser rounds: with epsilon = 0.1, the paper's perturbation of 1e-3."""


@dataclass(frozen=True)
class ZeroQATConfig:
    """What `prepare_zeroqat_` does.

    Attributes:
        scheme: A `QuantizationScheme`, or its spelling: "w4a4kv4", "w2a16g128".
        quantize_queries: Queries are quantised too, with the scheme of the activations, as in the released code.
        lightweight: Only the query and the value projections keep full-precision weights, and train; all other layers
            with fake quantisers become packed codes at once. For fine-tuning; memory is then nearly that of the
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
    clipping_lr: float = 5e-2
    exponent: float = 0.65

    def __post_init__(self) -> None:
        scheme = as_scheme(self.scheme)
        if scheme.weights is None:
            raise QuantizationError(f"ZeroQATConfig(scheme={self.scheme!r}): weights must be quantised, e.g. 'w4a4'")
        if self.epochs < 0:
            raise QuantizationError(f"ZeroQATConfig(epochs={self.epochs}): must be 0 or more")
        object.__setattr__(self, "scheme", scheme)
        if self.smoothing is None:
            object.__setattr__(self, "smoothing", scheme.activations is not None)


@dataclass(frozen=True)
class ZeroQATReport:
    """What the first stage achieved.

    Attributes:
        blocks: Errors of the blocks, rounded to nearest and with what was learned; none without a first stage.
        n_trained: Numbers that will train.
    """

    blocks: tuple[BlockError, ...]
    n_trained: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.n_trained:,} weights train"
        if self.blocks:
            before, after = (
                sum(values) / len(self.blocks) for values in zip(*((b.before, b.after) for b in self.blocks))
            )
            text = f"errors of blocks: {before:.4g} rounded to nearest, {after:.4g} smoothed and clipped; {text}"
        return text


def prepare_zeroqat_(
    model: PreTrainedModel,
    config: ZeroQATConfig,
    batches: Callable[[], Iterable[Batch]] | Iterable[Batch] = (),
) -> ZeroQATReport:
    """Give a model fake quantisers, learn their smoothing and clipping, and settle what trains. Changes the model.

    What will train requires gradients afterwards, and nothing else does.

        prepare_zeroqat_(model, ZeroQATConfig("w4a4"), batches)
        optimizer = zeroth_order(model)
        for batch in data:
            optimizer.step(lambda: model(**batch).loss)
        quantize_(model, QuantizeConfig("w4a4", step="convert"))

    Args:
        model: A causal language model of a type in `layouts.ARCHITECTURES`, in float32, without adapters.
        config: How.
        batches: Calibration data for the first stage, or a function that gives it: token ids (batch, length), or
            keyword arguments of the model. The paper takes 128 segments of 2048 tokens, one at a time.

    Raises:
        QuantizationError: As `quantize_` and `reconstruct_`; for weights in half precision; and for `trained` that fits
            no parameter.
    """
    assert isinstance(config.scheme, QuantizationScheme)
    layout = layout_of(model)
    _check_dtypes(model)
    quantize_(model, QuantizeConfig(config.scheme, quantize_queries=config.quantize_queries))
    errors: list[BlockError] = []
    if config.epochs and (config.smoothing or config.clipping):
        errors = reconstruct_(
            model,
            batches,
            smoothing=bool(config.smoothing),
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
    trained = _trained(model, config)
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return ZeroQATReport(tuple(errors), sum(parameter.numel() for parameter in trained))


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
    """The optimiser of a model that `prepare_zeroqat_` prepared: `ZerothOrder` in units of the quantisers' steps.

    Args:
        model: Its parameters that require gradients train.
        lr: Learning rate in these units: a weight whose quantiser has the step s moves by lr s^2 g u where plain
            descent moves it by lr g u. With the steps of 4 bits in a model of billions (s about 0.01), 1e-2 is the
            paper's 1e-6; small models bear more.
        epsilon: Length of the perturbation, in steps. At 0.1, a fifth to a quarter of the codes differ between both
            sides of a probe: 2 epsilon sqrt(2 / pi) = 0.16 for a grid that stays, and the range moves it.
        n_probes, clip, weight_decay, seed: As of `ZerothOrder`.

    Raises:
        QuantizationError: If no parameter requires gradients.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise QuantizationError(
            "zeroth_order: no parameter of the model requires gradients; call prepare_zeroqat_ first"
        )
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

    For a parameter that no quantiser rounds it gives `SCALE_OF_OTHERS`.
    """
    layers = {id(m.weight): m for m in model.modules() if isinstance(m, QuantizedLinear) and m.weight_quantizer}

    def steps(parameter: nn.Parameter) -> float | torch.Tensor:
        layer = layers.get(id(parameter))
        if layer is None:
            return SCALE_OF_OTHERS
        quantizer = layer.weight_quantizer
        assert quantizer is not None
        return step_of(layer.rotated_weight(), quantizer.scheme, quantizer.clipping).squeeze(-1)

    return steps


def _trained(model: nn.Module, config: ZeroQATConfig) -> list[nn.Parameter]:
    wanted = config.trained
    if wanted is None:
        return [m.get_parameter("weight") for m in model.modules() if isinstance(m, QuantizedLinear)]

    def is_meant(name: str) -> bool:
        if isinstance(wanted, str):
            return re.fullmatch(wanted, name) is not None
        return any(name == suffix or name.endswith("." + suffix) for suffix in wanted)

    trained = [parameter for name, parameter in model.named_parameters() if is_meant(name)]
    if not trained:
        why = "; with lightweight=True only query and value projections have weights" if config.lightweight else ""
        raise QuantizationError(f"ZeroQATConfig(trained={wanted!r}): fits no parameter of this model{why}")
    return trained


def _check_dtypes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise QuantizationError(
                f"{name} is in {parameter.dtype}; weights that ZeroQAT perturbs must be exact, so load the model in "
                "float32 (what becomes codes takes no more memory for it)"
            )

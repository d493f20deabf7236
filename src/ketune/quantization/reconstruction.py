"""Smoothing and clipping learned block by block: each block, quantised, is to give what it gave before.

The blocks are trained in turn, on the outputs of the quantised blocks before them, so that each makes up for what those
have lost. Back-propagation runs through one block at a time (OmniQuant, arXiv 2308.13137; stage 1 of ZeroQAT, arXiv
2509.00031, whose code adds the second of the two targets below).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from ketune.quantization.fake_quantize import FakeQuantizer, LearnedClipping, quantizers_off
from ketune.quantization.layouts import BlockLayout, layout_of
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.schemes import QuantizationError
from ketune.quantization.smoothing import BlockSmoothing, rotary_width

Batch = Tensor | Mapping[str, Tensor]
"""Token ids (batch, length), or a mapping with `input_ids` and perhaps `attention_mask`, whose zeros do not count."""


@dataclass(frozen=True)
class BlockError:
    """How far a quantised block is from what it was.

    Attributes:
        name: Of the block.
        before: Rounded to nearest, with the same inputs: mean square error, relative to the mean square of the outputs.
        after: With what was learned.
    """

    name: str
    before: float
    after: float


def reconstruct_(
    model: PreTrainedModel,
    batches: Callable[[], Iterable[Batch]] | Iterable[Batch],
    *,
    smoothing: bool = True,
    shift: bool = True,
    clipping: bool = True,
    epochs: int = 2,
    smoothing_lr: float = 1e-2,
    clipping_lr: float = 5e-2,
    exponent: float = 0.65,
) -> list[BlockError]:
    """Learn smoothing and clipping of each block of a model with fake quantisers. Changes the model.

    Scales and shifts are folded into weights and biases; the clipping stays in the quantisers. The loss of a block is
    the mean square difference from two targets: the block's output in full precision on inputs in full precision, and
    on the inputs that it really gets. A block that learns nothing better than rounding to nearest is left as that.

    Beside the model, memory holds the gradients of one block and four activations (batch, length, width) per batch.

    Args:
        model: After `quantize_(model, QuantizeConfig(...))`, in float32.
        batches: Calibration data, or a function that gives it; each is one step of AdamW per epoch and block.
        smoothing: Learn scales (and shifts) between activations and weights.
        shift: Learn shifts too. Layers and norms without a bias are given one.
        clipping: Learn the part of each weight group's range that is kept.
        epochs: Passes over the batches for each block.
        smoothing_lr: Of the logarithm of scales, and of shifts.
        clipping_lr: Of what the sigmoids of the clipping are taken of. ZeroQAT's code has 5e-3 for Llama and 1e-2 for
            OPT with 128 batches, which clips too little with fewer of them, above all at 2 bits.
        exponent: Where scales start; see `Smoothing.start`.

    Returns:
        The errors of the blocks, first block first.

    Raises:
        QuantizationError: Without batches or fake quantisers, for half precision, rotated layers, and model types that
            `layouts` does not know.
    """
    blocks = layout_of(model).blocks
    _check(model, [block.name for block in blocks])
    with _calibrating(model):
        calls = [_Calls(model, batch) for batch in (batches() if callable(batches) else batches)]
        if not calls:
            raise QuantizationError("reconstruct_(batches=[]): give at least one batch of token ids")
        return [
            _Block(model, block, calls).reconstruct(
                (shift, exponent) if smoothing else None, clipping, epochs, smoothing_lr, clipping_lr
            )
            for block in blocks
        ]


class _Calls:
    """What a batch gives to the blocks.

    Attributes:
        exact, quantized: Input of the next block, from blocks in full precision and from quantised ones.
        arguments: What each block is called with besides, by its name.
        counted: (batch, length) where the batch has tokens; None: everywhere.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch) -> None:
        names = [block.name for block in layout_of(model).blocks]
        inputs = dict(batch) if isinstance(batch, Mapping) else {"input_ids": batch}
        inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask") if key in inputs}
        self.arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        first: list[Tensor] = []

        def note(name: str, _: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            if not first:
                first.append(arguments[0].detach())
            self.arguments[name] = arguments[1:], options

        handles = [
            model.get_submodule(name).register_forward_pre_hook(partial(note, name), with_kwargs=True) for name in names
        ]
        try:
            with torch.no_grad(), quantizers_off(model):
                model.base_model(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        self.exact = self.quantized = first[0]
        mask = inputs.get("attention_mask")
        self.counted = None if mask is None or bool(mask.all()) else mask.bool()

    def tokens(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the (n, width) that count."""
        return x.flatten(0, 1) if self.counted is None else x[self.counted]


class _Block:
    """One block, its targets and its error."""

    def __init__(self, model: PreTrainedModel, layout: BlockLayout, calls: list[_Calls]) -> None:
        self.model, self.layout, self.calls = model, layout, calls
        self.block = model.get_submodule(layout.name)
        self.targets: list[tuple[Tensor, Tensor]] = []

    def reconstruct(
        self,
        smoothing: tuple[bool, float] | None,
        clips: bool,
        epochs: int,
        smoothing_lr: float,
        clipping_lr: float,
    ) -> BlockError:
        ranges = self._find_targets()
        before = after = self._error({})
        groups = []
        smooth: Callable[[], dict[str, Tensor]] = dict
        learned: BlockSmoothing | None = None
        if smoothing is not None:
            has_shift, exponent = smoothing
            learned = BlockSmoothing(self.model, self.layout, has_shift=has_shift, rotary=rotary_width(self.model))
            learned.start(ranges, exponent)
            groups.append({"params": list(learned.parameters()), "lr": smoothing_lr})
            smooth = learned
        quantizers = self._add_clipping() if clips else []
        if quantizers:
            parameters = [p for quantizer in quantizers for p in quantizer.clipping.parameters()]  # pyright: ignore
            groups.append({"params": parameters, "lr": clipping_lr})
        if groups and self._train(smooth, groups, epochs):
            with torch.no_grad():
                after = self._error(smooth())
        if after < before:
            if learned is not None:
                learned.fold()
        else:
            after = before
            for quantizer in quantizers:
                quantizer.clipping = None
        with torch.no_grad():
            for call, (target, _) in zip(self.calls, self.targets):
                call.exact, call.quantized = target, self._run(call, call.quantized, {})
        return BlockError(self.layout.name, before, after)

    def _find_targets(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Runs the block without quantisers; returns the range of what enters its linear layers."""
        ranges: dict[str, tuple[Tensor, Tensor]] = {}
        names = [place.readers[0] for place in self.layout.norms] + [self.layout.output]
        with torch.no_grad(), quantizers_off(self.block):
            for call in self.calls:
                with _noting_ranges(self.model, names, call, ranges):
                    exact = self._run(call, call.exact, {})
                self.targets.append((exact, self._run(call, call.quantized, {})))
        return ranges

    def _add_clipping(self) -> list[FakeQuantizer]:
        found = []
        for layer in self.block.modules():
            if isinstance(layer, QuantizedLinear) and (quantizer := layer.weight_quantizer) is not None:
                width = layer.in_features // quantizer.scheme.size_of_groups(layer.in_features)
                quantizer.clipping = LearnedClipping(layer.out_features * width).to(layer.weight.device)
                found.append(quantizer)
        return found

    def _train(self, smooth: Callable[[], dict[str, Tensor]], groups: list[dict[str, Any]], epochs: int) -> bool:
        """Whether the loss stayed finite."""
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        with torch.enable_grad():
            for _ in range(epochs):
                for index in range(len(self.calls)):
                    optimizer.zero_grad()
                    loss = self._loss(index, smooth())
                    if not bool(loss.isfinite()):
                        return False
                    loss.backward()
                    optimizer.step()
        optimizer.zero_grad()
        return True

    def _loss(self, index: int, tensors: dict[str, Tensor]) -> Tensor:
        call = self.calls[index]
        found = call.tokens(self._run(call, call.quantized, tensors))
        exact, same_inputs = (call.tokens(target) for target in self.targets[index])
        size = exact.square().mean()
        return ((found - exact).square().mean() + (found - same_inputs).square().mean()) / (2 * size)

    def _error(self, tensors: dict[str, Tensor]) -> float:
        with torch.no_grad():
            losses = [self._loss(index, tensors) for index in range(len(self.calls))]
        return torch.stack(losses).mean().item()

    def _run(self, call: _Calls, hidden: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        """The block's output with some of its parameters replaced, by their names in the model."""
        arguments, options = call.arguments[self.layout.name]
        own = {name.removeprefix(f"{self.layout.name}."): tensor for name, tensor in tensors.items()}
        output = functional_call(self.block, own, (hidden, *arguments), options)
        return output[0] if isinstance(output, tuple) else output


@contextmanager
def _noting_ranges(
    model: nn.Module, names: list[str], call: _Calls, ranges: dict[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Widens `ranges` by what enters the named layers."""

    def note(name: str, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        low, high = call.tokens(arguments[0]).aminmax(dim=0)
        if name in ranges:
            low, high = torch.minimum(low, ranges[name][0]), torch.maximum(high, ranges[name][1])
        ranges[name] = low, high

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _calibrating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients for the model's own parameters; both are put back."""
    modes = {module: module.training for module in model.modules()}
    trained = [p for p in model.parameters() if p.requires_grad]
    known = set(model.parameters())
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)
        for module in model.modules():  # biases that smoothing added train where their weights do
            if isinstance(bias := getattr(module, "bias", None), nn.Parameter) and bias not in known:
                bias.requires_grad_(module.weight.requires_grad)  # pyright: ignore[reportArgumentType]


def _check(model: PreTrainedModel, blocks: list[str]) -> None:
    for name in blocks:
        layers = [m for m in model.get_submodule(name).modules() if isinstance(m, QuantizedLinear)]
        if not layers:
            raise QuantizationError(
                f"{name} has no fake quantisers to calibrate; call quantize_(model, QuantizeConfig(...)) first"
            )
        for layer in layers:
            if layer.weight.dtype not in (torch.float32, torch.float64):
                raise QuantizationError(
                    f"{name} has weights in {layer.weight.dtype}, in which smoothing loses bits; load them in float32"
                )
            if layer.input_rotation is not None or layer.output_rotation is not None:
                raise QuantizationError(f"{name} has rotated layers; reconstruct a model or rotate it, not both")

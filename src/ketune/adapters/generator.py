"""A circuit and a small mapping model that generate the parameters of other layers, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from ketune.adapters.config import module_seed
from ketune.adapters.generator_fields import GeneratorFields, Plan, make_plan
from ketune.circuits import run

_SMALLEST = 1e-12
# 1 / E[f(x)^2] for a standard normal x, by numerical integration.
_GAINS = {"silu": 2.8108, "tanh": 2.5362, "none": 1.0}
_FUNCTIONS = {"silu": F.silu, "tanh": torch.tanh}


def condition(probabilities: torch.Tensor, gamma: float, beta: float, alpha: float) -> torch.Tensor:
    """`q = (beta tanh(gamma 2^(N-1) p))^alpha`, less its mean, for the 2^N probabilities of N wires.

    The power has an infinite slope at zero, so probabilities below 1e-12 count as 1e-12.

    Args:
        probabilities: (2^N,).
        gamma, beta, alpha: the constants.

    Returns:
        (2^N,) values around zero.
    """
    size = probabilities.shape[-1]
    q = (beta * torch.tanh(gamma * (size / 2) * probabilities.clamp_min(_SMALLEST))) ** alpha
    return q - q.mean()


def basis_signs(n_states: int, n_wires: int) -> torch.Tensor:
    """The bits of 0, 1, ..., n_states - 1 as -1 and +1, wire 0 (the highest) first; (n_states, n_wires) int8."""
    index = torch.arange(n_states, device="cpu")[:, None]
    wire = torch.arange(n_wires - 1, -1, -1, device="cpu")[None, :]
    return (2 * ((index >> wire) & 1) - 1).to(torch.int8)


class Generator(nn.Module):
    """Makes chunks: basis state i and its probability go through a mapping model and come out as chunk i.

    What trains is the offset of every number from its start. The start is drawn from the seed on the CPU and is kept
    as the bits of float32 numbers in a buffer of whole numbers, which no change of dtype rounds and no file holds.

    Args:
        fields: the hyper-parameters.
        n_chunks: how many chunks there are.
        chunk: their length.
        seed: for the start.
        moved: begin at random offsets instead of zero.
    """

    signal_start: torch.Tensor
    mapping_start: torch.Tensor
    signs: torch.Tensor
    signal: nn.Parameter | None

    def __init__(self, fields: GeneratorFields, n_chunks: int, chunk: int, seed: int, moved: bool = False) -> None:
        super().__init__()
        self.fields = fields
        self.circuit = fields.circuit_of(n_chunks)
        self.shapes = fields.mapping_shapes(n_chunks, chunk)
        source = torch.Generator(device="cpu").manual_seed(seed)
        turn = 0.25 if fields.control == "classical" else math.pi  # a q of a random state spreads by 0.14
        signal = torch.full((fields.signal_length(n_chunks),), turn, device="cpu")
        mapping = torch.cat([_bounds(fields, shape, i) for i, shape in enumerate(self.shapes)])
        for name, bounds in (("signal", signal), ("mapping", mapping)):
            start = bounds * (2 * torch.rand(len(bounds), generator=source, device="cpu") - 1)
            self.register_buffer(f"{name}_start", start.view(torch.int32), persistent=False)
        self.register_buffer("signs", basis_signs(n_chunks, self.circuit.n_wires), persistent=False)
        self.mapping = nn.Parameter(torch.zeros(len(mapping)))
        trains = fields.control in ("trained", "classical")
        self.signal = nn.Parameter(torch.zeros(len(signal))) if trains else None
        if moved:
            self._move(mapping)

    @torch.no_grad()
    def _move(self, bounds: torch.Tensor) -> None:
        for offset, spread in ((self.mapping, bounds), (self.signal, torch.tensor(1.0))):
            if offset is not None and offset.device.type != "meta":
                offset.copy_(0.2 * spread * (2 * torch.rand(offset.shape) - 1))

    def forward(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Chunks `first` to `last` (exclusive), and how far they have moved since the start.

        The second result is exactly zero at the start, and precise beside it: it is the sum of what the last layer's
        own offset makes and of what the start's last layer makes of a moved input, not a difference of large numbers.

        Returns:
            Two tensors (last - first, chunk), float32 or better.
        """
        with torch.autocast(self.mapping.device.type, enabled=False):
            dtype = torch.promote_types(self.mapping.dtype, torch.float32)
            offset, start = self.mapping.to(dtype), self.mapping_start.view(torch.float32).to(dtype)
            n_out, n_in = self.shapes[-1]
            trunk = len(start) - n_out * (n_in + 1)
            inputs, inputs_start = self._inputs(first, last, dtype)
            features = self._trunk(inputs, start[:trunk] + offset[:trunk])
            with torch.no_grad():
                features_start = self._trunk(inputs_start, start[:trunk])
            by_offset = F.linear(features, *_layer(offset[trunk:], n_out, n_in))
            weight, bias = _layer(start[trunk:], n_out, n_in)
            now = F.linear(features, weight, bias) + by_offset
            return now, F.linear(features - features_start, weight) + by_offset

    def _inputs(self, first: int, last: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The mapping model's input now and at the start, (last - first, inputs)."""
        signs = self.signs[first:last].to(dtype)
        if self.fields.control == "none":
            return signs, signs
        start = self.signal_start.view(torch.float32).to(dtype)
        with torch.no_grad():
            at_start = torch.cat([signs, self._q(start)[first:last, None]], 1)
        if self.signal is None:
            return at_start, at_start
        return torch.cat([signs, self._q(start + self.signal.to(dtype))[first:last, None]], 1), at_start

    def _q(self, signal: torch.Tensor) -> torch.Tensor:
        if self.fields.control == "classical":
            return signal
        probabilities = run(self.circuit, None, signal, readout="probabilities")
        return condition(probabilities, self.fields.gamma, self.fields.beta, self.fields.alpha)

    def _trunk(self, x: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        """The mapping model without its last layer."""
        layers = []
        for n_out, n_in in self.shapes[:-1]:
            layers.append(_layer(flat, n_out, n_in))
            flat = flat[n_out * (n_in + 1) :]
        if self.fields.activation in _FUNCTIONS:
            for weight, bias in layers:
                x = _FUNCTIONS[self.fields.activation](F.linear(x, weight, bias))
            return x
        if layers:  # without activations all of it is one affine map, which costs as much as N + 2 chunks
            whole, shift = layers[0]
            for weight, bias in layers[1:]:
                whole, shift = weight @ whole, weight @ shift + bias
            x = F.linear(x, whole, shift)
        return x

    @torch.no_grad()
    def q(self) -> torch.Tensor:
        """What the mapping model gets beside the signs, one value for each chunk; (n_chunks,), or (0,) for `none`."""
        n_chunks = len(self.signs)
        inputs, _ = self._inputs(0, n_chunks, torch.float32)
        return inputs[:, self.signs.shape[1] :].flatten()


def _layer(flat: torch.Tensor, n_out: int, n_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (n_out, n_in) and bias (n_out,) from the beginning of a flat vector."""
    return flat[: n_out * n_in].view(n_out, n_in), flat[n_out * n_in : n_out * (n_in + 1)]


def _bounds(fields: GeneratorFields, shape: tuple[int, int], index: int) -> torch.Tensor:
    """The half-width of the uniform distribution that each number of a layer starts from; weight, then bias."""
    n_out, n_in = shape
    weight = bias = 1 / math.sqrt(n_in)
    if fields.init == "balanced":
        gain = _GAINS[fields.activation] if index else 1.0
        weight, bias = math.sqrt(3 * gain / n_in), 0.5
    return torch.cat([torch.full((n_out * n_in,), weight, device="cpu"), torch.full((n_out,), bias, device="cpu")])


class GeneratorBank(nn.Module):
    """All generators of an adapter, and which of their chunks make the vector of which layer.

    Args:
        fields: the hyper-parameters.
        groups: plans, and the seed of each; a vector's number counts through all groups.
        lengths: the length of each vector.
        moved: begin at random offsets instead of zero.
    """

    def __init__(
        self, fields: GeneratorFields, groups: Sequence[tuple[Plan, int]], lengths: Sequence[int], moved: bool = False
    ) -> None:
        super().__init__()
        self.lengths = list(lengths)
        self.generators = nn.ModuleList()
        self.pieces: list[list[tuple[int, int, int]]] = []
        for plan, seed in groups:
            before = len(self.generators)
            self.pieces += [[(before + p.generator, p.first, p.last) for p in pieces] for pieces in plan.pieces]
            for k, n_chunks in enumerate(plan.n_chunks):
                self.generators.append(Generator(fields, n_chunks, plan.chunk, module_seed(seed, str(k)), moved))

    def forward(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The vector of layer `index` (length,), less its mean, and how far it has moved since the start."""
        parts = [cast(Generator, self.generators[k])(first, last) for k, first, last in self.pieces[index]]
        length = self.lengths[index]
        now, moved = (torch.cat(chunks).flatten()[:length] for chunks in zip(*parts))
        return now - now.mean(), moved - moved.mean()


def one_bank(fields: GeneratorFields, lengths: Sequence[int], seed: int, moved: bool = False) -> GeneratorBank:
    """Generators that all vectors share."""
    return GeneratorBank(fields, [(make_plan(lengths, fields.chunk, fields.n_generators), seed)], lengths, moved)

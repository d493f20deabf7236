"""QuanTA: a circuit of trained gates on pairs of axes of the hidden state, beside a frozen projection."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.config import AdapterConfig
from ketune.adapters.controls import CONTROLS
from ketune.adapters.update import Update, lifted
from ketune.tensor_networks.axes import Axes, balanced_axes
from ketune.tensor_networks.gate_chain import GateChain
from ketune.tensor_networks.gate_graphs import GRAPHS, Pair, gate_pairs
from ketune.tensor_networks.gate_sizes import circuit_for
from ketune.tensor_networks.gate_starts import random_start, unit_start
from ketune.tensor_networks.two_streams import difference, difference_matrix, is_cheaper_dense

EXECUTIONS = ("auto", "factored", "materialised")
DEFAULT_AXES = 4
MOST_AXES = 16


@dataclass
class QuantaConfig(AdapterConfig):
    """Quantum-informed tensor adaptation (Chen et al., NeurIPS 2024, arXiv 2406.00132).

    An activation of width d is read as a tensor of N axes, d = d_1 ... d_N, like the state of N particles with d_m
    levels each. A circuit T has a gate, a (d_m d_n) x (d_m d_n) matrix, on every pair of axes, and
    `update(x) = T x - S x` with S the circuit of the gates' start values. There is no rank and no scale. The gates act
    in the order of the released code: axes (-1, -2) first, then (-1, -3), ..., (-1, -N), (-2, -3), ..., (-N + 1, -N).

    Where we deviate from the released code, on purpose: the base weight is never touched; what trains is the offset of
    each gate from its start, which comes back from a seed and is not saved; the difference of the circuits is computed
    without subtracting them (`ketune.tensor_networks.two_streams`); layers that are not square have axes of their own
    for the output and rectangular gates, where the release pads to the larger side.
    """

    size_field: ClassVar[str] = "max_parameters"

    axes: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={
            "help": "Sizes of the axes: a list for the width that it multiplies to, or lists by width, such as "
            "{'4096': [16, 8, 8, 4], '1024': [8, 8, 4, 4]}; a list that multiplies to more than its width pads with "
            "zeros. Other widths, and all with None, get balanced sizes."
        },
    )
    n_axes: int | None = field(
        default=None, metadata={"help": f"Number of axes where `axes` does not say; None: {DEFAULT_AXES}."}
    )
    graph: str = field(
        default="all_pairs", metadata={"help": f"Which pairs of axes have a gate: {', '.join(map(repr, GRAPHS))}."}
    )
    n_gates: int | None = field(
        default=None,
        metadata={
            "help": "Number of gates: fewer leave out the last pairs, more go round again. None: each pair once."
        },
    )
    max_parameters: int | None = field(
        default=None,
        metadata={"help": "Choose the axes of each layer for the most parameters up to this number. None: `n_axes`."},
    )
    execution: str = field(
        default="auto",
        metadata={
            "help": "'factored' (gate by gate on the activations), 'materialised' (the update's matrix once a step) or "
            "'auto' (what costs less for the number of tokens)."
        },
    )
    seed: int = field(default=0, metadata={"help": "The start values of the gates come from it and the layer's name."})
    control: str = field(
        default="trained", metadata={"help": "'trained', or a control: 'frozen', 'classical', 'none'."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.axes, dict):
            self.axes = {str(width): list(sizes) for width, sizes in self.axes.items()}
        elif self.axes is not None:
            self.axes = list(self.axes)
        lists = list(self.axes.values()) if isinstance(self.axes, dict) else [self.axes] if self.axes else []
        for sizes in lists:
            good = 2 <= len(sizes) <= MOST_AXES and all(isinstance(size, int) and size >= 1 for size in sizes)
            self._require("axes", good, f"a list has 2 to {MOST_AXES} whole numbers of 1 or more")
            self._require("axes", len(sizes) == len(lists[0]), "all lists must have equally many axes")
        if isinstance(self.axes, dict):
            for width, sizes in self.axes.items():
                enough = width.isdigit() and math.prod(sizes) >= int(width)
                self._require("axes", enough, f"the axes of width {width} must multiply to {width} or more")
        if self.n_axes is not None:
            self._require("n_axes", 2 <= self.n_axes <= MOST_AXES, f"must be from 2 to {MOST_AXES}")
            self._require("n_axes", not lists or len(lists[0]) == self.n_axes, "`axes` has another number of axes")
        self._choose("graph", tuple(GRAPHS))
        for name in ("n_gates", "max_parameters"):
            self._require(name, getattr(self, name) is None or getattr(self, name) >= 1, "must be at least 1")
        if self.max_parameters is not None:
            for name in ("axes", "n_gates"):
                self._require(name, getattr(self, name) is None, "max_parameters chooses it; set one of the two")
        self._choose("execution", EXECUTIONS)
        self._choose("control", CONTROLS)

    def chain(self, in_features: int, out_features: int) -> GateChain:
        """The circuit for a layer of this shape.

        Raises:
            ConfigError: when `axes` does not fit the layer, or `n_gates` are too few to reach an axis that has to
                change its size.
        """
        if self.max_parameters is not None:
            found = circuit_for(in_features, out_features, self.graph, self.max_parameters, self.n_axes)
            pairs = gate_pairs(self.graph, len(found.in_axes), found.n_gates)
            return _chain(pairs, found.in_axes, found.out_axes, in_features, out_features)
        before, after = self._axes(in_features, out_features)
        pairs = gate_pairs(self.graph, len(before), self.n_gates)
        try:
            return _chain(pairs, before, after, in_features, out_features)
        except ValueError as error:
            self._refuse("n_gates", self.n_gates, f"{error}; use more gates, or None for one on each pair")
            raise

    def _axes(self, in_features: int, out_features: int) -> tuple[Axes, Axes]:
        given: dict[int, Axes] = {}
        n_axes = self.n_axes or DEFAULT_AXES
        if isinstance(self.axes, dict):
            given = {int(width): tuple(sizes) for width, sizes in self.axes.items()}
        elif self.axes is not None:
            given = {math.prod(self.axes): tuple(self.axes)}
            if not given.keys() & {in_features, out_features}:
                self._refuse(
                    "axes",
                    self.axes,
                    f"they multiply to {math.prod(self.axes)}, and the layer goes from {in_features} to "
                    f"{out_features}; pass axes={{'{in_features}': [...]}} for lists by width, or None",
                )
        if given:
            n_axes = len(next(iter(given.values())))
        before, after = (given.get(width) or balanced_axes(width, n_axes) for width in (in_features, out_features))
        return before, after

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """The sum over gates of (out_m out_n) (in_m in_n); for the control 'none' at most in x out."""
        count = sum(self.chain(in_features, out_features).sizes)
        return min(count, in_features * out_features) if self.control == "none" else count


@lru_cache(maxsize=1024)
def _chain(pairs: tuple[Pair, ...], before: Axes, after: Axes, in_features: int, out_features: int) -> GateChain:
    return GateChain(pairs, before, after, in_features, out_features)


class QuantaUpdate(Update):
    """`x -> T x - S x`, zero at the start because every gate of T is its start in S and an offset of zero."""

    start: torch.Tensor
    places: torch.Tensor

    def __init__(self, config: QuantaConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        self.chain = config.chain(in_features, out_features)
        self.execution = config.execution
        self.first_order = config.control in ("frozen", "classical")
        self.scattered = config.control == "none"
        self.offsets = nn.Parameter(torch.zeros(config.parameter_count(in_features, out_features)))
        fixed = self._places(config.seed) if self.scattered else self._start(config)
        if torch.get_default_device().type == "meta":
            fixed = torch.empty_like(fixed, device="meta")
        # Made from the seed again on loading, so that a saved adapter holds what was trained and nothing else.
        self.register_buffer("places" if self.scattered else "start", fixed, persistent=False)

    def _start(self, config: QuantaConfig) -> torch.Tensor:
        if config.control == "classical":
            return unit_start(self.chain)
        return random_start(self.chain, torch.Generator("cpu").manual_seed(config.seed))

    def _places(self, seed: int) -> torch.Tensor:
        """One random place in each of equally many stretches of the matrix."""
        count, entries = self.offsets.numel(), self.in_features * self.out_features
        generator = torch.Generator("cpu").manual_seed(seed)
        within = torch.rand(count, generator=generator, device="cpu", dtype=torch.float64)
        bounds = torch.arange(count + 1, device="cpu") * entries // count
        return bounds[:-1] + (within * bounds.diff()).long()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        offsets, device = self.offsets, x.device.type
        if self.scattered:
            return F.linear(x, self._scatter(offsets))
        start = self.start.to(offsets.dtype)
        if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            x, start, offsets = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, start, offsets))
        training = torch.is_grad_enabled() and (x.requires_grad or offsets.requires_grad)
        dense = self.execution == "materialised" or (
            self.execution == "auto" and is_cheaper_dense(self.chain, x.numel() // self.in_features, training)
        )
        return difference(self.chain, x, start, offsets, dense=dense, first_order=self.first_order)

    def delta_weight(self) -> torch.Tensor:
        if self.scattered:
            return self._scatter(lifted(self.offsets))
        return difference_matrix(self.chain, lifted(self.start), lifted(self.offsets), self.first_order)

    def _scatter(self, entries: torch.Tensor) -> torch.Tensor:
        empty = entries.new_zeros(self.in_features * self.out_features)
        return empty.index_copy(0, self.places, entries).reshape(self.out_features, self.in_features)

    def gates(self) -> list[torch.Tensor]:
        """The gates as they are now, each as (out_m, out_n, in_m, in_n), in the order in which they act."""
        values = (lifted(self.start) + lifted(self.offsets)).split(self.chain.sizes)
        return [value.reshape(gate.shape) for value, gate in zip(values, self.chain.gates)]


register("quanta", QuantaConfig, QuantaUpdate)

"""The trains inside `AngleHypernet`: what each kind emits for a place, and how many weights it has."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ketune.tensor_networks import TrainLinear, TrainMatrix, balanced_modes, contract_matrix


def _precise(tensor: Tensor) -> Tensor:
    """In float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _matrix(layer: TrainLinear) -> Tensor:
    return contract_matrix([_precise(core) for core in layer.cores])[
        : layer.shape.out_features, : layer.shape.in_features
    ]


class _Remade(nn.Module):
    """A module with a constant that is in no file, and that is made anew wherever the module is moved.

    So it is right even where weights were made without memory (`meta`, `to_empty`) and are loaded later.
    """

    constant: Tensor

    def remake(self) -> Tensor:
        """The constant on the CPU."""
        raise NotImplementedError

    def last_core(self) -> nn.Parameter:
        """The core that the output is proportional to."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Remade:
        super()._apply(fn, recurse)
        self.constant = self.remake().to(self.last_core().device)
        return self


class LatentAngles(_Remade):
    """A fixed N(0, I) latent for each place through one train."""

    def __init__(
        self, n_places: int, n_angles: int, n_latent: int, max_rank: int, n_modes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._drawn = generator.initial_seed(), n_places, n_latent
        self.register_buffer("constant", self.remake(), persistent=False)
        self.train_layer = TrainLinear(TrainMatrix.balanced(n_angles, n_latent, max_rank, n_modes), init="variance")
        self.train_layer.reset_parameters(generator)

    @staticmethod
    def count(n_angles: int, n_latent: int, max_rank: int, n_modes: int) -> int:
        return TrainMatrix.balanced(n_angles, n_latent, max_rank, n_modes).n_parameters

    def last_core(self) -> nn.Parameter:
        return self.train_layer.cores[-1]

    def remake(self) -> Tensor:
        seed, n_places, n_latent = self._drawn
        # Its own stream, so that places are added without changing the cores.
        generator = torch.Generator().manual_seed(seed + 7919)
        return torch.randn(n_places, n_latent, generator=generator, device="cpu")

    def forward(self, place: int | None) -> Tensor:
        matrix = _matrix(self.train_layer)
        return F.linear((self.constant if place is None else self.constant[place]).to(matrix), matrix)


class CoordinateAngles(_Remade):
    """`pi tanh` of a network of two trains that reads a row about each angle."""

    def __init__(
        self,
        n_places: int,
        descriptors: Tensor,
        hidden: int,
        max_rank: int,
        n_modes: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        descriptors = _with_places(descriptors, n_places)
        self._rows = descriptors.detach().to("cpu", torch.float32)
        self.register_buffer("constant", self._rows, persistent=False)
        inner, outer = _coordinate_shapes(descriptors.shape[-1], hidden, max_rank, n_modes)
        self.inner, self.outer = TrainLinear(inner, "vector", "variance"), TrainLinear(outer, "none", "variance")
        self.inner.reset_parameters(generator)
        self.outer.reset_parameters(generator)

    @staticmethod
    def count(n_places: int, n_descriptors: int, hidden: int, max_rank: int, n_modes: int) -> int:
        extra = _N_PLACE_ENTRIES if n_places > 1 else 0
        inner, outer = _coordinate_shapes(n_descriptors + extra, hidden, max_rank, n_modes)
        return inner.n_parameters + hidden + outer.n_parameters

    def last_core(self) -> nn.Parameter:
        return self.outer.cores[-1]

    def remake(self) -> Tensor:
        return self._rows

    def forward(self, place: int | None) -> Tensor:
        assert self.inner.bias is not None
        matrix = _matrix(self.inner)
        rows = (self.constant if place is None else self.constant[place]).to(matrix)
        inside = F.silu(F.linear(rows, matrix, _precise(self.inner.bias)))
        return math.pi * F.linear(inside, _matrix(self.outer))[..., 0].tanh()


_N_PLACE_ENTRIES = 9


def _with_places(rows: Tensor, n_places: int) -> Tensor:
    """(n_angles, S) to (n_places, n_angles, S + 9): where the place stands, at four wavelengths. One place has S."""
    if n_places == 1:
        return rows[None]
    share = torch.arange(n_places, dtype=torch.float32, device=rows.device) / (n_places - 1)
    turns = share[:, None] * math.pi * 2.0 ** torch.arange(4, device=rows.device)
    where = torch.cat((2 * share[:, None] - 1, turns.sin(), turns.cos()), 1)
    told = where[:, None].expand(-1, len(rows), -1)
    return torch.cat((rows.float().expand(n_places, -1, -1), told), -1)


def _coordinate_shapes(n_descriptors: int, hidden: int, max_rank: int, n_modes: int) -> tuple[TrainMatrix, TrainMatrix]:
    inner = TrainMatrix.balanced(hidden, n_descriptors, max_rank, n_modes)
    return inner, TrainMatrix.balanced(1, hidden, max_rank, n_modes)


class PlacedAngles(nn.Module):
    """One train for all places, whose first output digits say the place: a vector for each, or a map of features."""

    def __init__(
        self,
        n_places: int,
        n_angles: int,
        n_features: int,
        max_rank: int,
        n_modes: int,
        bias: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_angles, self.n_features = n_angles, n_features
        self.n_places, self.digits = n_places, _place_modes(n_places)
        shape = _placed_shape(n_places, n_angles, n_features, max_rank, n_modes)
        self.train_layer = TrainLinear(shape, init="variance")
        self.train_layer.reset_parameters(generator)
        self.bias = nn.Parameter(torch.zeros(n_places, n_angles)) if bias else None

    @staticmethod
    def count(n_places: int, n_angles: int, n_features: int, max_rank: int, n_modes: int, bias: bool) -> int:
        shape = _placed_shape(n_places, n_angles, n_features, max_rank, n_modes)
        return shape.n_parameters + (n_places * n_angles if bias else 0)

    def last_core(self) -> nn.Parameter:
        return self.train_layer.cores[-1]

    def forward(self, place: int | None, x: Tensor | None = None) -> Tensor:
        if x is None:
            return self._vectors(place)
        assert place is not None
        matrix = self._matrix(place)
        bias = None if self.bias is None else _precise(self.bias[place])
        return F.linear(x.to(matrix), matrix, bias)

    def _vectors(self, place: int | None) -> Tensor:
        if place is not None:
            return self._matrix(place)[:, 0]
        whole = contract_matrix([_precise(core) for core in self.train_layer.cores])
        n_held = math.prod(self.digits)
        return whole.view(n_held, -1)[: self.n_places, : self.n_angles]

    def _matrix(self, place: int) -> Tensor:
        """(n_angles, n_features) from the slices of one place."""
        cores = [_precise(core) for core in self.train_layer.cores]
        rest = place
        for k in reversed(range(len(self.digits))):
            rest, digit = divmod(rest, self.digits[k])
            cores[k] = cores[k][:, digit : digit + 1]
        return contract_matrix(cores)[: self.n_angles, : self.n_features]


def _place_modes(n_places: int) -> tuple[int, ...]:
    return balanced_modes(n_places, 2) if n_places > 1 else ()


def _placed_shape(n_places: int, n_angles: int, n_features: int, max_rank: int, n_modes: int) -> TrainMatrix:
    places = _place_modes(n_places)
    pairs = [(place, 1) for place in places]
    pairs += [*zip(balanced_modes(n_angles, n_modes), balanced_modes(n_features, n_modes))]
    pairs = pairs[: len(places)] + ([pair for pair in pairs[len(places) :] if pair != (1, 1)] or [(1, 1)])
    sizes = [o * i for o, i in pairs]
    inner = [min(max_rank, math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes))]
    outs, ins = zip(*pairs)
    return TrainMatrix(math.prod(outs), n_features, outs, ins, (1, *inner, 1))

"""QuIC: the layer's output turned by compound matrices of small rotations, without ever building a compound."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.compound import compound_change, compound_table, largest_axes
from ketune.adapters.config import AdapterConfig
from ketune.adapters.controls import CONTROLS
from ketune.adapters.orthogonal import cayley_change, plane_rotation_change, random_normal, skew
from ketune.adapters.update import HasWeight, Update

if TYPE_CHECKING:
    from ketune.adapters.adapter_layer import AdapterLayer

MATRIX_ADVANTAGE = 8.0
"""How many times cheaper a multiplication is in one large matrix product than in a compound, with what goes with it;
on 2048 activations of widths 512 and 1024 the two ways cost about the same (see benchmarks/compounds.py)."""


@dataclass
class QuicConfig(AdapterConfig):
    """Orthogonal compound adapters (Raj and Coyle, arXiv 2502.06916).

    The adapted weight is `R W`, with R orthogonal and block diagonal. A block of width w holds an n x n rotation
    `Q = (I - S)(I + S)^-1`, S skew and free, as the direct sum of its compound matrices C_k(Q) for the orders k, and
    the identity on what is left; n is the largest with `sum_k C(n, k) <= w`: 90 for orders 1, 2 and 29 for orders
    1, 2, 3 at w = 4096. Orders [1] alone is OFT. S starts at zero, so R at the identity.

    `update(x) = (R - I) W x`: the layer's output without its bias is what R acts on. C_2(Q) x is `Q X Q^T` for the
    antisymmetric matrix X of x, so a vector costs O(d^1.5) (orders up to 2) or O(d^1.67) (up to 3) instead of O(d^2);
    on narrow layers the matrix of the change is built once and applied. `n_chained` rotations follow each other, each
    on rows shifted against the one before; on the same rows they would be one rotation, for C(A) C(B) = C(A B).

    A block too narrow for its orders (no n above the lowest) is turned by order 1 alone.
    """

    size_field: ClassVar[str] = "n_chained"

    orders: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "The orders k of the compounds."})
    n_blocks: int = field(default=1, metadata={"help": "Blocks of rows, each turned by itself."})
    share_blocks: bool = field(default=False, metadata={"help": "One rotation for all blocks."})
    n_chained: int = field(default=1, metadata={"help": "Rotations that follow each other, on shifted rows."})
    row_scale: bool = field(default=False, metadata={"help": "Also train a factor for each row."})
    control: str = field(
        default="trained",
        metadata={
            "help": "'trained', or a control: 'frozen' (random rotations behind trained gates), 'classical' (plane "
            "rotations, as many angles), 'none' (gates on the rows, no rotation)."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of the random rotations of control='frozen'."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.orders = sorted({int(k) for k in self.orders})
        self._require("orders", bool(self.orders) and self.orders[0] >= 1, "one or more whole numbers from 1 on")
        for name in ("n_blocks", "n_chained"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._choose("control", CONTROLS)

    def blocks(self, width: int) -> Blocks:
        """How `width` rows are cut into blocks, and the rotations in them."""
        count = max(1, min(self.n_blocks, width // 2))
        size, orders = width // count, tuple(self.orders)
        n = largest_axes(size, orders)
        if n <= orders[0]:
            n, orders = size, (1,)
        return Blocks(width, count, size, n, orders)

    def angles(self, width: int) -> int:
        """Free numbers of the rotations of one link of the chain, n (n - 1) / 2 for each that is not shared."""
        blocks = self.blocks(width)
        return (1 if self.share_blocks else blocks.count) * (blocks.n * (blocks.n - 1) // 2)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """Links times angles, and `out` for the row scale. Gates are at most `out` a link, which only OFT exceeds."""
        angles = self.angles(out_features)
        if self.control in ("frozen", "none"):
            angles = min(angles, out_features)
        return self.n_chained * angles + (out_features if self.row_scale else 0)


@dataclass(frozen=True)
class Blocks:
    """Rows in blocks: `count` of `size` rows each, with rotations of `n` axes and their compounds of `orders`."""

    width: int
    count: int
    size: int
    n: int
    orders: tuple[int, ...]

    @property
    def work(self) -> int:
        """Multiplications for one vector."""
        return self.count * sum(
            self.n**2 * math.comb(self.n, k - 1) + (self.n * math.comb(self.n, k - 1) ** 2 if k > 1 else 0)
            for k in self.orders
        )


class QuicUpdate(Update):
    """`x -> (R - I) W x`, zero at the start because R is the identity."""

    start: Tensor

    def __init__(self, config: QuicConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        self.blocks = blocks = config.blocks(out_features)
        self.control, self.n_chained, self.n_rotations = config.control, config.n_chained, 1
        self.n_rotations = 1 if config.share_blocks else blocks.count
        angles = config.angles(out_features)
        self.values = self.gates = None
        if angles and config.control in ("trained", "classical"):
            self.values = nn.Parameter(torch.zeros(config.n_chained, angles))
        elif angles:
            self.gates = nn.Parameter(torch.zeros(config.n_chained, min(angles, out_features)))
        if config.control == "frozen":
            start = random_normal(config.seed, 0, (config.n_chained, angles), blocks.n**-0.5)
            self.register_buffer("start", start, persistent=False)
        self.row_scale = nn.Parameter(torch.zeros(out_features)) if config.row_scale else None
        for order in range(2, blocks.orders[-1] + 1):
            for name, tensor in zip(("source", "sign", "picked"), compound_table(blocks.n, order)):
                self.register_buffer(f"{name}_{order}", tensor, persistent=False)

    # ------------------------------------------------------------------------------------------------- the rotation

    def change(self, rows: Tensor) -> Tensor:
        """`(R - I) rows` for (out_features, samples), in the dtype of the rows."""
        rotations = self._rotations()
        total: Tensor | None = None
        for link in range(self.n_chained if self.values is not None or self.gates is not None else 0):
            part = self._link(link, rows if total is None else rows + total, rotations)
            total = part if total is None else total + part
        if total is None:
            total = torch.zeros_like(rows)
        if self.row_scale is not None:
            total = total + self.row_scale.to(rows.dtype)[:, None] * (rows + total)
        return total

    def _rotations(self) -> Tensor | None:
        """`Q - I` of all links and blocks, (links, rotations, n, n), float32 or better."""
        values = self.start if self.control == "frozen" else self.values
        if values is None or self.control in ("classical", "none"):
            return None
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return cayley_change(skew(values.unflatten(1, (self.n_rotations, -1)), self.blocks.n))

    def _link(self, link: int, rows: Tensor, rotations: Tensor | None) -> Tensor:
        """The change that one link makes."""
        if self.control == "classical":
            return self._plane_rotations(link, rows)
        shift = _shift(link, len(rows))
        part = rows
        if rotations is not None:
            part = self._compounds(rotations[link], rows.roll(-shift, 0) if shift else rows)
            part = part.roll(shift, 0) if shift else part
        if self.gates is None:
            return part
        gate = self.gates[link].to(rows.dtype)
        return gate.repeat(-(-len(rows) // len(gate)))[: len(rows), None] * part

    def _compounds(self, rotation: Tensor, rows: Tensor) -> Tensor:
        """The compounds of (rotations, n, n) on the rows of all blocks."""
        b = self.blocks
        rotation = rotation.expand(b.count, -1, -1)
        body = rows[: b.count * b.size].reshape(b.count, b.size, -1)
        parts, first = [], 0
        for order in b.orders:
            length = math.comb(b.n, order)
            if order >= b.n:  # the determinant, which is one, or nothing at all
                continue
            tables = [
                (getattr(self, f"source_{k}"), getattr(self, f"sign_{k}"), getattr(self, f"picked_{k}"))
                for k in range(order, 1, -1)
            ]
            parts.append(compound_change(rotation, body[:, first : first + length], tables))
            first += length
        parts.append(body.new_zeros(b.count, b.size - first, body.shape[2]))
        turned = torch.cat(parts, 1).flatten(0, 1)
        rest = rows.new_zeros(b.width - len(turned), rows.shape[1])
        return torch.cat((turned, rest))

    def _plane_rotations(self, link: int, rows: Tensor) -> Tensor:
        """The classical stand-in: rounds of plane rotations, each on rows shifted against the round before."""
        values = cast(Tensor, self.values)[link]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        rounds = values.split(len(rows) // 2)
        total = torch.zeros_like(rows)
        for number, angles in enumerate(rounds):
            shift = _shift(link * len(rounds) + number, len(rows))
            total = total + plane_rotation_change((rows + total).roll(-shift, 0), angles).roll(shift, 0)
        return total

    # ------------------------------------------------------------------------------------------- beside the layer

    def beside(self, x: Tensor, output: Tensor, layer: AdapterLayer) -> Tensor:
        dtype = output.dtype if torch.is_autocast_enabled(output.device.type) else self.dtype
        turned = self.dropout(output).to(dtype)
        bias = getattr(layer.get_base_layer(), "bias", None)
        if bias is not None:
            turned = turned - bias.to(dtype)
        return self.turn(turned)

    def turn(self, y: Tensor) -> Tensor:
        """`(R - I) y` for activations (..., out_features), by R's action or, on narrow layers, by its matrix."""
        samples = y.numel() // self.out_features
        if self._matrix_is_cheaper(samples):
            matrix = self.change(torch.eye(self.out_features, dtype=y.dtype, device=y.device))
            return F.linear(y, matrix)
        return self.change(y.reshape(samples, -1).T).T.reshape(y.shape)

    def _matrix_is_cheaper(self, samples: int) -> bool:
        work = 0 if self.control in ("classical", "none") else self.n_chained * self.blocks.work * MATRIX_ADVANTAGE
        return samples * work > self.out_features * work + samples * self.out_features**2

    def delta_weight_beside(self, layer: HasWeight) -> Tensor:
        weight = layer.plain_weight()
        return self.change(weight.to(torch.promote_types(weight.dtype, torch.float32)))


def _shift(number: int, width: int) -> int:
    """Shifts that are far from each other for all numbers, by the golden ratio."""
    return int(number * 0.6180339887 * width) % width


register("quic", QuicConfig, QuicUpdate)

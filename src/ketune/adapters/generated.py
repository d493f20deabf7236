"""What a generated vector becomes beside a linear layer: LoRA factors, DoRA's, or a bottleneck on the output."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from ketune.adapters.adapter_layer import AdapterLayer
    from ketune.adapters.update import HasWeight


class LowRank:
    """`dW = scale * U D`: r (out + in) numbers, U (out, r) first, then D (r, in).

    U is what the generator has moved since its start and D what it makes now, so the change is zero at the start and
    U gets a gradient at once.

    Args:
        in_features, out_features: the layer's widths.
        r: the rank.
        scale: constant factor.
        unit: whether the generated numbers are of unit size and D has to be brought to 1 / sqrt(in).
    """

    why_not_mergeable: str | None = None

    def __init__(self, in_features: int, out_features: int, r: int, scale: float, unit: bool) -> None:
        self.in_features, self.out_features, self.r, self.scale = in_features, out_features, r, scale
        self.down_factor = in_features**-0.5 if unit else 1.0

    @staticmethod
    def length(in_features: int, out_features: int, r: int) -> int:
        """How many numbers it takes."""
        return r * (in_features + out_features)

    def factors(self, now: torch.Tensor, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """U (out, r), with the scale in it, and D (r, in)."""
        n_up, n_down = self.out_features * self.r, self.r * self.in_features
        up = moved[:n_up].view(self.out_features, self.r) * self.scale
        return up, now[n_up : n_up + n_down].view(self.r, self.in_features) * self.down_factor

    def change(
        self, now: torch.Tensor, moved: torch.Tensor, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer
    ) -> torch.Tensor:
        """The change of the layer's output (..., out)."""
        up, down = self.factors(now, moved)
        return F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))

    def delta_weight(self, now: torch.Tensor, moved: torch.Tensor, layer: HasWeight) -> torch.Tensor:
        """The change of the layer's weight (out, in)."""
        up, down = self.factors(now, moved)
        return up @ down


class DirectionAndMagnitude(LowRank):
    """DoRA: `W' = |W| (1 + c) * (W + scale U D) / |W + scale U D|` row by row, with one number c more per output.

    As in DoRA (Liu et al. 2024, arXiv 2402.09353, section 4.3) no gradient goes through the norm below. The norms come
    from products of thin matrices; W + scale U D is never built.
    """

    @staticmethod
    def length(in_features: int, out_features: int, r: int) -> int:
        return r * (in_features + out_features) + out_features

    def gain(
        self, up: torch.Tensor, down: torch.Tensor, moved: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the rows of W + scale U D are multiplied with, (out,), and the norms of those rows, (out,)."""
        with torch.no_grad():
            rows = weight.to(up.dtype)
            before = torch.linalg.vector_norm(rows, dim=1)
            cross = 2 * (rows @ down.T) + up @ (down @ down.T)
            after = (before.square() + (up * cross).sum(1)).clamp_min(0)
            # Rows that have not moved keep their norm bit for bit, so that nothing changes at the start.
            after = torch.where((up == 0).all(1), before, after.sqrt()).clamp_min(torch.finfo(up.dtype).tiny)
        grown = 1 + moved[-self.out_features :]
        return grown * torch.where(before > 0, before / after, 1.0), after

    def change(
        self, now: torch.Tensor, moved: torch.Tensor, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer
    ) -> torch.Tensor:
        up, down = self.factors(now, moved)
        weight = layer.plain_weight()
        gain, _ = self.gain(up, down, moved, weight)
        if sum(name in layer.updates for name in layer.active_adapters) > 1:
            plain = F.linear(x, weight.to(x.dtype))  # the output holds the change of another adapter already
        else:
            bias = getattr(layer.get_base_layer(), "bias", None)
            plain = output if bias is None else output - bias
        step = F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))
        return (gain - 1) * plain + gain * step

    def delta_weight(self, now: torch.Tensor, moved: torch.Tensor, layer: HasWeight) -> torch.Tensor:
        up, down = self.factors(now, moved)
        weight = layer.plain_weight()
        gain, _ = self.gain(up, down, moved, weight)
        return (gain - 1)[:, None] * weight.to(up.dtype) + gain[:, None] * (up @ down)


class Bottleneck(LowRank):
    """A feed-forward adapter on the layer's output, `y + scale * U gelu(D y)`: 2 r out numbers."""

    why_not_mergeable = (
        "QPA with target='adapter' is not linear in the layer's input; train with target='lora' or 'dora'"
    )

    def __init__(self, in_features: int, out_features: int, r: int, scale: float, unit: bool) -> None:
        super().__init__(out_features, out_features, r, scale, unit)

    @staticmethod
    def length(in_features: int, out_features: int, r: int) -> int:
        return 2 * r * out_features

    def change(
        self, now: torch.Tensor, moved: torch.Tensor, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer
    ) -> torch.Tensor:
        up, down = self.factors(now, moved)
        return F.linear(F.gelu(F.linear(output.to(x.dtype), down.to(x.dtype))), up.to(x.dtype))


TARGETS: dict[str, type[LowRank]] = {"lora": LowRank, "dora": DirectionAndMagnitude, "adapter": Bottleneck}


def target_of(name: str) -> type[LowRank]:
    """The class behind a value of `QPAConfig.target`."""
    return cast(type[LowRank], TARGETS[name])

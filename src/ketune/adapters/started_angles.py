"""Angles that train as offsets from a start which no cast can touch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ketune.adapters.update import lifted


class StartedAngles(nn.Module):
    """`start + offset`, in float32 or better.

    In bfloat16 an angle of size pi is off by up to 2^-8, and the errors of all angles of a circuit add up, so that what
    a deep circuit reads would be off by several per cent. An offset from the start loses 2^-9 of itself. The start is
    kept as the bits of float32 numbers, in a tensor of integers, because a model's `to(dtype)` casts whatever is
    floating.

    Args:
        start: (n,) angles in radians.
        trainable: whether there is an offset.
    """

    start: Tensor
    offset: nn.Parameter | None

    def __init__(self, start: Tensor, trainable: bool = True) -> None:
        super().__init__()
        # An empty tensor has nothing to say and is more than some file formats and shardings take.
        self.register_buffer("start", start.float().view(torch.int32), persistent=len(start) > 0)
        self.offset = nn.Parameter(torch.zeros(len(start))) if trainable and len(start) else None

    def forward(self) -> Tensor:
        """The angles (n,)."""
        start = self.start.view(torch.float32)
        if self.offset is None:
            return start
        offset = lifted(self.offset)
        return start.to(offset.dtype) + offset

    @torch.no_grad()
    def restart(self, start: Tensor) -> None:
        """Begins again at other angles (n,)."""
        self.start.copy_(start.float().view(torch.int32))
        if self.offset is not None:
            self.offset.zero_()

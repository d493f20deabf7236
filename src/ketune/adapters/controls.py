"""What a quantum part is compared against: the same adapter with the circuit frozen, replaced or left out.

Every adapter with a circuit has a field `control`:

- `trained`: the method itself.
- `frozen`: the same circuit with random angles that do not train.
- `classical`: a classical stand-in with as many trainable angles as the circuit, see `GivensFeatures`.
- `none`: the readout of the encoded input, without any circuit.

A gain that does not survive these is not a gain of the circuit.
"""

from __future__ import annotations

import torch
from torch import nn

from ketune.adapters.orthogonal import givens_rotation

CONTROLS = ("trained", "frozen", "classical", "none")


def walsh_rows(count: int, width: int) -> torch.Tensor:
    """The first `count` non-constant Walsh functions on `width` points, entries +1 and -1, shape (count, width).

    Row i takes the sign (-1)^popcount((i + 1) & j): the same sign patterns that Pauli-Z words read a state with.
    """
    index = torch.arange(1, count + 1)[:, None] & torch.arange(width)[None, :]
    parity = torch.zeros_like(index)
    for bit in range(count.bit_length()):
        parity ^= (index >> bit) & 1
    return 1.0 - 2.0 * parity.to(torch.float32)


class GivensFeatures(nn.Module):
    """The classical stand-in for an amplitude-encoded circuit with `n_readouts` values.

    The input's direction is projected on fixed Walsh functions, turned by plane rotations with trainable angles (as
    many as the circuit has) and, unless `linear`, bounded by tanh. Like the circuit it sees the direction only, gives
    bounded values and costs the same number of parameters; unlike it there is no state, no entangler and no squared
    readout.

    Args:
        in_features: width of the input.
        n_readouts: number of values.
        n_angles: number of trainable angles.
        linear: keep length and sign, for readouts that are linear in the input.
    """

    signs: torch.Tensor

    def __init__(self, in_features: int, n_readouts: int, n_angles: int, linear: bool) -> None:
        super().__init__()
        self.n_readouts = n_readouts
        self.linear = linear
        self.size = max(2, n_readouts)
        self.angles = nn.Parameter(torch.empty(n_angles).uniform_(-torch.pi, torch.pi))
        self.register_buffer("signs", walsh_rows(self.size, in_features), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., n_readouts), float32 or better."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        rotation = givens_rotation(self.angles.to(x.dtype), self.size)[: self.n_readouts]
        projected = x @ (rotation @ self.signs.to(x.dtype)).T
        if self.linear:
            return projected / self.signs.shape[1] ** 0.5
        length = x.norm(dim=-1, keepdim=True)
        return torch.tanh(projected / length.clamp_min(torch.finfo(x.dtype).tiny))

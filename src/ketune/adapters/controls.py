"""What a quantum part is compared against: the same adapter with the circuit frozen, replaced or left out.

Every adapter with a circuit has a field `control`:

- `trained`: the method itself.
- `frozen`: the same circuit with random angles that do not train.
- `classical`: a classical stand-in with as many trainable angles as the circuit, see `GivensFeatures`.
- `none`: the readout of the encoded input, without any circuit.

A gain that does not survive these is not a gain of the circuit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ketune.adapters.orthogonal import givens_rotation
from ketune.adapters.started_angles import StartedAngles
from ketune.circuits import QuantumLayer

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
        trainable: whether the module has trainable angles of its own.
    """

    signs: torch.Tensor

    def __init__(self, in_features: int, n_readouts: int, n_angles: int, linear: bool, trainable: bool = True) -> None:
        super().__init__()
        self.n_readouts = n_readouts
        self.linear = linear
        self.size = max(2, n_readouts)
        self.turns = StartedAngles(torch.empty(n_angles).uniform_(-torch.pi, torch.pi), trainable)
        self.register_buffer("signs", walsh_rows(self.size, in_features), persistent=False)

    @property
    def angles(self) -> torch.Tensor:
        """The angles as they are now, (n_angles,), float32 or better."""
        return self.turns()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in_features) to (..., n_readouts), float32 or better."""
        return self.read(x, self.angles)

    def read(self, x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        """The same for other angles (n_angles,) than the module's own."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        rotation = givens_rotation(angles.to(x.dtype), self.size)[: self.n_readouts]
        projected = x @ (rotation @ self.signs.to(x.dtype)).T
        if self.linear:
            return projected / self.signs.shape[1] ** 0.5
        length = x.norm(dim=-1, keepdim=True)
        return torch.tanh(projected / length.clamp_min(torch.finfo(x.dtype).tiny))


class SmallNetwork(nn.Module):
    """Matrices with SiLU between them: the classical stand-in for a circuit that maps a few numbers to as many.

    Args:
        widths: of input, hidden layers and output.
        bias: whether the last matrix has one.
    """

    def __init__(self, widths: Sequence[int], bias: bool = False) -> None:
        super().__init__()
        shapes = list(zip(widths[1:], widths))
        self.matrices = nn.ParameterList(torch.empty(shape) for shape in shapes)
        for matrix in self.matrices:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        bound = 1 / math.sqrt(widths[-2])
        self.bias = nn.Parameter(torch.empty(widths[-1]).uniform_(-bound, bound)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., widths[0]) to (..., widths[-1]) in the dtype of x."""
        for k, matrix in enumerate(self.matrices):
            x = F.linear(F.silu(x) if k else x, matrix.to(x.dtype))
        return x if self.bias is None else x + self.bias.to(x.dtype)


def matched_network(width: int, n_parameters: int) -> SmallNetwork:
    """The network from `width` to `width` numbers with one hidden layer and this many parameters, exactly.

    Raises:
        ValueError: when no hidden width gives that count; it must be a multiple of `width`, at least `2 * width`.
    """
    hidden, left = divmod(n_parameters, 2 * width)
    if hidden < 1 or left not in (0, width):
        raise ValueError(
            f"matched_network({width}, {n_parameters}): give a multiple of {width} parameters, at least {2 * width}"
        )
    return SmallNetwork([width, hidden, width], bias=left == width)


def freeze_angles(layer: QuantumLayer) -> None:
    """Turns a layer's angles into a buffer: random ones, saved with the adapter, that never train."""
    # Drawn here: PEFT makes parameters without values where it is about to load them, but no buffers.
    angles = torch.empty(layer.angles.shape).uniform_(-math.pi, math.pi)
    del layer.angles
    layer.register_buffer("angles", angles)

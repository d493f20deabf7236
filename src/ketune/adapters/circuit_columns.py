"""The first columns of a layered RY-CZ circuit as an orthonormal frame of R^N, for any N, differentiable in the angles.

The circuit is `simplified_two_design`. A gate of it is a set of plane rotations or of signs: RY on a wire turns the
plane of the basis states i and i + 2^b, for each i without the wire's bit b, and CZ flips signs. On a width N that is
no power of two we keep the circuit of ceil(log2 N) wires and leave out the planes that reach beyond N. What is left of
each gate is still orthogonal, on R^N itself, so the columns are exactly orthonormal without padding, cropping or a QR
decomposition; for N = 2^q nothing is left out. (The source splits N = N1 + N2 by a recursive cosine-sine decomposition;
ours has the same number of angles for all N with the same ceil(log2 N).)

How it is fast. The planes of a gate on the m lowest wires lie within blocks of 2^m states, so a layer of RY gates is a
product of one small matrix with all full blocks and another with the last, shorter one; the other wires act the same
way on the numbers of the blocks. The small matrices of all layers are built at once, and a layer is two or three matrix
products. `benchmarks/columns.py` has it beside `ketune.circuits.run`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

GROUP = 5
"""Most wires of one small matrix."""


def count_wires(width: int) -> int:
    """ceil(log2 width); zero for a width of one."""
    return (width - 1).bit_length()


def count_angles(width: int, n_layers: int) -> int:
    """q + 2 (q - 1) L angles for q = ceil(log2 width), none for a width of one."""
    n_wires = count_wires(width)
    return n_wires + 2 * (n_wires - 1) * n_layers if n_wires else 0


class CircuitColumns(nn.Module):
    """Maps angles to the first columns of the circuit's matrix.

    Args:
        width: N, the length of a column, at least 1.
        rank: K <= N, how many columns.
        n_layers: L, how often the circuit's layer repeats.
    """

    table: Tensor
    signs: Tensor

    def __init__(self, width: int, rank: int, n_layers: int) -> None:
        super().__init__()
        self.width, self.rank = width, rank
        self.n_angles = count_angles(width, n_layers)
        n_wires = count_wires(width)
        if not n_wires:
            return
        table, signs = _schedule(width, n_layers)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("signs", signs, persistent=False)
        self.groups = _groups(n_wires)
        self.dims = _dims(width, self.groups)
        for g, (group, dims) in enumerate(zip(self.groups, self.dims)):
            for n in dims:
                self.register_buffer(f"planes_{g}_{n}", _planes(n, len(group)), persistent=False)

    def forward(self, angles: Tensor) -> Tensor:
        """Columns (sets, N, K) for angles (sets, n_angles) in radians, float32 or better."""
        angles = angles.to(torch.promote_types(angles.dtype, torch.float32))
        sets = angles.shape[0]
        columns = torch.eye(self.width, self.rank, dtype=angles.dtype, device=angles.device).expand(sets, -1, -1)
        if not self.n_angles:
            return columns
        with torch.autocast(angles.device.type, enabled=False):
            padded = torch.cat((angles, angles.new_zeros(sets, 1)), 1)
            half = padded[:, self.table.flatten()].view(sets, *self.table.shape) / 2
            trig = torch.stack((half.cos() - 1, half.sin()), -1)  # (sets, layers, wires, 2)
            matrices = {(g, n): self._matrices(g, n, trig) for g, dims in enumerate(self.dims) for n in dims}
            signs = self.signs.to(angles.dtype)
            states = columns[:, None]
            for layer in range(self.table.shape[0]):
                if layer:
                    states = states * signs[(layer - 1) % 2][:, None]
                states = self._turn(states, 0, layer, matrices)
            return states[:, 0]

    def _matrices(self, g: int, n: int, trig: Tensor) -> Tensor:
        """RY on each wire of a group, on n states, for each layer: (sets, layers, n, n)."""
        planes = getattr(self, f"planes_{g}_{n}").to(trig.dtype)  # (wires, 2, n n)
        identity = torch.eye(n, dtype=trig.dtype, device=trig.device)
        wires = trig[:, :, self.groups[g][0] : self.groups[g][-1] + 1]
        gates = (wires[..., None, :] @ planes).view(*wires.shape[:3], n, n) + identity
        product = gates[:, :, 0]
        for wire in range(1, len(self.groups[g])):
            product = gates[:, :, wire] @ product
        return product

    def _turn(self, states: Tensor, g: int, layer: int, matrices: dict[tuple[int, int], Tensor]) -> Tensor:
        """RY of one layer, of the wires of group g and of all higher ones, on axis 2 of (sets, a, n, b)."""
        sets, a, n, b = states.shape
        size = 1 << len(self.groups[g])
        if g == len(self.groups) - 1:
            return matrices[g, n][:, None, layer] @ states
        full, rest = divmod(n, size)
        blocks = states[:, :, : full * size].reshape(sets, a, full, size, b)
        if rest:
            tail = states[:, :, full * size :]
            longer = torch.cat((blocks[:, :, :, :rest], tail[:, :, None]), 2).reshape(sets, a, full + 1, rest * b)
            longer = self._turn(longer, g + 1, layer, matrices).view(sets, a, full + 1, rest, b)
            shorter = blocks[:, :, :, rest:].reshape(sets, a, full, (size - rest) * b)
            shorter = self._turn(shorter, g + 1, layer, matrices).view(sets, a, full, size - rest, b)
            blocks = torch.cat((longer[:, :, :full], shorter), 3)
            tail = matrices[g, rest][:, None, layer] @ longer[:, :, full]
        else:
            blocks = self._turn(blocks.reshape(sets, a, full, size * b), g + 1, layer, matrices)
            blocks = blocks.view(sets, a, full, size, b)
        turned = (matrices[g, size][:, None, None, layer] @ blocks).view(sets, a, full * size, b)
        return torch.cat((turned, tail), 2) if rest else turned


def _groups(n_wires: int) -> list[range]:
    """The wires in groups of nearly equal size, those of the least significant bits first."""
    count = -(-n_wires // GROUP)
    ends = [n_wires - n_wires * g // count for g in range(count + 1)]
    return [range(low, high) for high, low in pairwise(ends)]


def _dims(width: int, groups: list[range]) -> list[list[int]]:
    """The numbers of states that each group's matrices act on, see `CircuitColumns._turn`."""
    needed: list[list[int]] = []
    widths = {width}
    for group in groups[:-1]:
        size = 1 << len(group)
        rests = {n % size for n in widths} - {0}
        needed.append(sorted({size} | rests))
        widths = {n // size for n in widths} | {-(-n // size) for n in widths}
    return [*needed, sorted(widths)]


@lru_cache(maxsize=256)
def _schedule(width: int, n_layers: int) -> tuple[Tensor, Tensor]:
    """Which angle turns which wire in each layer of RY gates, and the signs of the two layers of CZ gates.

    Returns:
        (layers, wires) indices, n_angles where a wire rests; (2, width) signs, of the pairs (0,1), (2,3), ... and of
        (1,2), (3,4), ...
    """
    n_wires, n_angles = count_wires(width), count_angles(width, n_layers)
    bricks = [[(w, w + 1) for w in range(first, n_wires - 1, 2)] for first in (0, 1)]
    rows = [list(range(n_wires))]
    following = n_wires
    for _ in range(n_layers if n_wires > 1 else 0):
        for pairs in bricks:
            row = [n_angles] * n_wires
            for wire in (wire for pair in pairs for wire in pair):
                row[wire] = following
                following += 1
            rows.append(row)
    states = torch.arange(width, device="cpu")
    signs = torch.ones(2, width, device="cpu")
    for sign, pairs in zip(signs, bricks):
        for a, b in pairs:
            both = (states >> (n_wires - 1 - a)) & (states >> (n_wires - 1 - b)) & 1
            sign.mul_(1 - 2 * both)
    return torch.tensor(rows, device="cpu"), signs


@lru_cache(maxsize=256)
def _planes(n: int, n_wires: int) -> Tensor:
    """What turns with cos - 1 and with sin in RY on each of the wires, restricted to n states: (wires, 2, n * n)."""
    planes = torch.zeros(n_wires, 2, n, n, device="cpu")
    for wire in range(n_wires):
        step = 1 << (n_wires - 1 - wire)
        for i in range(n):
            j = i + step
            if not i & step and j < n:
                planes[wire, 0, i, i] = planes[wire, 0, j, j] = 1
                planes[wire, 1, i, j], planes[wire, 1, j, i] = -1, 1
    return planes.flatten(2)

"""What the Triton kernels need to know of a plan: layers, permutations and readouts as small tensors on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ketune.circuits._layers import permutation
from ketune.circuits._pauli import pauli_z_words, word_signs

if TYPE_CHECKING:
    from ketune.circuits._plan import Plan

FEWEST_WIRES = 8
"""Below, a half of the wires is too small for a matrix product on the chip (16 rows)."""

MOST_NUMBERS = 2**13
"""Real numbers of one sample's state: a state and its cotangent must fit into the registers of one program."""

WORDS_AT_A_TIME = 16

_COMPLEX, _DIAGONAL, _MOVED, _HAS_IMAGINARY = 1, 2, 4, 8  # flags of a layer, see `ketune.circuits._triton_kernels`
_SIGN_BIT = 1 << 30


@dataclass
class TritonTables:
    """The constants of a plan on one device, as `ketune.circuits._triton_kernels` describes them."""

    layers: Tensor  # (layers, 2) int32
    moves: Tensor  # (layers, 2, 2 ** n_wires) int32: where basis states go, with signs, and the inverse
    signs_high: Tensor  # (H, words, padded with zeros) float32; one column for probabilities
    signs_low: Tensor  # (W, the same)
    ends: Tensor  # (2 ** n_wires,) int32: for probabilities, where each basis state ends
    diagonal_places: tuple[int, ...]


def fits_triton(plan: Plan) -> bool:
    """Whether the kernels can run a plan."""
    numbers = plan.components * plan.dim
    return plan.readout != "amplitudes" and plan.n_wires >= FEWEST_WIRES and numbers <= MOST_NUMBERS


def _packed(to: Tensor, sign: Tensor) -> Tensor:
    """Where basis states go, with a bit for those whose sign changes."""
    return to + torch.where(sign < 0, _SIGN_BIT, 0)


def _word_factors(plan: Plan, goes_to: Tensor) -> tuple[Tensor, Tensor]:
    """The signs of words as a product of a sign by h and one by w: (H, words) and (W, words).

    There is one, because permutations of basis states are linear maps of bits: a word is the parity of some bits.
    """
    words = pauli_z_words(plan.n_wires) if plan.readout == "pauli_z" else plan.readout
    values = word_signs(words, goes_to).view(plan.height, plan.width, -1)
    high, low = values[:, 0], values[0] * values[0, :1]
    assert torch.equal(high[:, None] * low[None], values)
    return high, low


def make_triton_tables(plan: Plan, device: torch.device) -> TritonTables:
    """The tables of a plan that fits."""
    layers, moves, imaginary = [], [], 0
    basis = goes_to = torch.arange(plan.dim)
    for number, layer in enumerate(plan.layers):
        flags = _COMPLEX * layer.is_complex + _DIAGONAL * layer.is_diagonal + imaginary
        imaginary = _HAS_IMAGINARY if layer.is_complex else imaginary
        goes_to, sign = permutation(layer.permutes, plan.n_wires)
        comes_from = torch.argsort(goes_to)
        # The last permutation only renames basis states, and readouts do not see signs.
        if number < plan.n_layers - 1 and not (torch.equal(goes_to, basis) and bool((sign > 0).all())):
            flags += _MOVED
        layers.append((flags, plan.place(layer)))
        moves.append(torch.stack((_packed(goes_to, sign), _packed(comes_from, sign[comes_from]))))
    if plan.readout == "probabilities":
        high, low = torch.ones(plan.height, 1), torch.ones(plan.width, 1)
    else:
        high, low = _word_factors(plan, goes_to)
    missing = -high.shape[1] % WORDS_AT_A_TIME
    high, low = (torch.nn.functional.pad(part, (0, missing)) for part in (high, low))
    return TritonTables(
        layers=torch.tensor(layers, dtype=torch.int32).to(device),
        moves=torch.stack(moves).to(device, torch.int32),
        signs_high=high.to(device, torch.float32).contiguous(),
        signs_low=low.to(device, torch.float32).contiguous(),
        ends=goes_to.to(device, torch.int32),
        diagonal_places=tuple(plan.place(layer) for layer in plan.layers if layer.is_diagonal),
    )

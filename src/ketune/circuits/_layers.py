"""From a circuit to layers: a 2 x 2 matrix on every wire, then one signed permutation of the basis states."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ketune.circuits._gates import GATES, Matrix, Step

MAX_ROTATIONS = 3
"""Most rotations that share one 2 x 2 matrix; its table holds 2 ** rotations terms."""

Slot = list[Step]
"""The product of one-wire steps on one wire, in the order of application."""


@dataclass
class Draft:
    """A layer while it is being filled: on each wire a product of gates, then gates that permute basis states."""

    slots: list[Slot]
    permutes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    is_diagonal: bool = False


def draft_layers(n_wires: int, steps: Iterable[Step]) -> list[Draft]:
    """Puts every step into the first layer that keeps the order of the steps on each wire."""
    drafts = [Draft([[] for _ in range(n_wires)])]
    last = [0] * n_wires  # layer of the last step on each wire
    growing = [0] * n_wires  # layer whose one-wire product on this wire may still grow

    def draft(index: int) -> Draft:
        while len(drafts) <= index:
            drafts.append(Draft([[] for _ in range(n_wires)]))
        return drafts[index]

    for step in steps:
        if step.permutes:
            index = max(last[wire] for wire in step.wires)
            draft(index).permutes.append((step.name, step.wires))
            for wire in step.wires:
                last[wire], growing[wire] = index, index + 1
            continue
        (wire,) = step.wires
        slot = draft(growing[wire]).slots[wire]
        if step.angle is not None and sum(other.angle is not None for other in slot) == MAX_ROTATIONS:
            growing[wire] += 1
            slot = draft(growing[wire]).slots[wire]
        slot.append(step)
        last[wire] = growing[wire]
    return drafts


def split_phases(draft: Draft, is_first: bool) -> list[Draft]:
    """A layer of real gates that end in phase gates as two layers: a real one, and one that turns only phases.

    Real matrices and phases cost less apart than as one complex matrix. The first layer of a circuit is never one of
    phases alone, because it also pads the features.
    """
    cuts = []
    for slot in draft.slots:
        cut = len(slot)
        while cut and slot[cut - 1].is_diagonal:
            cut -= 1
        cuts.append(cut)
    before = [slot[:cut] for slot, cut in zip(draft.slots, cuts)]
    phases = [slot[cut:] for slot, cut in zip(draft.slots, cuts)]
    if all(step.is_real for slot in phases for step in slot):
        return [draft]
    if not all(step.is_real for slot in before for step in slot):
        return [draft]
    if any(before) or is_first:
        return [Draft(before), Draft(phases, draft.permutes, is_diagonal=True)]
    return [Draft(phases, draft.permutes, is_diagonal=True)]


def _matrix(rows: Matrix) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.complex128)


def slot_terms(slot: Slot, n_rotations: int) -> torch.Tensor:
    """A product of one-wire gates as a table of 2 x 2 matrices, (2 ** n_rotations, 2, 2).

    Each rotation is `cos(t/2) C + sin(t/2) S`, so the product is linear in the products of one cosine or sine per
    rotation; entry `b` belongs to the choice given by the bits of `b`, the first rotation most significant. Rotations
    that the slot lacks count as angle zero.
    """
    terms = torch.eye(2, dtype=torch.complex128)[None]
    missing = n_rotations
    for step in slot:
        if step.angle is None:
            assert step.constant is not None
            terms = _matrix(step.constant) @ terms
        else:
            spec = GATES[step.name]
            assert spec.cosine is not None
            assert spec.sine is not None
            both = torch.stack((_matrix(spec.cosine), _matrix(spec.sine)))
            terms = (both[None] @ terms[:, None]).flatten(0, 1)
            missing -= 1
    padded = terms.new_zeros(len(terms), 2**missing, 2, 2)
    padded[:, 0] = terms
    return padded.flatten(0, 1)


def permutation(permutes: list[tuple[str, tuple[int, ...]]], n_wires: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each basis state goes, (2 ** n_wires,) int64, and its sign, float64."""
    index = torch.arange(2**n_wires)
    sign = torch.ones(2**n_wires, dtype=torch.float64)
    for name, wires in permutes:
        permute = GATES[name].permute
        assert permute is not None
        index, factor = permute(index, n_wires - 1 - wires[0], n_wires - 1 - wires[1])
        if factor is not None:
            sign = sign * factor
    return index, sign

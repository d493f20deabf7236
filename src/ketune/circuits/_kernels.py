"""The arithmetic of a plan: small matrices from angles, states from small matrices, and the adjoints of both.

Everything here works on plain tensors outside autograd. The layout of states is in `Plan`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._plan import Plan, Tables


@dataclass
class Matrices:
    """Matrices of every layer on the high and on the low half of the wires, and what their adjoint needs."""

    high: list[Tensor]  # (c H, c H) each; the phases (H, 2, W, 1) of a diagonal layer
    low: list[Tensor]  # (c W, c W) each; unused for a diagonal layer
    trig: Tensor  # (slots, 2 ** rotations) products of cosines and sines
    gates: Tensor  # (layers, wires, 2, 2), the complex layers first
    partial_high: list[Tensor]
    partial_low: list[Tensor]


def _kron_chain(gates: Tensor) -> list[Tensor]:
    """Kronecker products of the first 1, 2, ..., g of (layers, g, 2, 2) matrices."""
    if gates.shape[1] == 0:
        return [gates.new_ones(gates.shape[0], 1, 1)]
    partial = [gates[:, 0]]
    for wire in range(1, gates.shape[1]):
        left = partial[-1]
        product = left[:, :, None, :, None] * gates[:, wire, None, :, None, :]
        partial.append(product.reshape(left.shape[0], 2 * left.shape[1], -1))
    return partial


def _kron_chain_adjoint(gates: Tensor, partial: list[Tensor], cotangent: Tensor) -> Tensor:
    """Cotangent of (layers, g, 2, 2) matrices from that of their Kronecker product."""
    result = torch.empty_like(gates)
    for wire in range(gates.shape[1] - 1, 0, -1):
        left = partial[wire - 1]
        split = cotangent.reshape(left.shape[0], left.shape[1], 2, left.shape[2], 2)
        result[:, wire] = (split * left.conj()[:, :, None, :, None]).sum((1, 3))
        cotangent = (split * gates[:, wire].conj()[:, None, :, None, :]).sum((2, 4))
    if gates.shape[1]:
        result[:, 0] = cotangent
    return result


def layer_matrices(plan: Plan, tables: Tables, angles: Tensor) -> Matrices:
    """The small matrices of all layers.

    Args:
        plan: the plan.
        tables: its constants.
        angles: (n_angles,) in the type of the tables.
    """
    rotations, slots = tables.half.shape
    if rotations:
        half = angles.index_select(0, tables.angle_index).view(rotations, slots) * tables.half
        each = torch.stack((half.cos(), half.sin()), -1)
        trig = each[0]
        for rotation in range(1, rotations):
            trig = (trig[:, :, None] * each[rotation][:, None, :]).flatten(1)
    else:
        trig = tables.terms.new_ones(slots, 1)
    gates = torch.bmm(trig[:, None], tables.terms)
    if plan.components == 2:
        gates = torch.view_as_complex(gates.view(plan.n_layers, plan.n_wires, 2, 2, 2))
    else:
        gates = gates.view(plan.n_layers, plan.n_wires, 2, 2)
    partial_high = _kron_chain(gates[:, : plan.n_high])
    partial_low = _kron_chain(gates[:, plan.n_high :])
    high, low = partial_high[-1], partial_low[-1]
    if plan.components == 1:
        return Matrices(list(high), list(low), trig, gates, partial_high, partial_low)
    n, height, width = plan.n_complex, plan.height, plan.width
    blocks = (torch.view_as_real(high[:n]) @ tables.pair).view(n, height, height, 2, 2)
    complex_high = blocks.permute(0, 1, 3, 2, 4).reshape(n, 2 * height, 2 * height)
    blocks = (torch.view_as_real(low[:n]) @ tables.pair).view(n, width, width, 2, 2)
    complex_low = blocks.permute(0, 3, 1, 4, 2).reshape(n, 2 * width, 2 * width)
    real_high, real_low = high[n:].real.contiguous(), low[n:].real.contiguous()
    stacks = ((real_high, real_low), (complex_high, complex_low))
    highs = [stacks[layer.is_complex][0][layer.position] for layer in plan.layers]
    lows = [stacks[layer.is_complex][1][layer.position] for layer in plan.layers]
    for number, layer in enumerate(plan.layers):
        if layer.is_diagonal:
            phases = high[layer.position].diagonal()[:, None] * low[layer.position].diagonal()
            highs[number] = torch.view_as_real(phases).movedim(-1, 1).unsqueeze(-1).contiguous()
    return Matrices(highs, lows, trig, gates, partial_high, partial_low)


class Gradients:
    """Cotangents of the small matrices, summed over chunks."""

    def __init__(self, plan: Plan, matrices: Matrices) -> None:
        self.plan = plan
        self.high = [torch.zeros_like(matrix) for matrix in matrices.high]
        self.low: list[Tensor | None] = [None] * plan.n_layers  # (rows, c W, c W) each, summed over rows at the end

    def angles(self, tables: Tables, matrices: Matrices) -> Tensor:
        """Cotangent of the angles, (n_angles,)."""
        plan = self.plan
        gates = matrices.gates
        high = gates.new_zeros(plan.n_layers, plan.height, plan.height)
        low = gates.new_zeros(plan.n_layers, plan.width, plan.width)
        for layer, d_high, rows in zip(plan.layers, self.high, self.low):
            place = layer.position if layer.is_complex else plan.n_complex + layer.position
            if layer.is_diagonal:
                d_phases = torch.complex(d_high[:, 0, :, 0], d_high[:, 1, :, 0])
                column = matrices.partial_high[-1][place].diagonal()
                row = matrices.partial_low[-1][place].diagonal()
                high[place].diagonal().copy_((d_phases * row.conj()).sum(1))
                low[place].diagonal().copy_((d_phases * column[:, None].conj()).sum(0))
                continue
            assert rows is not None
            d_low = rows.sum(0)
            if layer.is_complex:
                blocks = (
                    d_high.view(plan.height, 2, plan.height, 2).transpose(1, 2).reshape(plan.height, plan.height, 4)
                )
                high[place] = torch.view_as_complex(blocks @ tables.pair.T)
                if d_low.shape[1] == plan.width:  # the layer that turns a real state into a complex one
                    d_low = pad(d_low, (0, plan.width))
                blocks = d_low.view(2, plan.width, 2, plan.width).permute(1, 3, 0, 2).reshape(plan.width, plan.width, 4)
                low[place] = torch.view_as_complex(blocks @ tables.pair.T)
            else:
                high[place], low[place] = d_high, d_low
        d_gates = torch.cat(
            (
                _kron_chain_adjoint(gates[:, : plan.n_high], matrices.partial_high, high),
                _kron_chain_adjoint(gates[:, plan.n_high :], matrices.partial_low, low),
            ),
            1,
        )
        if plan.components == 2:
            d_gates = torch.view_as_real(d_gates)
        rotations, slots = tables.half.shape
        d_trig = torch.bmm(tables.terms, d_gates.reshape(slots, -1, 1))
        turned = (matrices.trig @ tables.turned).view(slots, rotations, 2**rotations)
        d_half = torch.bmm(turned, d_trig).view(slots, rotations).T * tables.half
        return d_half.new_zeros(plan.n_angles).index_add_(0, tables.angle_index, d_half.flatten())


Tape = list[tuple[Tensor, Tensor]]
"""Per layer the state before the product with the low and with the high matrix."""


def _turn(state: Tensor, phases: Tensor) -> Tensor:
    """(H, c, W, C) real or complex states times phases (H, 2, W, 1), as (H, 2, W, C)."""
    if state.shape[1] == 1:
        return state * phases
    turned = state * phases[:, :1]
    turned[:, 0].addcmul_(state[:, 1], phases[:, 1], value=-1)
    turned[:, 1].addcmul_(state[:, 0], phases[:, 1])
    return turned


def _turn_back(cotangent: Tensor, phases: Tensor, components: int) -> Tensor:
    """Cotangent (H, c, W, C) of the states from that of what `_turn` made of them."""
    if components == 1:
        return (cotangent * phases).sum(1, keepdim=True)
    turned = cotangent * phases[:, :1]
    turned[:, 0].addcmul_(cotangent[:, 1], phases[:, 1])
    turned[:, 1].addcmul_(cotangent[:, 0], phases[:, 1], value=-1)
    return turned


def _phase_cotangent(state: Tensor, cotangent: Tensor) -> Tensor:
    """Cotangent (H, 2, W, 1) of the phases."""
    if state.shape[1] == 1:
        return (cotangent * state).sum(-1, keepdim=True)
    real = (cotangent * state).sum((1, 3))
    imaginary = (cotangent[:, 1] * state[:, 0]).sum(-1) - (cotangent[:, 0] * state[:, 1]).sum(-1)
    return torch.stack((real, imaginary), 1).unsqueeze(-1)


def run_layers(plan: Plan, tables: Tables, matrices: Matrices, amplitudes: Tensor, tape: Tape | None = None) -> Tensor:
    """Final states, (c 2 ** n_wires, C), of (C, n_amplitudes) real amplitudes."""
    count = amplitudes.shape[0]
    rows, width, components = plan.first_rows, plan.width, 1
    if amplitudes.shape[1] != rows * width:
        amplitudes = pad(amplitudes, (0, rows * width - amplitudes.shape[1]))
    state = amplitudes.view(count, rows, width).permute(1, 2, 0)
    for number, layer in enumerate(plan.layers):
        high, low = matrices.high[number], matrices.low[number]
        if layer.is_diagonal:
            state = middle = state.view(rows, components, width, count)
        else:
            inner = components if layer.is_complex else 1
            batch = rows * components // inner
            if number:
                state = state.view(batch, inner * width, count)
            middle = torch.bmm(low[:, : inner * width].expand(batch, -1, -1), state)
            middle = middle.view(rows * 2 if layer.is_complex else rows, -1)
        if tape is not None:
            tape.append((state, middle))
        state = _turn(state, high) if layer.is_diagonal else high[:, : middle.shape[0]] @ middle
        state = state.view(-1, count)
        components = 2 if layer.is_complex else components
        gather, sign = tables.gathers[number], tables.signs[number]
        if gather is not None:
            state = state.index_select(0, gather[0])
        if sign is not None:
            state = state * sign[0]
        rows = plan.height
    return state


def run_layers_back(
    plan: Plan,
    tables: Tables,
    matrices: Matrices,
    cotangent: Tensor,
    tape: Tape | None,
    gradients: Gradients | None,
    need_input: bool,
) -> Tensor | None:
    """Adjoint of `run_layers`: adds to the gradients, and returns the cotangent of the amplitudes, (C, n_amplitudes).

    Args:
        plan: the plan.
        tables: its constants.
        matrices: the small matrices.
        cotangent: (c 2 ** n_wires, C) of the final states.
        tape: what `run_layers` left; needed only for gradients.
        gradients: where to add the cotangents of the matrices, or None.
        need_input: whether the cotangent of the amplitudes is wanted.
    """
    count, width = cotangent.shape[1], plan.width
    first_complex = next((i for i, layer in enumerate(plan.layers) if layer.is_complex), plan.n_layers)
    for number in range(plan.n_layers - 1, -1, -1):
        layer, high, low = plan.layers[number], matrices.high[number], matrices.low[number]
        rows = plan.height if number else plan.first_rows
        components = 2 if number > first_complex else 1  # before this layer
        inner = components if layer.is_complex else 1
        outer = 2 if layer.is_complex else 1
        batch = rows * components // inner
        gather, sign = tables.gathers[number], tables.signs[number]
        if gather is not None:
            cotangent = cotangent.index_select(0, gather[1])
        if sign is not None:
            cotangent = cotangent * sign[1]
        if layer.is_diagonal:
            cotangent = cotangent.view(rows, 2, width, count)
            if gradients is not None:
                assert tape is not None
                gradients.high[number] += _phase_cotangent(tape[number][0], cotangent)
            cotangent = _turn_back(cotangent, high, components).view(-1, count)
            continue
        cotangent = cotangent.view(high.shape[0], -1)
        if gradients is not None:
            assert tape is not None
            state, middle = tape[number]
            gradients.high[number][:, : middle.shape[0]].addmm_(cotangent, middle.T)
        cotangent = (high[:, : rows * outer].T @ cotangent).view(batch, outer * width, count)
        if gradients is not None:
            rows_so_far = gradients.low[number]
            if rows_so_far is None:
                gradients.low[number] = torch.bmm(cotangent, state.transpose(1, 2))
            else:
                rows_so_far.baddbmm_(cotangent, state.transpose(1, 2))
        if number or need_input:
            cotangent = torch.bmm(low[:, : inner * width].T.expand(batch, -1, -1), cotangent)
            cotangent = cotangent.view(-1, count)
    if not need_input:
        return None
    return cotangent.view(-1, count).T[:, : plan.n_amplitudes]

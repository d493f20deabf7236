"""The arithmetic of a plan on states: layers, one product with each half of the wires, and their adjoint.

Everything here works on plain tensors outside autograd. The layout of states is in `Plan`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ketune.circuits._plan import Plan, Tables
from ketune.circuits._precision import Products
from ketune.circuits._small_matrices import (
    SmallMatrices,
    add_phases_cotangent,
    angles_cotangent,
    small_matrices,
)


@dataclass
class Matrices:
    """Matrices of every layer in the form in which they meet the states, and how to multiply by them."""

    high: list[Tensor]  # (c H, c H) each; the phases (H, 2, W, 1) of a diagonal layer
    low: list[Tensor]  # (c W, c W) each; unused for a diagonal layer
    small: SmallMatrices
    products: Products


def layer_matrices(plan: Plan, tables: Tables, angles: Tensor, products: Products) -> Matrices:
    """The matrices of all layers.

    Args:
        plan: the plan.
        tables: its constants.
        angles: (n_angles,) in the type of the tables.
        products: how states are multiplied by them.
    """
    small = small_matrices(plan, tables, angles)
    high, low = small.high, small.low
    if plan.components == 1:
        return Matrices(list(high), list(low), small, products)
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
    return Matrices(highs, lows, small, products)


class Gradients:
    """Cotangents of the matrices, summed over chunks."""

    def __init__(self, plan: Plan, matrices: Matrices) -> None:
        self.plan = plan
        self.high = [torch.zeros_like(matrix) for matrix in matrices.high]
        self.low: list[Tensor | None] = [None] * plan.n_layers  # (rows, c W, c W) each, summed over rows at the end

    def angles(self, tables: Tables, matrices: Matrices) -> Tensor:
        """Cotangent of the angles, (n_angles,)."""
        plan, small = self.plan, matrices.small
        high = small.gates.new_zeros(plan.n_layers, plan.height, plan.height)
        low = small.gates.new_zeros(plan.n_layers, plan.width, plan.width)
        for layer, d_high, rows in zip(plan.layers, self.high, self.low):
            place = plan.place(layer)
            if layer.is_diagonal:
                add_phases_cotangent(small, place, torch.complex(d_high[:, 0, :, 0], d_high[:, 1, :, 0]), high, low)
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
        return angles_cotangent(plan, tables, small, high, low)


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
    rows, width, components, products = plan.first_rows, plan.width, 1, matrices.products
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
            middle = products.one_with_each(low[:, : inner * width], state)
            middle = middle.view(rows * 2 if layer.is_complex else rows, -1)
        if tape is not None:
            tape.append((state, middle))
        state = _turn(state, high) if layer.is_diagonal else products.mm(high[:, : middle.shape[0]], middle)
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
    count, width, products = cotangent.shape[1], plan.width, matrices.products
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
            products.add_mm(gradients.high[number][:, : middle.shape[0]], cotangent, middle.T)
        cotangent = products.mm(high[:, : rows * outer].T, cotangent).view(batch, outer * width, count)
        if gradients is not None:
            rows_so_far = gradients.low[number]
            if rows_so_far is None:
                gradients.low[number] = products.bmm(cotangent, state.transpose(1, 2))
            else:
                products.add_bmm(rows_so_far, cotangent, state.transpose(1, 2))
        if number or need_input:
            cotangent = products.one_with_each(low[:, : inner * width].T, cotangent)
            cotangent = cotangent.view(-1, count)
    if not need_input:
        return None
    return cotangent.view(-1, count).T[:, : plan.n_amplitudes]

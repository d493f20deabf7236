"""The arithmetic of a plan on states: layers, one product with each half of the wires, and their adjoint.

Everything here works on plain tensors outside autograd. The layout of states is in `Plan`.
"""

from collections.abc import Hashable
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


class Space:
    """Memory for the states of one chunk, used again for every chunk.

    Memory that was touched a moment ago is in the processor's cache; fresh memory is not, and has to be mapped first.

    Args:
        like: a tensor of the device and type.
        size: numbers in the states of a chunk.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self._like, self._size = like, size
        self._memory: dict[Hashable, Tensor] = {}
        self._shaped: dict[tuple[Hashable, int, int], Tensor] = {}

    def named(self, name: Hashable, rows: int, count: int) -> Tensor:
        """A tensor (rows, count) in the memory of a name."""
        key = (name, rows, count)
        if key not in self._shaped:
            if name not in self._memory:
                self._memory[name] = self._like.new_empty(self._size)
            self._shaped[key] = self._memory[name][: rows * count].view(rows, count)
        return self._shaped[key]

    def scratch(self, rows: int, count: int, beside: Tensor) -> Tensor:
        """A tensor (rows, count) in one of two memories, the one that `beside` does not stand in."""
        first = self.named(0, rows, count)
        return first if first.data_ptr() != beside.data_ptr() else self.named(1, rows, count)


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


def run_layers(
    plan: Plan, tables: Tables, matrices: Matrices, amplitudes: Tensor, space: Space, tape: Tape | None = None
) -> Tensor:
    """Final states, (c 2 ** n_wires, C), of (C, n_amplitudes) real amplitudes; they and the tape stand in `space`."""
    count = amplitudes.shape[0]
    rows, width, components, products = plan.first_rows, plan.width, 1, matrices.products
    if amplitudes.shape[1] != rows * width:
        amplitudes = pad(amplitudes, (0, rows * width - amplitudes.shape[1]))
    state = amplitudes.view(count, rows, width).permute(1, 2, 0)
    for number, layer in enumerate(plan.layers):
        high, low = matrices.high[number], matrices.low[number]
        kept = tape is not None and number < plan.n_layers - 1  # whether the tape needs the state after this layer
        gather, sign = tables.gathers[number], tables.signs[number]
        if layer.is_diagonal:
            state = middle = state.view(rows, components, width, count)
        else:
            inner = components if layer.is_complex else 1
            outer = 2 if layer.is_complex else 1
            batch = rows * components // inner
            if number:
                state = state.view(batch, inner * width, count)
            place = batch * outer * width, count
            into = space.scratch(*place, state) if tape is None else space.named(("middle", number), *place)
            middle = products.one_with_each(low[:, : inner * width], state, into.view(batch, outer * width, count))
            middle = middle.view(rows * outer, -1)
        if tape is not None:
            tape.append((state, middle))
        components = 2 if layer.is_complex else components
        place = plan.height * components * width, count
        if layer.is_diagonal:
            state = _turn(state, high)
        else:
            into = space.named(("state", number), *place) if kept and gather is None else space.scratch(*place, middle)
            state = products.mm(high[:, : middle.shape[0]], middle, into.view(high.shape[0], -1))
        state = state.view(-1, count)
        if gather is not None:
            into = space.named(("state", number), *place) if kept else space.scratch(*place, state)
            state = torch.index_select(state, 0, gather[0], out=into)
        if sign is not None:
            state = state.mul_(sign[0])
        rows = plan.height
    return state


def run_layers_back(
    plan: Plan,
    tables: Tables,
    matrices: Matrices,
    cotangent: Tensor,
    space: Space,
    tape: Tape | None,
    gradients: Gradients | None,
    need_input: bool,
) -> Tensor | None:
    """Adjoint of `run_layers`: adds to the gradients, and returns the cotangent of the amplitudes, (C, rows, W).

    Its rows end with those that hold an amplitude; numbers beyond the last amplitude mean nothing.
    The result stands in `space`; `cotangent` may be overwritten.

    Args:
        plan: the plan.
        tables: its constants.
        matrices: the small matrices.
        cotangent: (c 2 ** n_wires, C) of the final states.
        space: memory for the cotangents.
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
            into = space.scratch(cotangent.shape[0], count, cotangent)
            cotangent = torch.index_select(cotangent, 0, gather[1], out=into)
        if sign is not None:
            cotangent = cotangent.mul_(sign[1])
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
        into = space.scratch(batch * outer * width, count, cotangent)
        cotangent = products.mm(high[:, : rows * outer].T, cotangent, into.view(rows * outer, -1))
        cotangent = cotangent.view(batch, outer * width, count)
        if gradients is not None:
            rows_so_far = gradients.low[number]
            if rows_so_far is None:
                gradients.low[number] = products.bmm(cotangent, state.transpose(1, 2))
            else:
                products.add_bmm(rows_so_far, cotangent, state.transpose(1, 2))
        if number:
            into = space.scratch(batch * inner * width, count, cotangent).view(batch, inner * width, count)
            cotangent = products.one_with_each(low[:, : inner * width].T, cotangent, into).view(-1, count)
        elif need_input:
            # Samples before columns, so that rows of columns are what is left to be put in another order.
            into = space.scratch(batch * width, count, cotangent).view(batch, count, width)
            return products.each_with_one(cotangent.transpose(1, 2), low[:, :width], into).transpose(0, 1)
    return None

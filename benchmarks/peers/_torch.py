"""What the peers on torch share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor], Tensor]
Call = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def place(array: np.ndarray) -> Tensor:
    """A tensor of its own memory."""
    return torch.from_numpy(array.copy())


def with_backward(forward: Forward) -> Call:
    """The work item from a differentiable forward(x, angles) -> out."""

    def call(x: Tensor, angles: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = x.detach().requires_grad_(), angles.detach().requires_grad_()
        out = forward(*inputs)
        dx, dangles = torch.autograd.grad(out, inputs, weights)
        return out.detach(), dx, dangles

    return call


def unit_states(x: Tensor) -> Tensor:
    """The complex states of a batch of features."""
    return (x / x.norm(dim=-1, keepdim=True)).to(torch.complex64)


@functools.cache
def signs(n_wires: int) -> Tensor:
    """(2^n, n): the eigenvalue of Pauli-Z of each wire in each basis state."""
    index = torch.arange(2**n_wires)[:, None]
    return 1.0 - 2.0 * ((index >> torch.arange(n_wires - 1, -1, -1)) & 1).float()


def pauli_z(states: Tensor) -> Tensor:
    """Expectations of every wire from (B, 2^n) states.

    One matrix product on the probabilities, for all simulators on torch but PennyLane: it saves them a pass a wire.
    """
    return (states.real.square() + states.imag.square()) @ signs(states.shape[-1].bit_length() - 1)

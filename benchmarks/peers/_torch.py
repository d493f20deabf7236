"""What the peers on torch share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from peers import DEVICE

if DEVICE == "cuda":
    if not torch.cuda.is_available():
        raise ImportError(f"torch {torch.__version__} finds no CUDA device")
    torch.set_default_device(DEVICE)  # simulators make their gates on the default device

Forward = Callable[[Tensor, Tensor], Tensor]
Call = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def place(array: np.ndarray) -> Tensor:
    """A tensor of its own memory."""
    return torch.from_numpy(array.copy()).to(DEVICE)


def device_milliseconds(call: Callable[[], object], count: int) -> list[float]:
    """Times of so many calls on a CUDA device, one after the other, by its own clock."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) for start, stop in itertools.pairwise(marks)]


def device_peak_bytes(call: Callable[[], object]) -> int:
    """The most memory of a CUDA device that a call holds at once, beyond what was held before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


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

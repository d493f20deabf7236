"""From what an encoder says to angles of RY: the maps in front of an angle-encoded circuit."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def pi_tanh(h: Tensor) -> Tensor:
    """`pi tanh(h)`, in (-pi, pi): every state of the encoding is reached, and a unit of h is most of a turn."""
    return math.pi * h.tanh()


def atan(h: Tensor) -> Tensor:
    """`2 atan(h)`, in (-pi, pi), with tails that saturate slowly. RY(2 atan(h))|0> is (1, h) normalised."""
    return 2 * h.atan()


def sigmoid_half_pi(h: Tensor) -> Tensor:
    """`sigmoid(h) pi / 2`, in (0, pi/2), of the released code of Pre+TTN-VQC (arXiv 2306.03741) and of the pre-trained
    networks (arXiv 2411.08552). Behind the ReLU of that code only the upper half of it is reached."""
    return torch.sigmoid(h) * (math.pi / 2)


def half_pi(h: Tensor) -> Tensor:
    """`h pi / 2`, unbounded, of the released code of TTN-VQC (arXiv 2206.04804)."""
    return h * (math.pi / 2)


ANGLE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "pi_tanh": pi_tanh,
    "atan": atan,
    "sigmoid_half_pi": sigmoid_half_pi,
    "half_pi": half_pi,
}
"""The maps by name."""

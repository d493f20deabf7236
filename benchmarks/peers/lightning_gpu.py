"""PennyLane Lightning on a GPU (cuStateVec), used as `peers.lightning` uses it on a CPU, samples one by one."""

from __future__ import annotations

from collections.abc import Callable

import pennylane_lightning.lightning_gpu
from torch import Tensor

from peers.lightning import GRADIENTS, NOTE, build_on, place

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]

NAME = "Lightning, GPU"
PACKAGES = ("pennylane_lightning_gpu", "pennylane")

if not pennylane_lightning.lightning_gpu.LightningGPU._CPP_BINARY_AVAILABLE:
    raise ImportError("pennylane_lightning_gpu is not installed, or finds no cuQuantum")


def build(n_wires: int, n_layers: int, kind: str) -> Callable[..., tuple[Tensor, None, Tensor]]:
    return build_on("lightning.gpu", n_wires, n_layers, kind)

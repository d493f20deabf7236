"""TorchQuantum: its device and gate functions, backward by autograd.

Importing the package pulls in training tools, data sets, hardware plug-ins and a Qiskit of before 1.0, none of which
runs with today's torch. The simulator needs none of them, so empty modules stand in for them here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import Tensor

from peers import DEVICE, ROTATIONS, cnot_ring
from peers._torch import Call, pauli_z, place, unit_states, with_backward

__all__ = ["GRADIENTS", "NAME", "NOTE", "PACKAGES", "build", "place"]


class _EmptyClass(type):
    """A class that takes any arguments and has any attribute."""

    def __getattr__(cls, name: str) -> Any:
        return _empty(name)


def _empty(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _EmptyClass(name, (), {"__init__": lambda self, *args, **options: None})


class _EmptyModule(ModuleType):
    """A module in which every name is an empty class."""

    __path__: list[str] = []  # noqa: RUF012
    __file__ = ""

    def __getattr__(self, name: str) -> Any:
        return _empty(name)


class _EmptyModules(MetaPathFinder, Loader):
    names = ("torchpack", "torchvision", "torchdiffeq", "pathos", "pyscf", "qiskit", "qiskit_aer", "qiskit_ibm_runtime")

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.insert(0, _EmptyModules())
import torchquantum as tq  # noqa: E402
import torchquantum.functional as tqf  # noqa: E402

NAME = "TorchQuantum"
PACKAGES = ("torchquantum", "torch")
GRADIENTS = ("x", "angles")
NOTE = ""


def build(n_wires: int, n_layers: int, kind: str) -> Call:
    rotations = [getattr(tqf, name.lower()) for name in ROTATIONS[kind]]
    ring = [list(pair) for pair in cnot_ring(n_wires)]
    device = tq.QuantumDevice(n_wires=n_wires, device=DEVICE)

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        device.set_states(unit_states(x))
        for layer in range(n_layers):
            for wire in range(n_wires):
                for k, rotation in enumerate(rotations):
                    rotation(device, wires=wire, params=angles[layer, wire, k])
            for pair in ring:
                tqf.cnot(device, wires=pair)
        return pauli_z(device.get_states_1d())

    return with_backward(forward)

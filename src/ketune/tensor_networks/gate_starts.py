"""Start values of the gates of a circuit."""

from __future__ import annotations

import torch
from torch import Tensor

from ketune.tensor_networks.gate_chain import GateChain


def random_start(chain: GateChain, generator: torch.Generator) -> Tensor:
    """Kaiming-uniform gates of gain 1, (n,): U(-b, b) with b = sqrt(3 / (in_m in_n)), so that sizes are kept.

    The values are such that bfloat16 and float16 hold them exactly: the circuit is the same whatever dtype its gates
    are moved to and back from.

    Args:
        chain: the circuit.
        generator: a generator on the CPU, whose numbers are the same on every machine.
    """
    gates = []
    for gate in chain.gates:
        bound = (3 / (gate.inputs[0] * gate.inputs[1])) ** 0.5
        gates.append((2 * torch.rand(gate.size, generator=generator, device="cpu", dtype=torch.float32) - 1) * bound)
    return torch.cat(gates).to(torch.bfloat16).to(torch.float16).to(torch.float32)


def unit_start(chain: GateChain) -> Tensor:
    """Gates that leave the tensor as it is, (n,); where an axis changes its size, it is cut or filled with zeros."""
    gates = []
    for gate in chain.gates:
        front, behind = (torch.eye(o, i, device="cpu") for o, i in zip(gate.outputs, gate.inputs))
        gates.append(torch.einsum("ai,bj->abij", front, behind).reshape(-1))
    return torch.cat(gates)

"""FLIP: one small network that reads what an angle is and says where it starts, for circuits of any size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ketune.circuits import Circuit
from ketune.vqc.descriptors import DESCRIPTOR_NAMES, describe_angles
from ketune.vqc.initialiser import Initialiser
from ketune.vqc.task_scaling import TaskScaling


class FlipDecoder(Initialiser):
    """FLIP: `theta_k = pi tanh(MLP(row_k, task))` for every angle k.

    F. Sauvage, S. Sim, A. A. Kunitsa, W. A. Simon, M. Mauri, A. Perdomo-Ortiz, "FLIP: A flexible initializer for
    arbitrarily-sized parametrized quantum circuits", arXiv 2103.08572. The rows are those of `describe_angles`, the
    size of the network is ours. The same weights serve every angle, so that a decoder trained on small circuits starts
    circuits with more wires, layers and angles. `meta_train` trains it.

    Weights start at random from torch's global generator (`torch.manual_seed`).

    Args:
        n_task: length of a task's descriptor; 0 for starts that depend on the circuit alone.
        hidden: width of the hidden layers.
        n_hidden: number of hidden layers.

    Raises:
        ValueError: for a negative `n_task`, or sizes below 1.

    Example:
        >>> from ketune.circuits import ry_ring
        >>> decoder = FlipDecoder(n_task=3)
        >>> task = torch.tensor([1.0, 0.5, -2.0])
        >>> decoder(ry_ring(4, 2), task).shape, decoder(ry_ring(9, 5), task.expand(7, 3)).shape
        (torch.Size([8]), torch.Size([7, 45]))
    """

    kind = "flip"

    def __init__(self, n_task: int = 0, hidden: int = 64, n_hidden: int = 2) -> None:
        super().__init__()
        if hidden < 1 or n_hidden < 1:
            raise ValueError(f"FlipDecoder(hidden={hidden}, n_hidden={n_hidden}): both must be at least 1")
        self.n_task, self.hidden, self.n_hidden = n_task, hidden, n_hidden
        self.scaling = TaskScaling(n_task)
        widths = [len(DESCRIPTOR_NAMES) + n_task] + [hidden] * n_hidden
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.SiLU()]
        self.network = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, circuit: Circuit, task: Tensor) -> Tensor:
        """Starting angles in (-pi, pi).

        Args:
            circuit: any circuit with angles.
            task: (..., n_task) descriptors; leading dimensions are a batch.

        Returns:
            (..., circuit.n_angles) in the dtype of the weights.

        Raises:
            InitialiserError: for descriptors of another length.
        """
        scaled = self.scaling(task)
        rows = describe_angles(circuit).to(scaled)
        lead = scaled.shape[:-1]
        told = scaled[..., None, :].expand(*lead, len(rows), self.n_task)
        return math.pi * self.network(torch.cat([rows.expand(*lead, -1, -1), told], -1))[..., 0].tanh()

    def settings(self) -> dict[str, Any]:
        return {"n_task": self.n_task, "hidden": self.hidden, "n_hidden": self.n_hidden}

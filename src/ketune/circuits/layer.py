"""`QuantumLayer`: a circuit as an `nn.Module`."""

import math

import torch
from torch import Tensor, nn

from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import Readout, count_readouts
from ketune.circuits.statevector import check_program, run


class QuantumLayer(nn.Module):
    """A parametrised circuit as a layer: features in, readouts out, angles trained.

    Args:
        circuit: the circuit, 1 to 14 wires.
        encoding: "amplitude" (features are the state's amplitudes) or "angle" (RY(x_q) on wire q); see `run`.
        readout: "pauli_z", "probabilities", "amplitudes" or Pauli words; see `run`.
        n_features: length of the feature vector; by default `2 ** n_wires` for amplitude encoding and `n_wires` for
            angle encoding.
        n_readouts: for readout "amplitudes", how many amplitudes; all by default.
        generator: draws the initial angles, uniformly from [-pi, pi); torch's default generator when None.
        device: device of the angles.
        dtype: type of the angles, torch's default type when None.

    Attributes:
        angles: the trainable angles, (n_angles,), in radians.
        n_features: length of the feature vector.
        n_outputs: number of readouts.

    Raises:
        ValueError: for an unknown encoding or readout, or features that do not fit on the wires.

    Example:
        >>> import torch
        >>> from ketune.circuits import QuantumLayer, ryrz_ring_ry
        >>> layer = QuantumLayer(ryrz_ring_ry(4, n_layers=2), n_features=12)
        >>> layer(torch.randn(8, 5, 12)).shape
        torch.Size([8, 5, 4])
    """

    def __init__(
        self,
        circuit: Circuit,
        encoding: str = "amplitude",
        readout: Readout = "pauli_z",
        n_features: int | None = None,
        *,
        n_readouts: int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        largest = circuit.n_wires if encoding == "angle" else 2**circuit.n_wires
        self.n_features: int = largest if n_features is None else n_features
        self.readout = check_program(circuit, self.n_features, encoding, readout, n_readouts)
        self.circuit, self.encoding, self.n_readouts = circuit, encoding, n_readouts
        self.n_outputs = count_readouts(circuit.n_wires, self.readout, n_readouts)
        self.angles = nn.Parameter(torch.empty(circuit.n_angles, device=device, dtype=dtype))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the angles anew, uniformly from [-pi, pi)."""
        self.angles.uniform_(-math.pi, math.pi, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) features to (..., n_outputs) readouts."""
        if x.shape[-1] != self.n_features:
            raise ValueError(f"x has {x.shape[-1]} features; this layer takes {self.n_features}")
        return run(
            self.circuit, x, self.angles, encoding=self.encoding, readout=self.readout, n_readouts=self.n_readouts
        )

    def extra_repr(self) -> str:
        """What print() shows."""
        circuit = self.circuit
        return (
            f"n_wires={circuit.n_wires}, n_gates={len(circuit.gates)}, n_angles={circuit.n_angles}, "
            f"encoding={self.encoding!r}, readout={self.readout!r}, n_features={self.n_features}"
        )

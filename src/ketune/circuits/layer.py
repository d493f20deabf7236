"""`QuantumLayer`: a circuit as an `nn.Module`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ketune.circuits._precision import check_matmul_precision
from ketune.circuits.circuit import Circuit
from ketune.circuits.observables import ENCODINGS, Readout, count_readouts, split_readout
from ketune.circuits.statevector import check_program, run_measured

REUPLOADING = "reuploading"
"""The encoding of `QuantumLayer` beside those of `run`: features are angles of the circuit."""


class QuantumLayer(nn.Module):
    """A parametrised circuit as a layer: features in, readouts out, angles trained.

    Takes the place of PennyLane's `qml.qnn.TorchLayer`: any leading dimensions are a batch, and it copies, pickles,
    moves between devices and types, compiles and stands in `nn.Sequential` as any module. On a GPU, once it has run, it
    can be captured in a CUDA graph (`torch.cuda.graph`, `torch.cuda.make_graphed_callables`, `torch.compile` with
    `mode="reduce-overhead"`); the bits of basis encoding are not looked at there.

    Re-uploading. With `encoding="reuploading"` the circuit starts in |0...0>, and some of its angles are the features:
    `feature_angles[i]` names the angle, or the several angles, that feature i is. All other angles are trained. The
    same feature may thus enter again and again between trained gates (Pérez-Salinas et al., Quantum 4, 226, 2020). A
    trained scale of each upload is a layer before this one, with one output per upload.

    Args:
        circuit: the circuit, 1 to 14 wires.
        encoding: "amplitude" (features are the state's amplitudes), "angle" (RY(x_q) on wire q), "basis" (bits) or
            "iqp", see `run`; or "reuploading" (features are angles of the circuit).
        readout: "pauli_z", "probabilities", "amplitudes", Pauli words, a Hamiltonian or several; see `run`.
        n_features: length of the feature vector; by default `2 ** n_wires` for amplitude encoding, for re-uploading
            `len(feature_angles)`, else `n_wires`.
        feature_angles: for re-uploading, the index or the indices of the angles that each feature is.
        n_repeats: for encoding "iqp", how often it repeats.
        n_readouts: for readout "amplitudes", how many amplitudes; all by default.
        matmul_precision: "highest", "tf32x3" or "tf32", see `run`; may be set later as an attribute.
        generator: draws the initial angles, uniformly from [-pi, pi); torch's default generator when None.
        device: device of the angles.
        dtype: type of the angles, torch's default type when None.

    Attributes:
        angles: the trainable angles in radians, (n_angles,); for re-uploading those that are no features, in order.
        n_features: length of the feature vector.
        n_outputs: number of readouts.

    Raises:
        ValueError: for an unknown encoding, readout or precision, features that do not fit on the wires, or angles
            that the circuit does not have or that two features claim.

    Example:
        >>> import torch
        >>> from ketune.circuits import Circuit, Gate, QuantumLayer, ryrz_ring_ry
        >>> layer = QuantumLayer(ryrz_ring_ry(4, n_layers=2), n_features=12)
        >>> layer(torch.randn(8, 5, 12)).shape
        torch.Size([8, 5, 4])

        One qubit that sees its feature twice, each time with a scale of its own:

        >>> gates = (Gate("RY", (0,), 0), Gate("RZ", (0,), 1), Gate("RY", (0,), 2), Gate("RZ", (0,), 3))
        >>> upload = QuantumLayer(Circuit(1, gates), "reuploading", feature_angles=[0, 2])
        >>> upload.angles.shape  # angles 1 and 3
        torch.Size([2])
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), upload)
        >>> model(torch.randn(8, 1)).shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        circuit: Circuit,
        encoding: str = "amplitude",
        readout: Readout = "pauli_z",
        n_features: int | None = None,
        *,
        feature_angles: Sequence[int | Sequence[int]] | None = None,
        n_repeats: int = 1,
        n_readouts: int | None = None,
        matmul_precision: str = "highest",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if encoding not in (*ENCODINGS, REUPLOADING):
            choices = ", ".join(map(repr, (*ENCODINGS, REUPLOADING)))
            raise ValueError(f"encoding={encoding!r}: unknown encoding; choose one of {choices}")
        if (encoding == REUPLOADING) != (feature_angles is not None):
            raise ValueError(
                f"encoding={encoding!r} with feature_angles={feature_angles}: pass feature_angles, the angles that "
                f"each feature is, together with encoding={REUPLOADING!r} and only then"
            )
        sources = None if feature_angles is None else _angle_sources(feature_angles, circuit.n_angles)
        largest = 2**circuit.n_wires if encoding == "amplitude" else circuit.n_wires
        largest = largest if feature_angles is None else len(feature_angles)
        self.n_features: int = largest if n_features is None else n_features
        if sources is None:
            check_program(circuit, self.n_features, encoding, readout, n_readouts, n_repeats)
        else:
            check_program(circuit, 1, "amplitude", readout, n_readouts, n_repeats)
            if self.n_features != largest:
                raise ValueError(f"n_features={n_features}: feature_angles has {largest} entries; leave n_features out")
        self.circuit, self.encoding, self.n_repeats, self.n_readouts = circuit, encoding, n_repeats, n_readouts
        self.readout: Readout = readout
        self.matmul_precision = check_matmul_precision(matmul_precision)
        self._measured, weights = split_readout(readout, circuit.n_wires)
        # Bits of float64 as integers: they move between devices with the layer, and a change of its type leaves them.
        bits = None if weights is None else weights.view(torch.int64).to(device)
        self.register_buffer("_weight_bits", bits, persistent=False)
        self.n_outputs = count_readouts(circuit.n_wires, readout, n_readouts)
        n_trained = circuit.n_angles if sources is None else sum(source >= largest for source in sources)
        order = None if sources is None else torch.tensor(sources, dtype=torch.int64, device=device)
        self.register_buffer("_sources", order, persistent=False)
        self.angles = nn.Parameter(torch.empty(n_trained, device=device, dtype=dtype))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the angles anew, uniformly from [-pi, pi)."""
        self.angles.uniform_(-math.pi, math.pi, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) features to (..., n_outputs) readouts."""
        if x.ndim == 0 or x.shape[-1] != self.n_features:
            given = x.shape[-1] if x.ndim else "no dimension for its"
            raise ValueError(f"x has {given} features; this layer takes {self.n_features}")
        start, angles, encoding = x, self.angles, self.encoding
        if encoding == REUPLOADING:
            start, angles, encoding = None, self.all_angles(x), "amplitude"
        bits = self._weight_bits
        return run_measured(
            self.circuit,
            start,
            angles,
            encoding,
            self._measured,
            bits.view(torch.float64) if isinstance(bits, Tensor) else None,
            self.n_readouts,
            self.n_repeats,
            self.matmul_precision,
        )

    def all_angles(self, x: Tensor) -> Tensor:
        """For re-uploading, the circuit's angles for (..., n_features) features: (..., circuit.n_angles)."""
        assert isinstance(self._sources, Tensor), "only layers with encoding='reuploading' put features among angles"
        dtype = torch.promote_types(x.dtype, self.angles.dtype)
        trained = self.angles.to(dtype).expand(*x.shape[:-1], -1)
        return torch.cat((x.to(dtype), trained), -1).index_select(-1, self._sources)

    def extra_repr(self) -> str:
        """What print() shows."""
        circuit, words = self.circuit, self._measured
        readout = repr(words) if self._weight_bits is None else f"<{self.n_outputs} of {len(words)} Pauli words>"
        return (
            f"n_wires={circuit.n_wires}, n_gates={len(circuit.gates)}, n_angles={circuit.n_angles}, "
            f"encoding={self.encoding!r}, readout={readout}, n_features={self.n_features}"
        )


def _angle_sources(feature_angles: Sequence[int | Sequence[int]], n_angles: int) -> list[int]:
    """For each angle of the circuit its place in the features followed by the trained angles."""
    sources: list[int | None] = [None] * n_angles
    for feature, entry in enumerate(feature_angles):
        indices = [entry] if isinstance(entry, int) else list(entry)
        if not indices:
            raise ValueError(f"feature_angles[{feature}] is empty: name at least one angle, or leave the feature out")
        for index in indices:
            if not 0 <= index < n_angles:
                raise ValueError(f"feature_angles[{feature}] names angle {index}; the circuit has 0 to {n_angles - 1}")
            if sources[index] is not None:
                raise ValueError(f"feature_angles[{feature}] names angle {index}, which feature {sources[index]} has")
            sources[index] = feature
    if not len(feature_angles):
        raise ValueError("feature_angles=[]: name the angles of at least one feature")
    trained = iter(range(len(feature_angles), len(feature_angles) + n_angles))
    return [next(trained) if source is None else source for source in sources]

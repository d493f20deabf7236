"""QTHA: tensor trains into and out of a narrow bottleneck, in which a small circuit stands beside a dense map."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.config import AdapterConfig
from ketune.adapters.controls import CONTROLS, SmallNetwork, freeze_angles, matched_network
from ketune.adapters.update import Update, lifted
from ketune.circuits import MAX_WIRES, Circuit, QuantumLayer, crz_two_rings, with_uploads
from ketune.tensor_networks import TrainLinear, TrainMatrix, balanced_modes, transpose_cores

# Networks of two, three and four matrices stand in for the circuit in BD, BE and BF.
NETWORKS = {"D": 2, "E": 3, "F": 4}
ARCHITECTURES = ("A", "AB", "ABC", "B", "BC", "C", "BD", "BE", "BF")
WIDEST_BOTTLENECK = 256
# Where the released code's modes are not the balanced ones.
PUBLISHED_MODES = {27648: (27, 16, 8, 8), 20480: (40, 8, 8, 8)}


class Parts(NamedTuple):
    """What an architecture is made of, as its control leaves it."""

    trains: bool  # tensor trains outside, rather than maps straight to the bottleneck
    bottleneck: bool  # r numbers in the middle
    mix: bool  # W_c
    branch: str  # "", "circuit", "network" (of r x r matrices) or "matched" (a network as large as the circuit)


@dataclass
class QTHAConfig(AdapterConfig):
    """Quantum tensor hybrid adaptation (Kong et al., arXiv 2503.12790).

    For an activation x: `u = MPO_A x` and `z = M_A u` bring it down to r numbers over a bottleneck of `hidden_dim`;
    `q = QNN(z)` are the Pauli-Z values of r qubits with RY(z_i) on qubit i; `f = W_q q + W_c z`; and
    `update(x) = (alpha / r) * MPO_B (M_B f)`. The MPOs are tensor trains of four cores; the last core of MPO_B starts
    at zero. Because of the circuit the update is not linear in x and does not merge.

    `architecture` takes parts away: A is the MPOs, B the dense map W_c, C the circuit. Without A, M_A and M_B go
    straight from and to the layer's widths (and M_B starts at zero); without B or C the sum has one term; "A" alone has
    no bottleneck of r numbers. D, E and F put a network of two, three or four r x r matrices with SiLU between them in
    the place of `W_q QNN`. A, AB and B are linear and merge.

    The paper's method section could not be read by us; this follows a description of the forward pass of the group's
    released code. Ours: `hidden_dim` follows the widths of small layers, widths without even factors are padded, ranks
    end where the modes can use no more, `upload="tanh"`, the control `classical`, and the networks of D, E and F do not
    start at zero, which M_B does already.
    """

    size_field: ClassVar[str] = "bond_dim"

    r: int = field(default=4, metadata={"help": "Width of the bottleneck, and the number of qubits."})
    alpha: float | None = field(default=None, metadata={"help": "The update is scaled by alpha / r; None: 2 r."})
    architecture: str = field(
        default="ABC",
        metadata={
            "help": f"One of {', '.join(ARCHITECTURES)}: A tensor trains, B dense map, C circuit, "
            "D, E, F a network in the circuit's place."
        },
    )
    bond_dim: int = field(default=8, metadata={"help": "Rank of the tensor trains."})
    hidden_dim: int | None = field(
        default=None,
        metadata={
            "help": "Width between tensor train and bottleneck. None: 256, or less where a quarter of the layer's "
            "widths (their geometric mean) is less."
        },
    )
    n_qlayers: int = field(
        default=1, metadata={"help": "Layers of the circuit; the input is uploaded anew in front of each."}
    )
    fusion: str = field(
        default="add", metadata={"help": "How circuit and dense map join: 'add' or 'mul', (1 + q) * (W_c z)."}
    )
    upload: str = field(
        default="raw",
        metadata={"help": "The circuit's input angles: 'raw' (z itself) or 'tanh' (angle_scale * tanh(z))."},
    )
    angle_scale: float = field(default=math.pi, metadata={"help": "Largest input angle for upload='tanh', in radians."})
    control: str = field(
        default="trained",
        metadata={
            "help": "'trained', or a control: 'frozen' (random angles), 'classical' (a network of as many parameters "
            "in the circuit's place), 'none' (the dense map alone)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("architecture", ARCHITECTURES)
        self._choose("fusion", ("add", "mul"))
        self._choose("upload", ("raw", "tanh"))
        self._choose("control", CONTROLS)
        for name in ("r", "bond_dim", "n_qlayers"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._require("hidden_dim", self.hidden_dim is None or self.hidden_dim >= 1, "must be at least 1, or None")
        self._require("alpha", self.alpha is None or self.alpha > 0, "must be above zero, or None")
        self._require("angle_scale", self.angle_scale != 0, "must not be zero")
        has_circuit = "C" in self.architecture
        self._require("r", self.r <= MAX_WIRES or not has_circuit, f"a circuit has at most {MAX_WIRES} qubits")
        if not has_circuit:
            advice = f"architecture={self.architecture!r} has no circuit to control; leave it at 'trained'"
            self._require("control", self.control == "trained", advice)
        joins = self.architecture in ("ABC", "BC", "BD", "BE", "BF")
        self._require("fusion", self.fusion == "add" or joins, f"{self.architecture!r} has nothing to multiply")

    @property
    def parts(self) -> Parts:
        """What the architecture and the control together leave."""
        branch = "network" if self.architecture[-1] in NETWORKS else ""
        if "C" in self.architecture:
            branch = {"classical": "matched", "none": ""}.get(self.control, "circuit")
        mix = "B" in self.architecture or self.control == "none"
        return Parts("A" in self.architecture, self.architecture != "A", mix, branch)

    def circuit_for(self, in_features: int = 0) -> Circuit:
        """The circuit with its uploads, the same for layers of any width.

        Raises:
            ConfigError: for an architecture without one.
        """
        if "C" not in self.architecture:
            self._refuse("architecture", self.architecture, "has no circuit; choose one of 'ABC', 'BC', 'C'")
        return with_uploads([crz_two_rings(self.r)] * self.n_qlayers)[0]

    @property
    def n_trained_angles(self) -> int:
        """4 r for each layer of the circuit (2 on a single qubit)."""
        return crz_two_rings(self.r, self.n_qlayers).n_angles

    def bottleneck_width(self, in_features: int, out_features: int) -> int:
        """`hidden_dim`, or the largest power of two up to a quarter of sqrt(in out), at least 4 and at most 256."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        quarter = math.isqrt(in_features * out_features) // 4
        return min(WIDEST_BOTTLENECK, max(4, 1 << max(0, quarter.bit_length() - 1)))

    def trains(self, in_features: int, out_features: int) -> tuple[TrainMatrix, TrainMatrix]:
        """The shapes of MPO_A and MPO_B for a layer."""
        hidden = self.bottleneck_width(in_features, out_features)

        def shape(outs: int, ins: int) -> TrainMatrix:
            out_modes, in_modes = (PUBLISHED_MODES.get(width) or balanced_modes(width) for width in (outs, ins))
            return TrainMatrix.from_modes(outs, ins, out_modes, in_modes, self.bond_dim)

        return shape(hidden, in_features), shape(out_features, hidden)

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """MPO_A + MPO_B, r (hidden + hidden) for M_A and M_B, r^2 each for W_c and W_q, and the circuit's angles."""
        parts, r = self.parts, self.r
        count = 0
        ends = in_features + out_features
        if parts.trains:
            count += sum(shape.n_parameters for shape in self.trains(in_features, out_features))
            ends = 2 * self.bottleneck_width(in_features, out_features)
        if not parts.bottleneck:
            return count
        count += r * ends + r * r * parts.mix
        if parts.branch == "network":
            return count + NETWORKS[self.architecture[-1]] * r * r
        if parts.branch:
            angles = self.n_trained_angles if self.control != "frozen" else 0
            count += angles + r * r * (self.fusion == "add")
        return count


class QTHAUpdate(Update):
    """`x -> (alpha / r) * MPO_B (M_B f(M_A (MPO_A x)))`, zero at the start because the last factor is.

    MPO_A and M_A are linear and meet nothing in between, so their product, an (r, in) matrix, is made first by sending
    the r rows of M_A through the train, not every token; likewise M_B and MPO_B. What is left for each token is what
    LoRA of rank r costs, and r numbers through the circuit.
    """

    def __init__(self, config: QTHAConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        parts, r = config.parts, config.r
        self.scale = (2 * r if config.alpha is None else config.alpha) / r
        self.multiplies = config.fusion == "mul"
        self.angle_scale = config.angle_scale if config.upload == "tanh" else None
        self.mpo_a = self.mpo_b = None
        into, out_of = in_features, out_features
        if parts.trains:
            self.mpo_a, self.mpo_b = (TrainLinear(shape) for shape in config.trains(in_features, out_features))
            nn.init.zeros_(self.mpo_b.cores[-1])
            into = out_of = config.bottleneck_width(in_features, out_features)
        self.m_a = _matrix(r, into) if parts.bottleneck else None
        self.m_b = _matrix(out_of, r) if parts.bottleneck else None
        self.w_c = _matrix(r, r) if parts.mix else None
        self.w_q = _matrix(r, r) if parts.branch == "circuit" and not self.multiplies else None
        self.qnn = self.network = None
        if parts.branch == "circuit":
            self.qnn = upload_layer(r, config.n_qlayers)
            if config.control == "frozen":
                freeze_angles(self.qnn)
        elif parts.branch == "network":
            self.network = SmallNetwork([r] * (NETWORKS[config.architecture[-1]] + 1))
        elif parts.branch == "matched":
            self.network = matched_network(r, config.n_trained_angles + r * r * (not self.multiplies))
        if self.m_b is not None and not parts.trains:
            nn.init.zeros_(self.m_b)
        if parts.branch:
            self.why_not_mergeable = (
                f"QTHA with architecture={config.architecture!r} is not linear in the layer's input; train with "
                "architecture='AB' to get an adapter that merges, or keep the adapter beside the base model"
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.m_a is None:
            first, second = self.mpos()
            return second(first(x)) * self.scale
        # Made and mixed in float32 or better: these are r rows, and input angles want more than 8 bits.
        with torch.autocast(x.device.type, enabled=False):
            down, up = self.ends()
        z = F.linear(x, down.to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):
            f = self.middle(z.to(down.dtype))
        return F.linear(f.to(x.dtype), up.to(x.dtype))

    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """M_A MPO_A, (r, in_features), and (alpha / r) MPO_B M_B, (out_features, r), in float32 or better."""
        assert self.m_a is not None
        assert self.m_b is not None
        down, up = lifted(self.m_a), lifted(self.m_b) * self.scale
        if self.mpo_a is not None:
            first, second = self.mpos()
            down = first.shape.transposed.apply(transpose_cores(_cores(first)), down)
            up = second.shape.apply(_cores(second), up.T).T
        return down, up

    def mpos(self) -> tuple[TrainLinear, TrainLinear]:
        """MPO_A and MPO_B of an architecture that has them."""
        assert self.mpo_a is not None
        assert self.mpo_b is not None
        return self.mpo_a, self.mpo_b

    def middle(self, z: torch.Tensor) -> torch.Tensor:
        """f(z): (..., r) to (..., r)."""
        linear = F.linear(z, lifted(self.w_c)) if self.w_c is not None else None
        branch = None
        if self.network is not None:
            branch = self.network(z)
        elif self.qnn is not None:
            branch = self.qnn(z if self.angle_scale is None else self.angle_scale * torch.tanh(z)).to(z.dtype)
            branch = branch if self.w_q is None else F.linear(branch, lifted(self.w_q))
        if branch is None or linear is None:
            return branch if linear is None else linear  # pyright: ignore[reportReturnType]
        return (1 + branch) * linear if self.multiplies else branch + linear

    def delta_weight(self) -> torch.Tensor:
        factors = self.low_rank_factors()
        if factors is None:
            first, second = (train.shape.dense(_cores(train)) for train in self.mpos())
            return self.scale * second @ first
        up, down = factors
        return up @ down

    def low_rank_factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self.m_a is None:
            return None
        assert self.w_c is not None
        down, up = self.ends()
        return up @ lifted(self.w_c), down


def upload_layer(n_wires: int, n_layers: int) -> QuantumLayer:
    """QTHA's circuit as a layer, (..., n_wires) angles to (..., n_wires) Pauli-Z values; trained angles in (-pi, pi).

    A single upload is the angle encoding in front of a circuit, which all samples share; several make the features a
    part of the circuit.
    """
    if n_layers == 1:
        return QuantumLayer(crz_two_rings(n_wires), "angle", dtype=torch.float32)
    circuit, feature_angles = with_uploads([crz_two_rings(n_wires)] * n_layers)
    return QuantumLayer(circuit, "reuploading", feature_angles=feature_angles, dtype=torch.float32)


def _matrix(rows: int, columns: int) -> nn.Parameter:
    matrix = nn.Parameter(torch.empty(rows, columns))
    nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
    return matrix


def _cores(train: TrainLinear) -> list[torch.Tensor]:
    return [lifted(core) for core in train.cores]


register("qtha", QTHAConfig, QTHAUpdate)

"""Quantum-PEFT: a low-rank update whose singular vectors are columns of a small circuit's matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.circuit_columns import CircuitColumns, count_angles, count_wires
from ketune.adapters.config import AdapterConfig, ConfigError
from ketune.adapters.controls import CONTROLS
from ketune.adapters.orthogonal import cayley_columns, random_angles, random_frame, random_normal, skew
from ketune.adapters.update import Update
from ketune.circuits import Circuit, simplified_two_design

FORMS = ("pauli", "cayley")


@dataclass
class QuantumPeftConfig(AdapterConfig):
    """Quantum-PEFT (Koike-Akino et al., ICLR 2025, arXiv 2503.05431).

    `update(x) = scale * sum_t U_t diag(lambda_t) V_t^T x`. U_t (out, K) and V_t (in, K) are orthonormal by
    construction, and lambda_t is zero at the start. With one term the lambdas are the singular values of the change.

    - `form="pauli"`: the columns are the first K of the matrix of `simplified_two_design`, a real circuit of RY and CZ
      gates with q + 2 (q - 1) L angles for q = ceil(log2 width). On widths that are no power of two the planes beyond
      the width are left out, see `ketune.adapters.circuit_columns`.
    - `form="cayley"`: the columns are those of the Cayley rotation of a skew matrix with K free columns, which has as
      many numbers as K orthonormal columns have freedom. It stands for the paper's Taylor form; a series cut short
      would be orthonormal only up to its rest, the Cayley map is for any values.

    We could read the paper's opening and its reviews, but no code of it. Start values come from `seed`; what trains and
    what is stored are the offsets from them.
    """

    size_field: ClassVar[str] = "n_terms"

    rank: int = field(
        default=8, metadata={"help": "Columns K of each term; a layer narrower than that takes its narrower width."}
    )
    n_terms: int = field(default=1, metadata={"help": "Number of terms, each with circuits of its own."})
    n_layers: int = field(default=1, metadata={"help": "L, how often the circuit's layer repeats (form 'pauli')."})
    form: str = field(default="pauli", metadata={"help": "'pauli' (a circuit) or 'cayley' (a skew matrix)."})
    scale: float = field(default=1.0, metadata={"help": "Constant factor of the update."})
    control: str = field(
        default="trained",
        metadata={
            "help": "'trained', or a control: 'frozen' (random columns, only lambda trains), 'classical' (as many "
            "numbers tilt a random frame), 'none' (columns of the identity)."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of the start values; each layer derives one of its own."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "n_terms", "n_layers"):
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        self._choose("form", FORMS)
        self._choose("control", CONTROLS)
        self._require("scale", self.scale != 0, "must not be zero")
        if self.form == "cayley" and self.control not in ("trained", "frozen"):
            self._refuse("control", self.control, "form='cayley' has no circuit to replace; 'trained' or 'frozen'")

    def circuit_for(self, in_features: int) -> Circuit:
        """The circuit of a side of this width, before the planes beyond the width are left out.

        Raises:
            ConfigError: for `form="cayley"`, which has none, and for a width of one.
        """
        if self.form != "pauli" or in_features < 2:
            raise ConfigError(f"QuantumPeftConfig(form={self.form!r}): no circuit at a width of {in_features}")
        return simplified_two_design(count_wires(in_features), self.n_layers)

    def columns(self, in_features: int, out_features: int) -> int:
        """The number K of columns for a layer of this shape."""
        return min(self.rank, in_features, out_features)

    def side_count(self, width: int, k: int) -> int:
        """How many numbers the k columns of one side and term are made of, trained or not."""
        freedom = width * k - k * (k + 1) // 2  # of k orthonormal columns
        if self.control == "none":
            return 0
        if self.form == "cayley":
            return freedom
        angles = count_angles(width, self.n_layers)
        return min(angles, freedom) if self.control == "classical" else angles

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """Terms times (both sides' numbers + K); K alone for the controls 'frozen' and 'none'."""
        k = self.columns(in_features, out_features)
        sides = self.side_count(in_features, k) + self.side_count(out_features, k)
        return self.n_terms * (k + (0 if self.control == "frozen" else sides))


class Columns(nn.Module):
    """The K columns of one side of all terms, from a start and trained offsets (n_terms, count).

    Args:
        config: the hyper-parameters.
        width: length of a column.
        k: how many.
        part: tells the sides of a layer apart for the start values.
    """

    start: Tensor
    frame: Tensor

    def __init__(self, config: QuantumPeftConfig, width: int, k: int, part: int) -> None:
        super().__init__()
        self.width, self.k, self.n_terms = width, k, config.n_terms
        count = config.side_count(width, k)
        self.circuit = None
        self.free = width  # how many axes the columns move among
        start = torch.zeros(config.n_terms, count, device="cpu")
        if config.control == "classical":
            self.free = min(width, k + -(-count // k))
            frames = [random_frame(config.seed, part + 2 * t, width, self.free) for t in range(config.n_terms)]
            self.register_buffer("frame", torch.stack(frames), persistent=False)
        elif config.form == "cayley":
            std = max(1, width - k) ** -0.5  # then the columns point in about uniformly random directions
            start = random_normal(config.seed, part, (config.n_terms, count), std)
        elif config.control != "none":
            self.circuit = CircuitColumns(width, k, config.n_layers)
            start = random_angles(config.seed, part, (config.n_terms, count))
        self.register_buffer("start", start, persistent=False)
        trains = count and config.control != "frozen"
        self.offset = nn.Parameter(torch.zeros(config.n_terms, count)) if trains else None

    def values(self) -> Tensor:
        """Angles, or entries of a skew matrix, (n_terms, count), float32 or better."""
        start = self.start.to(torch.promote_types(self.start.dtype, torch.float32))
        return start if self.offset is None else start + self.offset

    def forward(self, values: Tensor) -> Tensor:
        """Columns (sets, width, K) for values (sets, count)."""
        if self.circuit is not None:
            return self.circuit(values)
        k, free = self.k, self.free
        total = free * k - k * (k + 1) // 2
        values = torch.cat((values, values.new_zeros(len(values), total - values.shape[1])), 1)
        tilt, inner = values.split([(free - k) * k, k * (k - 1) // 2], 1)
        columns = cayley_columns(tilt.view(len(values), free - k, k), skew(inner, k))
        if "frame" not in self._buffers:
            return columns
        with torch.autocast(columns.device.type, enabled=False):
            return self.frame.to(columns.dtype) @ columns


class QuantumPeftUpdate(Update):
    """`x -> scale * U diag(lambda) V^T x`, zero at the start because lambda is."""

    def __init__(self, config: QuantumPeftConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        k = config.columns(in_features, out_features)
        self.scale = config.scale
        self.left = Columns(config, out_features, k, 0)
        self.right = Columns(config, in_features, k, 1)
        self.singular = nn.Parameter(torch.zeros(config.n_terms, k))
        # With many terms the matrix is cheaper to apply than its factors; tokens outnumber what building it costs.
        self.builds_matrix = config.n_terms * k * (in_features + out_features) > in_features * out_features

    def factors(self) -> tuple[Tensor, Tensor]:
        """U diag(scale lambda) (out, n_terms K) and V (in, n_terms K), float32 or better."""
        u, v = self.left.values(), self.right.values()
        if self.left.circuit is not None and self.left.width == self.right.width:
            u, v = self.left(torch.cat((u, v))).chunk(2)  # both sides in one go
        else:
            u, v = self.left(u), self.right(v)
        u = u * (self.singular.to(u.dtype) * self.scale)[:, None]
        return u.transpose(0, 1).flatten(1), v.transpose(0, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.builds_matrix:
            return F.linear(x, self.delta_weight().to(x.dtype))
        u, v = self.factors()
        return F.linear(F.linear(x, v.mT.to(x.dtype)), u.to(x.dtype))

    def delta_weight(self) -> Tensor:
        u, v = self.factors()
        with torch.autocast(u.device.type, enabled=False):
            return u @ v.mT

    def low_rank_factors(self) -> tuple[Tensor, Tensor]:
        u, v = self.factors()
        return u, v.mT


register("quantum_peft", QuantumPeftConfig, QuantumPeftUpdate)

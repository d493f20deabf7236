"""Compass: a diagonal between two frames that point where the loss falls fastest, and circuits that turn the frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.circuit_columns import CircuitColumns, count_angles, count_wires
from ketune.adapters.config import AdapterConfig
from ketune.adapters.controls import CONTROLS, givens_rotation
from ketune.adapters.frames import KINDS, point_frames
from ketune.adapters.orthogonal import random_normal
from ketune.adapters.update import Update, lifted
from ketune.circuits import Circuit, simplified_two_design


@dataclass
class CompassConfig(AdapterConfig):
    """Ours, for very small budgets: `update(x) = U C_out diag(lambda) C_in^T V x`.

    U (out, m) and V (m, in) are frames that do not train. A few batches of the training data choose them before
    training starts: their columns and rows are the directions of steepest descent of the loss in the layer's weight.
    What trains is lambda (k numbers, zero at the start) and, with `n_layers` of at least 1, the angles of two circuits
    whose first k columns C_out, C_in (m, k) turn the directions in use within the frames. They start at angle zero,
    where column i is axis i up to its sign, so that each lambda first moves along a direction of the frame.

    The frames are stored with the adapter: the file holds m (in + out) numbers a layer, like that of a LoRA of rank m,
    however few of them train.

    Where it comes from: LoRA-XS (arXiv 2405.17604) trains a small matrix between singular vectors of the weight,
    LoRA-GA (arXiv 2407.05000) starts LoRA at singular vectors of the gradient, and K-FAC (arXiv 1503.05671) whitens
    activations and gradients; circuits as orthogonal factors are those of Quantum-PEFT (arXiv 2503.05431).
    """

    size_field: ClassVar[str] = "rank"
    calibration_rows: ClassVar[int] = 128
    start_fields: ClassVar[tuple[str, ...]] = (*AdapterConfig.start_fields, "frame")  # the frames are in the file

    rank: int = field(
        default=16,
        metadata={"help": "Directions k whose lambda trains; a layer narrower than that takes its narrower width."},
    )
    frame: str = field(
        default="kfac",
        metadata={
            "help": "'kfac' (singular vectors of the gradient after whitening activations and output gradients), "
            "'natural' (activations only), 'gradient' (as it is), 'random' (no data needed)."
        },
    )
    frame_dim: int | None = field(
        default=None,
        metadata={"help": "Directions m in each frame; None: the rank, and twice that where circuits can turn them."},
    )
    n_layers: int = field(default=0, metadata={"help": "Layers of the circuits; 0 leaves them out."})
    scale: float = field(default=1.0, metadata={"help": "Constant factor of the update."})
    control: str = field(
        default="trained",
        metadata={
            "help": "With circuits: 'trained', or a control: 'frozen' (random angles), 'classical' (as many plane "
            "rotations), 'none' (as many further lambdas instead)."
        },
    )
    seed: int = field(default=0, metadata={"help": "Of frame 'random' and of frozen angles."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("rank", self.rank >= 1, "must be at least 1")
        self._choose("frame", KINDS)
        self._require("frame_dim", self.frame_dim is None or self.frame_dim >= self.rank, "must be at least the rank")
        self._require("n_layers", self.n_layers >= 0, "must be zero or more")
        self._require("scale", self.scale != 0, "must not be zero")
        self._choose("control", CONTROLS)
        if not self.n_layers:
            self._require("control", self.control == "trained", "there is no circuit to replace with n_layers=0")

    def shape(self, in_features: int, out_features: int) -> tuple[int, int, int]:
        """Directions in use k, directions in the frames m, and angles of each circuit, for a layer of this shape."""
        most = min(in_features, out_features)
        k = min(self.rank, most)
        m = min(self.frame_dim or self.rank * (2 if self.n_layers else 1), most)
        angles = count_angles(m, self.n_layers) if self.n_layers and m > 1 else 0
        if self.control == "none":
            k = m = min(k + 2 * angles, most)
        return k, max(k, m), angles

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """k + the angles of both circuits, where they (or their classical stand-in) train."""
        k, _, angles = self.shape(in_features, out_features)
        return k + (2 * angles if self.control in ("trained", "classical") else 0)

    def circuits(self, shapes: Sequence[tuple[int, int]]) -> list[Circuit] | None:
        """The circuit of each side of every layer, (in_features, out_features) each; None where the config has none."""
        if not self.n_layers or self.control == "none":
            return None
        sizes = [self.shape(*shape)[1] for shape in shapes]
        return [simplified_two_design(max(1, count_wires(m)), self.n_layers) for m in sizes]

    @property
    def needs_calibration(self) -> bool:
        return self.frame != "random" and not self.combined

    def calibrate(self, model: nn.Module, batches: Iterable[dict[str, Tensor]], adapter_name: str) -> None:
        """Point the frames of every layer: a forward and backward pass on each of the batches, labels included."""
        if self.needs_calibration:
            point_frames(model, batches, self.frame, adapter_name)


class CompassUpdate(Update):
    """`x -> scale * U C_out diag(lambda) C_in^T V x`, zero at the start because lambda is."""

    down: Tensor
    up: Tensor
    start: Tensor

    def __init__(self, config: CompassConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        k, m, angles = config.shape(in_features, out_features)
        self.rank, self.scale = k, config.scale
        self.diagonal = nn.Parameter(torch.zeros(k))
        # Until they are pointed, frames are random and nearly orthonormal.
        self.register_buffer("down", random_normal(config.seed, 0, (m, in_features), in_features**-0.5))
        self.register_buffer("up", random_normal(config.seed, 1, (out_features, m), out_features**-0.5))
        self.kind = "none" if config.control == "none" or not angles else config.control
        if self.kind == "none":
            return
        self.columns = CircuitColumns(m, k, config.n_layers)
        start = torch.zeros(2, angles)
        if self.kind == "frozen":
            start = random_normal(config.seed, 2, (2, angles), 1.0)
            self.register_buffer("start", start)
        else:
            self.angles = nn.Parameter(start)

    def turns(self) -> tuple[Tensor, Tensor] | None:
        """The columns C_out and C_in (m, k); None without a circuit."""
        if self.kind == "none":
            return None
        if self.kind == "classical":
            out, into = (givens_rotation(angles, len(self.down))[:, : self.rank] for angles in self.angles.float())
        else:
            out, into = self.columns(self.start if self.kind == "frozen" else self.angles)
        return out, into

    def factors(self) -> tuple[Tensor, Tensor]:
        """The update as two thin matrices (out, k) and (k, in)."""
        up, down, turns = self.up.to(self.dtype), self.down.to(self.dtype), self.turns()
        if turns is not None:
            up, down = up @ turns[0].to(self.dtype), turns[1].to(self.dtype).T @ down
        return up * (self.diagonal * self.scale), down

    def forward(self, x: Tensor) -> Tensor:
        up, down = self.factors()
        if self.rank * (self.in_features + self.out_features) > self.in_features * self.out_features:
            return F.linear(x, up @ down)
        return F.linear(F.linear(x, down), up)

    def delta_weight(self) -> Tensor:
        up, down = self.low_rank_factors()
        return up @ down

    def low_rank_factors(self) -> tuple[Tensor, Tensor]:
        up, down = self.factors()
        return lifted(up), lifted(down)

    @property
    def dtype(self) -> torch.dtype:
        return self.diagonal.dtype

    def point(self, up: Tensor, down: Tensor) -> None:
        """Takes new frames, U (out, m) and V (m, in)."""
        self.up.copy_(up)
        self.down.copy_(down)


register("compass", CompassConfig, CompassUpdate)

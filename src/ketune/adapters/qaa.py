"""QAA: quantum-amplitude embedded adaptation, a small circuit on the whole hidden state beside a frozen projection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.calibration import spread_readouts
from ketune.adapters.circuit_features import CircuitFeatures, n_wires_for, unit_factor, z_words
from ketune.adapters.config import AdapterConfig, ConfigError
from ketune.adapters.controls import CONTROLS, GivensFeatures
from ketune.adapters.learned_starts import start_angles
from ketune.adapters.train_angles import TrainAngles
from ketune.adapters.update import Place, Update, lifted
from ketune.circuits import ANSATZE, ENTANGLERS, Circuit
from ketune.tensor_networks import TrainVector
from ketune.vqc import load_initialiser
from ketune.vqc.architecture import Architecture, ArchitectureError
from ketune.vqc.circuit_file import CircuitFile, load_circuit_file

LEARNED = ".safetensors"
"""How the name of a file of a learned start ends."""

READOUTS = ("pauli_z", "probabilities", "amplitudes")
PRESETS: dict[str, dict[str, Any]] = {
    "published": {"ansatz": "ry_ring", "n_layers": 1, "readout_scale": "raw", "up_bias": True},
    "recommended": {"ansatz": "ryrz_ring_ry", "n_layers": 1, "readout_scale": "analytic", "up_bias": False},
}


@dataclass
class QAAConfig(AdapterConfig):
    """Quantum-amplitude embedded adaptation (Roh et al., arXiv 2509.16244; Roh and Kim, CIKM 2025).

    For an activation x of width d: pad to N = 2^n with n = ceil(log2 d), normalise, read it as the amplitudes of n
    qubits, apply a trained circuit, read k numbers z out, and map them back: `update(x) = scale * (W_up z + b_up)`.
    W_up starts at zero. The readouts see the direction of x only, so the update is not linear in x and does not merge,
    with one exception of ours: `readout="amplitudes"` takes the first k (real parts of) amplitudes of U x without
    normalising, which is linear, keeps sign and length, and merges.

    The paper's equations could not be read by us; this is an implementation of the published description. What it
    leaves open is a field here. `preset("published")` is the circuit that the authors later used for QAA as a baseline
    (arXiv 2609.37134, table 28: RY on each qubit, then a ring of CNOTs), `preset("recommended")` (also the default) is
    the circuit that their ablation favours, with the readout brought to unit scale: for a random direction a Pauli-Z
    value has standard deviation sqrt(2 / (N + 2)), 0.044 at N = 1024.
    """

    size_field: ClassVar[str] = "n_readouts"
    start_fields: ClassVar[tuple[str, ...]] = (*AdapterConfig.start_fields, "init_angles")

    circuit: str | None = field(
        default=None,
        metadata={
            "help": "In place of ansatz, n_layers and entangler: a circuit file of `ketune search` or an OpenQASM 3 "
            "program, its path or its content (which is what is saved), or an architecture such as 'ring-linear'."
        },
    )
    ansatz: str = field(default="ryrz_ring_ry", metadata={"help": f"Circuit family: {', '.join(ANSATZE)}."})
    n_layers: int = field(default=1, metadata={"help": "Number of layers of the circuit."})
    entangler: str = field(
        default="ring", metadata={"help": "CNOTs of each layer: 'ring', 'linear', 'brick', 'all' or 'none'."}
    )
    readout: str | list[str] = field(
        default="pauli_z",
        metadata={
            "help": "'pauli_z', 'probabilities', 'amplitudes' (linear, merges) or Pauli words such as ['XZ', 'IY']; "
            "a word shorter than the number of wires is continued with I."
        },
    )
    n_readouts: int | None = field(
        default=None,
        metadata={
            "help": "How many values to read: first Z of each wire, then ZZ of each pair, and so on. "
            "None: one per wire (one per basis state for 'probabilities')."
        },
    )
    readout_scale: str = field(
        default="analytic",
        metadata={
            "help": "'raw', 'analytic' (to about unit deviation over random directions) or 'layer_norm' (no weights)."
        },
    )
    up_bias: bool = field(default=False, metadata={"help": "Give the map back to the layer's width a bias."})
    norm_restore: bool = field(
        default=False, metadata={"help": "Multiply the update by |x| / sqrt(d), which the readout has lost."}
    )
    scale: float = field(default=1.0, metadata={"help": "Constant factor of the update."})
    control: str = field(
        default="trained", metadata={"help": "'trained', or a control: 'frozen', 'classical', 'none'."}
    )
    angles: str = field(
        default="free",
        metadata={
            "help": "'free': each layer trains its own angles; 'tensor_train': one tensor train of rank train_rank "
            "emits the angles of all layers, as changes of their starts (TensorHyper-VQC)."
        },
    )
    train_rank: int = field(default=2, metadata={"help": "Largest rank of that tensor train."})
    init_angles: str = field(
        default="uniform",
        metadata={
            "help": "'uniform' (in (-pi, pi)), 'zeros', 'data' (chosen on a few batches so that the readout spreads), "
            "or the file of a learned start (FLIP, Q-MAML), *.safetensors."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choose("ansatz", tuple(ANSATZE))
        self._require("n_layers", self.n_layers >= 1, "must be at least 1")
        self._choose("entangler", ENTANGLERS)
        if isinstance(self.readout, str):
            if self.readout not in READOUTS:
                self._refuse(
                    "readout",
                    self.readout,
                    f"unknown readout; choose one of {', '.join(map(repr, READOUTS))} or pass Pauli words "
                    'such as ["XZ", "IY"]',
                )
        else:
            self.readout = list(self.readout)
            valid = bool(self.readout) and all(word and set(word) <= set("IXYZ") for word in self.readout)
            self._require("readout", valid, "Pauli words are made of I, X, Y and Z, at least one word")
            self._require("n_readouts", self.n_readouts is None, "the Pauli words already say how many values to read")
        self._require("n_readouts", self.n_readouts is None or self.n_readouts >= 1, "must be at least 1")
        self._choose("readout_scale", ("raw", "analytic", "layer_norm"))
        self._choose("control", CONTROLS)
        if not str(self.init_angles).endswith(LEARNED):
            self._choose("init_angles", ("uniform", "zeros", "data"))
        self._choose("angles", ("free", "tensor_train"))
        self._require("train_rank", self.train_rank >= 1, "must be at least 1")
        if self.angles == "tensor_train":
            advice = f"control={self.control!r} trains no angles that a tensor train could emit; take 'free'"
            self._require("angles", self.control in ("trained", "classical"), advice)
        if self.circuit is not None:
            self.circuit = _circuit_text(self.circuit)
        self._require("scale", self.scale != 0, "must not be zero")
        if self.readout == "amplitudes":
            advice = "must be off with readout='amplitudes', which is linear in x so that it can be merged"
            self._require("up_bias", not self.up_bias, advice)
            self._require("norm_restore", not self.norm_restore, advice)
            self._require("readout_scale", self.readout_scale != "layer_norm", advice)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> QAAConfig:
        """The configuration called `published` or `recommended`, with any field overridden."""
        if name not in PRESETS:
            raise ConfigError(f"QAAConfig.preset({name!r}): choose one of {', '.join(map(repr, PRESETS))}")
        return cls(**{**PRESETS[name], **overrides})

    def circuit_for(self, in_features: int) -> Circuit:
        """The circuit for a layer of this input width.

        Raises:
            CircuitFileError: when the field `circuit` has no circuit of this width.
        """
        if self.circuit is not None:
            return _circuit_file(self.circuit).circuit_for(n_wires_for(in_features))
        return ANSATZE[self.ansatz](n_wires_for(in_features), self.n_layers, self.entangler)

    def readout_width(self, in_features: int) -> int:
        """The number k of values that are read out for a layer of this input width.

        Raises:
            ConfigError: when `n_readouts` asks for more than there are.
        """
        n_wires = n_wires_for(in_features)
        if not isinstance(self.readout, str):
            return len(self.readout)
        most = 2**n_wires - 1 if self.readout == "pauli_z" else 2**n_wires
        usual = 2**n_wires if self.readout == "probabilities" else n_wires
        if self.n_readouts is not None and self.n_readouts > most:
            self._refuse("n_readouts", self.n_readouts, f"{n_wires} wires give at most {most} for {self.readout!r}")
        return self.n_readouts or usual

    def pauli_words(self, in_features: int) -> list[str]:
        """The Pauli words that a `pauli_z` or word readout measures, each as long as the circuit is wide."""
        n_wires = n_wires_for(in_features)
        if isinstance(self.readout, str):
            return z_words(n_wires, self.readout_width(in_features))
        longest = max(self.readout, key=len)
        if len(longest) > n_wires:
            self._refuse("readout", longest, f"a layer of input width {in_features} has only {n_wires} wires")
        return [word.ljust(n_wires, "I") for word in self.readout]

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """k out (+ out with `up_bias`) + the circuit's angles when they (or their classical stand-in) train.

        With `angles="tensor_train"` the entries of a train for this one layer; `model_parameter_count` for several.
        """
        return self.model_parameter_count([(in_features, out_features)])

    def model_parameter_count(self, shapes: Sequence[tuple[int, int]]) -> int:
        maps = sum((self.readout_width(n_in) + self.up_bias) * n_out for n_in, n_out in shapes)
        if self.control not in ("trained", "classical"):
            return maps
        angles = sum(self.circuit_for(n_in).n_angles for n_in, _ in shapes)
        return maps + (angles if self.angles == "free" else TrainVector.count_parameters(angles, self.train_rank))

    def make_shared(self, places: Sequence[Place]) -> TrainAngles | None:
        if self.angles == "free":
            return None
        angles = [self.circuit_for(place.in_features).n_angles for place in places]
        self._require("angles", sum(angles) > 0, "the circuit has no angles that a tensor train could emit")
        return TrainAngles(angles, self.train_rank, moved=not self.init_weights)

    @property
    def needs_calibration(self) -> bool:
        learned = self.init_angles == "data" or self.init_angles.endswith(LEARNED)
        return learned and self.control in ("trained", "frozen") and not self.combined

    def calibrate(self, model: nn.Module, batches: Iterable[dict[str, torch.Tensor]], adapter_name: str) -> None:
        """Choose each circuit's angles on the activations that `batches` cause: so that its readout spreads, or as a
        learned start says."""
        if not self.needs_calibration:
            return
        if self.init_angles == "data":
            spread_readouts(model, batches, adapter_name)
        else:
            start_angles(model, load_initialiser(self.init_angles), batches, adapter_name)


@lru_cache(maxsize=64)
def _circuit_file(text: str) -> CircuitFile:
    return CircuitFile.from_text(text)


def _circuit_text(given: str) -> str:
    """The content of a circuit file, given by its path, as it is, or as an architecture's name; checked."""
    if given.lstrip().startswith(("{", "[", "//", "OPENQASM")) or "\n" in given:
        return _circuit_file(given).text
    try:
        architecture = Architecture.from_text(given)
    except ArchitectureError:
        return load_circuit_file(given).text
    return CircuitFile(architecture.circuit(1), architecture).text


class QAAUpdate(Update):
    """`x -> scale * (W_up z(x) + b_up)`, zero at the start because W_up and b_up are."""

    def __init__(self, config: QAAConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        width = config.readout_width(in_features)
        linear = config.readout == "amplitudes"
        if config.readout_scale == "layer_norm" and width < 2:
            raise ConfigError("QAAConfig(readout_scale='layer_norm'): needs at least two readouts, this layer has one")
        circuit = config.circuit_for(in_features)
        free = config.angles == "free"
        if config.control == "classical":
            self.features: GivensFeatures | CircuitFeatures = GivensFeatures(
                in_features, width, circuit.n_angles, linear, trainable=free
            )
        else:
            words = not isinstance(config.readout, str) or config.readout == "pauli_z"
            self.features = CircuitFeatures(
                Circuit(circuit.n_wires, ()) if config.control == "none" else circuit,
                config.pauli_words(in_features) if words else str(config.readout),
                width,
                trainable=config.control == "trained" and free,
                zeros=config.init_angles == "zeros",
            )
        self.place = 0
        self.up = nn.Parameter(torch.zeros(out_features, width))
        self.up_bias = nn.Parameter(torch.zeros(out_features)) if config.up_bias else None
        self.readout_scale = config.readout_scale
        self.factor = config.scale
        if config.readout_scale == "analytic" and config.control != "classical":
            self.factor *= unit_factor(config.readout, n_wires_for(in_features))
        self.bias_factor = config.scale
        self.norm_restore = config.norm_restore
        if not linear:
            self.why_not_mergeable = (
                f"QAA with readout={config.readout!r} is not linear in the layer's input; train with "
                "readout='amplitudes' to get an adapter that merges, or keep the adapter beside the base model"
            )

    def attach(self, shared: nn.Module, place: Place) -> None:
        super().attach(shared, place)
        self.place = place.index
        if place.index == 0:
            self.train_angles = shared  # kept, and saved, by the first layer

    @property
    def angles(self) -> torch.Tensor:
        """The circuit's angles (n_angles,) as they are now, in float32 or better."""
        angles = self.features.angles
        return angles + self.shared(self.place).to(angles) if self._attached else angles

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.features.read(x, self.angles)
        if self.readout_scale == "layer_norm":
            z = F.layer_norm(z, z.shape[-1:])
        if self.norm_restore:
            z = z * (x.to(z.dtype).norm(dim=-1, keepdim=True) / math.sqrt(self.in_features))
        z = z.to(self.up.dtype)
        # One product with its factors, so that no scaled copy of the weight is kept for the backward pass.
        bias, beta = (z.new_zeros(1), 0.0) if self.up_bias is None else (self.up_bias, self.bias_factor)
        update = torch.addmm(bias, z.flatten(0, -2), self.up.T, beta=beta, alpha=self.factor)
        return update.view(*x.shape[:-1], self.out_features)

    def delta_weight(self) -> torch.Tensor:
        up, down = self.low_rank_factors()
        return up @ down

    def low_rank_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        up = lifted(self.up)
        z = self.features.read(torch.eye(self.in_features, dtype=up.dtype, device=up.device), self.angles)
        return up * self.factor, z.T.to(up.dtype)


register("qaa", QAAConfig, QAAUpdate)

"""The methods that a comparison can choose from, ours and PEFT's own, each behind one face."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from peft import LoraConfig, PeftConfig, PrefixTuningConfig, TaskType

from ketune.adapters.compass import CompassConfig
from ketune.adapters.config import ConfigError
from ketune.adapters.controls import CONTROLS
from ketune.adapters.qaa import QAAConfig
from ketune.adapters.qpa import QPAConfig
from ketune.adapters.qtha import QTHAConfig
from ketune.adapters.quanta import QuantaConfig
from ketune.adapters.quantum_peft import QuantumPeftConfig
from ketune.adapters.quic import QuicConfig
from ketune.adapters.sora import SoraConfig

METHODS: dict[str, Method] = {}
"""Every method by name, in the order of the comparison's tables."""

REFERENCE_WIDTH = 160
"""Width of the bundled base model, at which the registry states its learning rates."""


@dataclass(frozen=True)
class Method:
    """One way to adapt a model.

    Attributes:
        name: short lower-case name, as typed on a command line.
        title: name in tables.
        summary: one sentence on what it trains.
        citation: where it comes from.
        configure: builds the PEFT config at a size, `size >= 1`; the trainable parameters grow with it, or stay. None
            for full fine-tuning, which has no config and no size.
        enlarge: gives the named modules of a config another size, so that a budget is met more closely than by one size
            for all; None where a method has no such choice.
        width_power: how fast the learning rates fall with the model's width.
        size_name: what the size counts ("rank", "readouts", ...).
        default_size: the size when neither a size nor a budget is asked for.
        unsized: what each layer has in its place where the config's own default is to set none.
        learning_rate: default for AdamW with a short warm-up, on a model of width REFERENCE_WIDTH; see `at_width`.
        learning_rates: the grid of `--tune-lr` at that width; every method has the same number of values.
        controls: the values of the config's field `control` that the comparison runs beside the method.
    """

    name: str
    title: str
    summary: str
    citation: str
    configure: Callable[[int], PeftConfig] | None
    size_name: str
    default_size: int
    learning_rate: float
    learning_rates: tuple[float, ...]
    controls: tuple[str, ...] = ()
    enlarge: Callable[[PeftConfig, list[str], int], PeftConfig] | None = None
    width_power: float = 1.0
    unsized: str = ""

    def at_width(self, width: int) -> Method:
        """The method with the learning rates that suit a model with hidden states of this width.

        Adam moves each weight by about the learning rate whatever the gradient, and a sum over `width` inputs feels
        `width` such moves, so a rate that suits one width suits another when scaled by its inverse (Yang et al. 2022,
        arXiv 2203.03466); `width_power` is the exponent. A starting point, not a substitute for `--tune-lr`.
        """
        factor = (REFERENCE_WIDTH / width) ** self.width_power
        rates = tuple(_rounded(rate * factor) for rate in self.learning_rates)
        return replace(self, learning_rate=_rounded(self.learning_rate * factor), learning_rates=rates)

    @property
    def quantum(self) -> bool:
        """Whether a circuit of qubits is part of the method."""
        config = None if self.configure is None else self.configure(1)
        return hasattr(config, "circuit") or hasattr(config, "circuits")

    def config(self, size: int | None = None) -> PeftConfig | None:
        """The config at a size (the default one for None); None for full fine-tuning."""
        if self.configure is None:
            return None
        return self.configure(self.default_size if size is None else size)

    def with_control(self, config: PeftConfig, control: str) -> PeftConfig:
        """The same config as a control.

        Raises:
            ConfigError: when the method has no such control.
        """
        if control not in self.controls and control != "trained":
            known = ", ".join(map(repr, self.controls)) or "none: it has no circuit"
            raise ConfigError(f"method {self.name!r} has no control {control!r}; controls are {known}")
        return replace(config, control=control)  # pyright: ignore[reportCallIssue]


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def add_method(method: Method) -> Method:
    """Make a method known to the comparison and the command line.

    Raises:
        ValueError: when the name is taken.
    """
    if method.name in METHODS:
        raise ValueError(f"add_method({method.name!r}): there is already a method of this name")
    METHODS[method.name] = method
    return method


def get_method(name: str) -> Method:
    """Look a method up by name.

    Raises:
        ConfigError: with the known names, and the nearest one, when there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown method {name!r}: choose from {', '.join(METHODS)}{hint}")


def _enlarge_lora(config: PeftConfig, modules: list[str], size: int) -> PeftConfig:
    ranks, alphas = dict.fromkeys(modules, size), dict.fromkeys(modules, 2 * size)
    return replace(config, rank_pattern=ranks, alpha_pattern=alphas)  # pyright: ignore[reportCallIssue]


def _enlarge_ours(config: PeftConfig, modules: list[str], size: int) -> PeftConfig:
    return replace(config, size_pattern=dict.fromkeys(modules, size))  # pyright: ignore[reportCallIssue]


def _configure_qpa(size: int) -> QPAConfig:
    # The rank costs no parameters; it grows so that no chunk is longer than a layer's vector, where counts would stop.
    return QPAConfig.preset("recommended", task_type=TaskType.CAUSAL_LM, chunk=size, r=max(8, -(-size // 128)))


add_method(
    Method(
        name="full",
        title="Full fine-tuning",
        summary="All weights of the base model train.",
        citation="transformers",
        configure=None,
        size_name="",
        default_size=0,
        learning_rate=3e-4,
        learning_rates=(1e-4, 3e-4, 1e-3),
        # Whole models are tuned at 1e-5 to 5e-5 from widths of 768 to 2048 on, which a plain inverse would overshoot.
        width_power=2.0,
    )
)
add_method(
    Method(
        name="lora",
        title="LoRA",
        summary="A product of two thin matrices beside each targeted projection.",
        citation="Hu et al. 2021, arXiv 2106.09685; peft.LoraConfig",
        configure=lambda size: LoraConfig(task_type=TaskType.CAUSAL_LM, r=size, lora_alpha=2 * size),
        size_name="rank",
        default_size=8,
        learning_rate=6e-3,
        learning_rates=(2e-3, 6e-3, 2e-2),
        enlarge=_enlarge_lora,
    )
)
add_method(
    Method(
        name="prefix",
        title="Prefix tuning",
        summary="Trained key and value vectors before the real ones, in every layer.",
        citation="Li and Liang 2021, arXiv 2101.00190; peft.PrefixTuningConfig",
        configure=lambda size: PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=size),
        size_name="prefix length",
        default_size=20,
        learning_rate=0.2,
        learning_rates=(6e-2, 0.2, 0.6),
    )
)
add_method(
    Method(
        name="sora",
        title="SoRA",
        summary="A low-rank update with a gate that a proximal step makes sparse.",
        citation="Ding et al. 2023, arXiv 2311.11696",
        configure=lambda size: SoraConfig(task_type=TaskType.CAUSAL_LM, r=size, alpha=2.0 * size),
        size_name="largest rank",
        default_size=8,
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        enlarge=_enlarge_ours,
    )
)
add_method(
    Method(
        name="qaa",
        title="QAA",
        summary="A circuit on the amplitude-encoded hidden state, read out and mapped back linearly.",
        citation="Roh et al. 2025, arXiv 2509.16244",
        configure=lambda size: QAAConfig.preset("recommended", task_type=TaskType.CAUSAL_LM, n_readouts=size),
        size_name="readouts",
        unsized="one per wire",
        default_size=8,
        learning_rate=3e-2,
        learning_rates=(1e-2, 3e-2, 0.1),
        enlarge=_enlarge_ours,
        controls=tuple(control for control in CONTROLS if control != "trained"),
    )
)
add_method(
    Method(
        name="quanta",
        title="QuanTA",
        summary="A circuit of gates on pairs of axes of the hidden state, less the circuit it started as.",
        citation="Chen et al. 2024, arXiv 2406.00132",
        configure=lambda size: QuantaConfig(task_type=TaskType.CAUSAL_LM, max_parameters=size),
        size_name="parameters per layer",
        unsized="four axes",
        default_size=2048,
        learning_rate=3e-2,
        learning_rates=(1e-2, 3e-2, 0.1),
        enlarge=_enlarge_ours,
        # A gate on two of four axes has about sqrt(width) inputs.
        width_power=0.5,
        controls=tuple(control for control in CONTROLS if control != "trained"),
    )
)
add_method(
    Method(
        name="quantum_peft",
        title="Quantum-PEFT",
        summary="Singular values between orthonormal columns that small circuits of RY and CZ make.",
        citation="Koike-Akino et al. 2025, arXiv 2503.05431",
        configure=lambda size: QuantumPeftConfig(task_type=TaskType.CAUSAL_LM, n_terms=size),
        size_name="terms",
        default_size=1,
        learning_rate=0.3,
        learning_rates=(0.1, 0.3, 1.0),
        enlarge=_enlarge_ours,
        controls=tuple(control for control in CONTROLS if control != "trained"),
        # Singular values and angles: the change of weight has the size that they have, at any width.
        width_power=0.0,
    )
)
add_method(
    Method(
        name="quic",
        title="QuIC",
        summary="Compound matrices of small rotations turn the layer's output.",
        citation="Raj and Coyle 2025, arXiv 2502.06916",
        configure=lambda size: QuicConfig(task_type=TaskType.CAUSAL_LM, n_chained=size),
        size_name="chained rotations",
        default_size=1,
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        enlarge=_enlarge_ours,
        controls=tuple(control for control in CONTROLS if control != "trained"),
        # An angle matrix of n ~ sqrt(2 width) axes, each entry moved by the rate, turns by up to n times as much.
        width_power=0.5,
    )
)
add_method(
    Method(
        name="compass",
        title="Compass",
        summary="A diagonal between frames that point where the loss falls fastest, for very small budgets.",
        citation="Ketune; after LoRA-XS, arXiv 2405.17604, and LoRA-GA, arXiv 2407.05000",
        configure=lambda size: CompassConfig(task_type=TaskType.CAUSAL_LM, rank=size, frame="kfac"),
        size_name="directions",
        default_size=16,
        learning_rate=0.1,
        learning_rates=(3e-2, 0.1, 0.3),
        enlarge=_enlarge_ours,
        width_power=0.0,  # frames are normalised to the sizes of activations and outputs
    )
)
add_method(
    Method(
        name="compass_circuit",
        title="Compass with circuits",
        summary="Compass whose frames are turned by the columns of two circuits.",
        citation="Ketune",
        configure=lambda size: CompassConfig(task_type=TaskType.CAUSAL_LM, rank=size, frame="kfac", n_layers=1),
        size_name="directions",
        default_size=16,
        learning_rate=0.1,
        learning_rates=(3e-2, 0.1, 0.3),
        enlarge=_enlarge_ours,
        width_power=0.0,
        controls=tuple(control for control in CONTROLS if control != "trained"),
    )
)
add_method(
    Method(
        name="qtha",
        title="QTHA",
        summary="Tensor trains into and out of a bottleneck with a small circuit beside a dense map.",
        citation="Kong et al. 2025, arXiv 2503.12790",
        configure=lambda size: QTHAConfig(task_type=TaskType.CAUSAL_LM, bond_dim=size),
        size_name="bond dimension",
        default_size=8,
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        enlarge=_enlarge_ours,
        controls=tuple(control for control in CONTROLS if control != "trained"),
    )
)
add_method(
    Method(
        name="qpa",
        title="QPA",
        summary="A circuit and a small network that generate the LoRA factors of all layers, chunk by chunk.",
        citation="Liu et al. 2025, arXiv 2410.09846",
        configure=_configure_qpa,
        size_name="chunk length",
        default_size=1024,
        learning_rate=3e-2,
        learning_rates=(1e-2, 3e-2, 0.1),
        controls=tuple(control for control in CONTROLS if control != "trained"),
    )
)

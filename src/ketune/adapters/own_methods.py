"""Entries of the registry for the methods that Ketune brings to PEFT."""

from __future__ import annotations

from dataclasses import replace

from peft import PeftConfig, TaskType

from ketune.adapters import baseline_methods  # noqa: F401  (they stand first in every table)
from ketune.adapters.compass import CompassConfig
from ketune.adapters.controls import CONTROLS
from ketune.adapters.prequant import PreQuantConfig
from ketune.adapters.qaa import QAAConfig
from ketune.adapters.qpa import QPAConfig
from ketune.adapters.qpa_prefix import QPAPrefixConfig
from ketune.adapters.qtha import QTHAConfig
from ketune.adapters.quanta import QuantaConfig
from ketune.adapters.quantum_peft import QuantumPeftConfig
from ketune.adapters.quic import QuicConfig
from ketune.adapters.registry import Method, add_method
from ketune.adapters.sora import SoraConfig

_CONTROLS = tuple(control for control in CONTROLS if control != "trained")


def _enlarge_ours(config: PeftConfig, modules: list[str], size: int) -> PeftConfig:
    return replace(config, size_pattern=dict.fromkeys(modules, size))  # pyright: ignore[reportCallIssue]


def _configure_qpa(size: int) -> QPAConfig:
    # The rank costs no parameters; it grows so that no chunk is longer than a layer's vector, where counts would stop.
    return QPAConfig.preset("recommended", task_type=TaskType.CAUSAL_LM, chunk=size, r=max(8, -(-size // 128)))


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
        controls=_CONTROLS,
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
        controls=_CONTROLS,
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
        controls=_CONTROLS,
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
        controls=_CONTROLS,
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
        configure=lambda size: CompassConfig(task_type=TaskType.CAUSAL_LM, rank=size),
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
        configure=lambda size: CompassConfig(task_type=TaskType.CAUSAL_LM, rank=size, n_layers=1),
        size_name="directions",
        default_size=16,
        learning_rate=0.1,
        learning_rates=(3e-2, 0.1, 0.3),
        enlarge=_enlarge_ours,
        width_power=0.0,
        controls=_CONTROLS,
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
        controls=_CONTROLS,
    )
)
add_method(
    Method(
        name="prequant",
        title="PreQuant",
        summary="The outliers of each weight, the few entries that quantising moves farthest, change sparsely.",
        citation="Gong et al. 2023, arXiv 2306.00014",
        configure=lambda size: PreQuantConfig(task_type=TaskType.CAUSAL_LM, n_outliers=size),
        size_name="outliers per layer",
        unsized="0.5 % of the weights",
        default_size=128,
        learning_rate=3e-2,
        learning_rates=(1e-2, 3e-2, 0.1),
        enlarge=_enlarge_ours,
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
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        controls=_CONTROLS,
    )
)
add_method(
    Method(
        name="qpa_prefix",
        title="QPA prefix",
        summary="A circuit and a small network that generate the key and value vectors of prefix tuning.",
        citation="Liu et al. 2025, arXiv 2410.09846",
        configure=lambda size: QPAPrefixConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=20, chunk=size),
        size_name="chunk length",
        default_size=1024,
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        controls=_CONTROLS,
    )
)

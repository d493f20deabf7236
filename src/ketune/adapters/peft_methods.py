"""Entries of the registry for PEFT's own methods with few parameters, the peers of ours at small budgets."""

from __future__ import annotations

from dataclasses import replace

from peft import (
    FourierFTConfig,
    IA3Config,
    LNTuningConfig,
    PeftConfig,
    TaskType,
    TinyLoraConfig,
    UniLoraConfig,
    VeraConfig,
    WaveFTConfig,
)

from ketune.adapters import own_methods  # noqa: F401  (ours stand before them in every table)
from ketune.adapters.registry import Method, add_method
from ketune.adapters.targeting import ia3_targets, norm_targets


def _enlarge_spectrum(config: PeftConfig, modules: list[str], size: int) -> PeftConfig:
    return replace(config, n_frequency_pattern=dict.fromkeys(modules, size))  # pyright: ignore[reportCallIssue]


add_method(
    Method(
        name="vera",
        title="VeRA",
        summary="Two scaling vectors around random matrices that all layers share.",
        citation="Kopiczko et al. 2023, arXiv 2310.11454; peft.VeraConfig",
        configure=lambda size: VeraConfig(task_type=TaskType.CAUSAL_LM, r=size),
        size_name="rank",
        size_field="r",
        default_size=256,
        learning_rate=3e-2,
        learning_rates=(1e-2, 3e-2, 0.1),
        width_power=0.0,
    )
)
add_method(
    Method(
        name="tinylora",
        title="TinyLoRA",
        summary="A few numbers for each layer, spread by random matrices over two singular directions of its weight.",
        citation="arXiv 2602.04118; peft.TinyLoraConfig",
        configure=lambda size: TinyLoraConfig(task_type=TaskType.CAUSAL_LM, u=size),
        size_name="numbers per layer",
        size_field="u",
        default_size=64,
        learning_rate=0.1,
        learning_rates=(3e-2, 0.1, 0.3),
        width_power=0.0,
    )
)
add_method(
    Method(
        name="unilora",
        title="Uni-LoRA",
        summary="One vector whose entries, picked at random, fill the LoRA factors of all layers.",
        citation="Li et al. 2025, arXiv 2506.00799; peft.UniLoraConfig",
        configure=lambda size: UniLoraConfig(task_type=TaskType.CAUSAL_LM, theta_d_length=size),
        size_name="length",
        size_field="theta_d_length",
        default_size=256,
        learning_rate=0.1,
        learning_rates=(3e-2, 0.1, 0.3),
        width_power=0.0,
    )
)
add_method(
    Method(
        name="fourierft",
        title="FourierFT",
        summary="A few Fourier coefficients of each layer's change of weight.",
        citation="Gao et al. 2024, arXiv 2405.03003; peft.FourierFTConfig",
        configure=lambda size: FourierFTConfig(task_type=TaskType.CAUSAL_LM, n_frequency=size, init_weights=True),
        size_name="frequencies",
        size_field="n_frequency",
        default_size=256,
        learning_rate=0.3,
        learning_rates=(0.1, 0.3, 1.0),
        enlarge=_enlarge_spectrum,
        width_power=0.0,
    )
)
add_method(
    Method(
        name="waveft",
        title="WaveFT",
        summary="A few wavelet coefficients of each layer's change of weight.",
        citation="Bilican et al. 2025, arXiv 2505.12532; peft.WaveFTConfig",
        configure=lambda size: WaveFTConfig(task_type=TaskType.CAUSAL_LM, n_frequency=size),
        size_name="coefficients",
        size_field="n_frequency",
        default_size=256,
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        enlarge=_enlarge_spectrum,
        width_power=0.0,
    )
)
add_method(
    Method(
        name="ia3",
        title="IA3",
        summary="Factors on keys, values and the inputs of feed-forward layers.",
        citation="Liu et al. 2022, arXiv 2205.05638; peft.IA3Config",
        configure=lambda size: IA3Config(task_type=TaskType.CAUSAL_LM),
        size_name="",
        default_size=1,
        learning_rate=3e-2,
        learning_rates=(1e-2, 3e-2, 0.1),
        own_targets=ia3_targets,
        width_power=0.0,
    )
)
add_method(
    Method(
        name="ln_tuning",
        title="LN tuning",
        summary="The weights and biases of the normalisations train.",
        citation="Qi et al. 2022, arXiv 2211.08682; peft.LNTuningConfig",
        configure=lambda size: LNTuningConfig(task_type=TaskType.CAUSAL_LM),
        size_name="",
        default_size=1,
        learning_rate=1e-2,
        learning_rates=(3e-3, 1e-2, 3e-2),
        own_targets=norm_targets,
        width_power=0.0,
    )
)

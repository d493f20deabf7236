"""Entries of the registry for what every method is compared with: full fine-tuning, LoRA and prefix tuning."""

from __future__ import annotations

from dataclasses import replace

from peft import LoraConfig, PeftConfig, PrefixTuningConfig, TaskType

from ketune.adapters.registry import Method, add_method


def _enlarge_lora(config: PeftConfig, modules: list[str], size: int) -> PeftConfig:
    ranks, alphas = dict.fromkeys(modules, size), dict.fromkeys(modules, 2 * size)
    return replace(config, rank_pattern=ranks, alpha_pattern=alphas)  # pyright: ignore[reportCallIssue]


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
        size_field="r",
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
        size_field="num_virtual_tokens",
        default_size=20,
        learning_rate=0.2,
        learning_rates=(6e-2, 0.2, 0.6),
    )
)

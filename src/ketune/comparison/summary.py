"""The result of a comparison as a short table: one row per method, for a terminal or a script."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ketune.comparison.arms import Arm, Comparison, read_comparison, same_budget

SCORES = ("loss", "perplexity", "bits_per_byte", "bleu", "rouge1", "rouge2", "rougeL", "exact_match", "bertscore")
COSTS = (
    "step_seconds",
    "tokens_per_second",
    "train_seconds",
    "peak_bytes",
    "file_bytes",
    "model_bytes",
    "bits_per_weight",
    "effective_rank",
)


@dataclass(frozen=True)
class SummaryRow:
    """One method with all its choices made, over its seeds.

    Attributes:
        label: name in tables.
        method: name of the method; None for the untouched base model.
        experiment: name of the experiment within the method.
        control: what stands in for the trained quantum part, None for methods without one.
        trainable_parameters: exact count; None if no cell says.
        share: of the base model's parameters.
        seeds: finished ones.
        failed_seeds: those that did not finish.
        scores: by name of the score on the test split, {"mean", "half_width"}; the half width is that of the 95 %
            interval over seeds, None for a single seed.
        costs: means over seeds: seconds per step, bytes of peak memory, ...
        difference: mean of loss minus LoRA's, paired by seed; None without LoRA.
        equal_size: whether LoRA has (about) as many parameters.
        p_value: of that difference, Holm-adjusted; None where it cannot be tested.
    """

    label: str
    method: str | None
    experiment: str | None
    control: str | None
    trainable_parameters: int | None
    share: float | None
    seeds: tuple[int, ...]
    failed_seeds: tuple[int, ...]
    scores: dict[str, dict[str, float | None]]
    costs: dict[str, float]
    difference: float | None
    equal_size: bool | None
    p_value: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def summarize_comparison(folder: str | Path) -> list[SummaryRow]:
    """The rows of a comparison's short table, the untouched base model first.

    Args:
        folder: what `ketune compare --out` wrote.

    Raises:
        ResultError: when there is no such folder.
    """
    comparison = read_comparison(Path(folder))
    base = {
        name: {"mean": value, "half_width": None} for name, value in comparison.base_scores.items() if name in SCORES
    }
    rows = [SummaryRow("Base model", None, None, None, 0, 0.0, (), (), base, {}, None, None, None)] if base else []
    tests = comparison.tests_against_reference()
    n_base = next((n for arm in comparison.finished if (n := arm.n_base)), None)
    return rows + [_row(comparison, arm, tests, n_base) for arm in comparison.arms]


def _row(comparison: Comparison, arm: Arm, tests: dict[str, Any], n_base: int | None) -> SummaryRow:
    reference, test = comparison.reference_for(arm), tests.get(arm.label)
    intervals = {name: arm.mean(name) for name in (*SCORES, *COSTS)}
    return SummaryRow(
        label=arm.label,
        method=arm.method,
        experiment=arm.experiment,
        control=arm.control,
        trainable_parameters=arm.n_trainable,
        share=arm.n_trainable / n_base if arm.n_trainable is not None and n_base else None,
        seeds=arm.seeds,
        failed_seeds=tuple(result.ketune.seed for result in arm.failed),
        scores={
            name: {"mean": interval.mean, "half_width": interval.half_width}
            for name in SCORES
            if (interval := intervals[name]) is not None
        },
        costs={name: interval.mean for name in COSTS if (interval := intervals[name]) is not None},
        difference=None if test is None else test.difference.mean if test.difference else None,
        equal_size=None if reference is None else same_budget(arm, reference),
        p_value=None if test is None else test.p_value,
    )

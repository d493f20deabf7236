"""All figures of a report, by name; a figure that the results do not support is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ketune.comparison.arms import REFERENCE, Comparison
from ketune.comparison.figures_capacity import circuit_figure, spectrum_figure, weight_spectrum_figure
from ketune.comparison.figures_convergence import AXES, eval_figure, loss_figure
from ketune.comparison.figures_efficiency import (
    bar_figure,
    difference_figure,
    learning_rate_figure,
    quality_figure,
    size_figure,
)
from ketune.comparison.report_findings import control_tests

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2.0**-20


def build_figures(comparison: Comparison) -> dict[str, Figure]:
    """Draw all figures.

    Controls are drawn where they answer a question of their own (quality, cost, their own section), and left out of the
    curves, where they would hide the methods.
    """
    arms = comparison.finished
    methods = [arm for arm in arms if not arm.is_control] or arms
    base_loss = comparison.base_scores.get("loss")
    reference = next((arm.label for arm in arms if arm.method == REFERENCE), REFERENCE)
    figures = {f"loss_vs_{'steps' if key == 'step' else key}": loss_figure(methods, key) for key in AXES}
    figures |= {
        "eval_loss_vs_steps": eval_figure(methods, base_loss),
        "quality_vs_parameters": quality_figure(arms, base_loss),
        "quality_vs_size": size_figure(arms, base_loss),
        "difference_to_lora": difference_figure(comparison.tests_against_reference(), arms, reference),
        "peak_memory": bar_figure(arms, "peak_bytes", "peak memory (MiB)", MIB, floor="baseline_bytes"),
        "step_time": bar_figure(arms, "step_seconds", "median training step (ms)", 1e3),
        "spectrum": spectrum_figure(methods),
        "weight_spectrum": weight_spectrum_figure(methods),
        "effective_rank": bar_figure(arms, "effective_rank", "effective rank of the change of hidden states", 1.0),
        "circuits": circuit_figure(arms),
        "learning_rates": learning_rate_figure(methods),
    }
    for arm in arms:
        controls = comparison.controls_of(arm) if arm.control == "trained" else []
        if controls:
            tests = control_tests(comparison, arm)
            name = control_figure_name(arm.method, arm.experiment)
            figures[f"{name}_difference"] = difference_figure(tests, controls, arm.label, reverse=True)
            figures[f"{name}_loss"] = loss_figure([arm, *controls], "step")
    return {name: figure for name, figure in figures.items() if figure is not None}


def control_figure_name(method: str, experiment: str) -> str:
    """The beginning of the names of the figures about one method's controls: letters, digits, "_" and "-" only."""
    return "controls_" + "".join(c if c.isalnum() or c in "_-" else "-" for c in f"{method}_{experiment}")

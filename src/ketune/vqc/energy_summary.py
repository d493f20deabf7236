"""What runs of an energy problem say: steps to the target, gaps, and how gradients fall with the number of wires."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ketune.vqc.energy_runs import EnergyRuns, RunResult
from ketune.vqc.problems.base import EnergyProblem
from ketune.vqc.problems.registry import PROBLEMS, make_problem
from ketune.vqc.runs import RunError
from ketune.vqc.starts import STARTS


@dataclass(frozen=True)
class Summary:
    """One start over its seeds.

    Args:
        start: its name.
        n_runs: how many runs.
        first_gap: mean gap at the start, as a share of |ground energy|.
        last_gap: mean gap after the last step.
        n_arrived: how many runs came within the target.
        median_steps: median steps to the target, where more than half arrived.
        meta_gradients: gradients that meta-training took.
    """

    start: str
    n_runs: int
    first_gap: float
    last_gap: float
    n_arrived: int
    median_steps: float | None
    meta_gradients: int


def summarise(runs: EnergyRuns, results: Sequence[RunResult]) -> list[Summary]:
    """A line for each start, in the order asked for."""
    lines = []
    for start in runs.starts:
        own = [result for result in results if result.start == start]
        if not own:
            continue
        steps = [result.steps_to(runs.target) for result in own]
        arrived = sorted(step for step in steps if step is not None)
        late = [float("inf")] * (len(own) - len(arrived))
        median = statistics.median([*arrived, *late])
        lines.append(
            Summary(
                start,
                len(own),
                statistics.fmean(result.gaps[0] for result in own),
                statistics.fmean(result.gaps[-1] for result in own),
                len(arrived),
                None if median == float("inf") else median,
                max(result.meta_gradients for result in own),
            )
        )
    return lines


def gradient_variance(runs: EnergyRuns, widths: Sequence[int], n_draws: int = 100) -> dict[str, list[float]]:
    """How the gradient at the start falls with the number of wires, for the fixed starts among `runs.starts`.

    Args:
        runs: what is run; the problem has to have an option `n_wires`.
        widths: numbers of wires.
        n_draws: starts that are drawn for each.

    Returns:
        For each start the variance of the derivative to one angle, the mean over all angles, at each width; as a share
        of the squared ground energy.

    Raises:
        RunError: for a problem whose number of wires is fixed.
    """
    if "n_wires" not in PROBLEMS[runs.problem].options:
        raise RunError(f"{runs.problem!r} has no option n_wires: its number of wires cannot be varied")
    found: dict[str, list[float]] = {}
    for n_wires in widths:
        problem = make_problem(runs.problem, **{**runs.options, "n_wires": n_wires})
        assert isinstance(problem, EnergyProblem)
        for start in runs.starts:
            if start not in STARTS:
                continue
            generator = torch.Generator().manual_seed(0)
            drawn = torch.stack([STARTS[start](problem.circuit, generator) for _ in range(n_draws)]).requires_grad_()
            slopes = torch.autograd.grad(problem.energy(drawn).sum(), drawn)[0] / abs(problem.ground_energy)
            found.setdefault(start, []).append(slopes.var(0).mean().item())
    return found

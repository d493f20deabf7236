"""Sentences that say what the numbers of a comparison say, and no more: who wins, who loses, what is undecided."""

from __future__ import annotations

from ketune.comparison.arms import Arm, Comparison, adjusted_tests, same_budget
from ketune.comparison.report_text import count, evidence, seeds, verdict
from ketune.comparison.statistics import PairedTest, pareto_front

#: What a trained method is compared with when it is compared with one of its controls.
_SELF = {
    "frozen": "itself with a frozen circuit",
    "classical": "itself with a classical stand-in",
    "none": "itself without the circuit",
}


def findings(comparison: Comparison) -> list[str]:
    """The findings in order of weight; empty when no cell has a test loss. Lower test loss is better throughout."""
    arms = [arm for arm in comparison.finished if arm.mean("loss") is not None]
    if not arms:
        return []
    lines = _best(arms)
    tests = comparison.tests_against_reference()
    for arm in arms:
        if arm.control == "trained":
            lines += _against_reference(comparison, arm, tests)
            lines += _against_controls(comparison, arm)
            lines += _cost(comparison, arm)
    return (
        lines
        + _others_against_reference(comparison, arms, tests)
        + _front(arms)
        + _worse_than_base(comparison, arms)
        + _limits(comparison, arms)
    )


def control_tests(comparison: Comparison, arm: Arm) -> dict[str, PairedTest]:
    """By label, each control of an arm tested against it: test loss of the trained one minus the control's."""
    controls = comparison.controls_of(arm)
    return adjusted_tests({c.label: (arm.values("loss"), c.values("loss")) for c in controls})


def _best(arms: list[Arm]) -> list[str]:
    def loss(arm: Arm) -> float:
        mean = arm.mean("loss")
        assert mean is not None
        return mean.mean

    best = min(arms, key=loss)
    lines = [
        f"Lowest mean test loss: {best.label} with {loss(best):.4f} nats per token "
        f"({count(best.n_trainable)} trainable parameters)."
    ]
    sized = [arm for arm in arms if arm.budget is not None]
    if best not in sized and len(sized) > 1:
        first = min(sized, key=loss)
        lines.append(
            f"Among those sized to the budget of {count(first.budget)} parameters it is {first.label} "
            f"with {loss(first):.4f} ({count(first.n_trainable)} parameters)."
        )
    return lines


def _against_reference(comparison: Comparison, arm: Arm, tests: dict[str, PairedTest]) -> list[str]:
    test, reference = tests.get(arm.label), comparison.reference_for(arm)
    if test is None or reference is None:
        return []
    fair = same_budget(arm, reference)
    sizes = f"{count(arm.n_trainable)} and {count(reference.n_trainable)} trainable parameters"
    where = f" at equal budget ({sizes})" if fair else f", though not at equal budget ({sizes})"
    return [_compared(arm.label, reference.label, test) + where + _tail(test)]


def _others_against_reference(comparison: Comparison, arms: list[Arm], tests: dict[str, PairedTest]) -> list[str]:
    """One sentence on the methods that have no controls; the table holds their numbers."""
    phrases, name = [], ""
    for arm in arms:
        reference = comparison.reference_for(arm)
        if arm.control is None and reference is not None and arm.label in tests:
            name = reference.label
            size = "" if same_budget(arm, reference) else f", with {count(arm.n_trainable)} parameters"
            phrases.append(f"{arm.label} {verdict(tests[arm.label])}{size}")
    return [f"The other methods beside {name}: {'; '.join(phrases)}."] if phrases else []


def _compared(ours: str, theirs: str, test: PairedTest) -> str:
    return {
        "better": f"{ours} beats {theirs}",
        "worse": f"{ours} loses to {theirs}",
        "equal": f"{ours} and {theirs} have the same test loss",
        "undecided": f"{ours} against {theirs} is undecided",
    }[verdict(test)]


def _tail(test: PairedTest) -> str:
    """The size of a difference, with the numbers behind it."""
    if test.difference is None:
        return f": {test.reason}."
    mean = test.difference.mean
    direction = "lower" if mean < 0 else "higher"
    return f": its test loss is {abs(mean):.4f} nats per token {direction} ({evidence(test)})."


def _against_controls(comparison: Comparison, arm: Arm) -> list[str]:
    tests = control_tests(comparison, arm)
    if not tests:
        return [f"No control of {arm.label} was run, so nothing can be said about what its circuit adds."]
    names = {control.label: _SELF[control.control or "none"] for control in comparison.controls_of(arm)}
    lines = [_compared(arm.label, names[label], test) + _tail(test) for label, test in tests.items()]
    verdicts = [verdict(test) for test in tests.values()]
    if "worse" in verdicts:
        lines.append(f"Something simpler in the place of the trained circuit of {arm.label} does better.")
    elif all(v == "better" for v in verdicts):
        lines.append(f"{arm.label} beats every control that was run, on this model and data.")
    else:
        lines.append(f"These runs do not show that training the circuit of {arm.label} helps.")
    return lines


def _cost(comparison: Comparison, arm: Arm) -> list[str]:
    reference = comparison.reference_for(arm)
    if reference is None:
        return []
    parts = []
    for metric, phrase in (("step_seconds", "the time of a training step"), ("peak_bytes", "the peak memory")):
        ours, theirs = arm.mean(metric), reference.mean(metric)
        if ours is not None and theirs is not None and theirs.mean > 0:
            parts.append(f"{ours.mean / theirs.mean:.2f} times {phrase}")
    return [f"{arm.label} takes {' and '.join(parts)} of {reference.label}."] if parts else []


def _front(arms: list[Arm]) -> list[str]:
    points = [(arm, (arm.n_trainable, mean.mean)) for arm in arms if arm.n_trainable and (mean := arm.mean("loss"))]
    if len(points) < 2:
        return []
    names = [points[i][0].label for i in pareto_front([point for _, point in points])]
    return [f"On the Pareto front of parameters and mean test loss: {'; '.join(names)}."]


def _worse_than_base(comparison: Comparison, arms: list[Arm]) -> list[str]:
    base = comparison.base_scores.get("loss")
    if base is None:
        return []
    worse = [arm.label for arm in arms if (mean := arm.mean("loss")) and mean.mean >= base]
    return [f"No better than the untouched base ({base:.4f}): {'; '.join(worse)}."] if worse else []


def _limits(comparison: Comparison, arms: list[Arm]) -> list[str]:
    lines = []
    fewest, most = (pick(len(arm.seeds) for arm in arms) for pick in (min, max))
    if fewest < 2:
        lines.append("With one seed, a difference cannot be told from chance; run more, e.g. `--seeds 0,1,2`.")
    elif fewest < 5:
        few = f"{'as few as ' if fewest < most else ''}{seeds(fewest)}"
        lines.append(
            f"With {few}, only differences that are large beside their spread can be told from chance: "
            '"undecided" does not mean "equal".'
        )
    failed = sum(len(arm.failed) for arm in comparison.arms)
    if failed:
        lines.append(f"{failed} cell{'s' if failed > 1 else ''} failed, and no number above includes them; see below.")
    return lines

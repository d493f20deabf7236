"""The results of a comparison, grouped into arms: one arm is one method, experiment and control over all its seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ketune.comparison.result_checks import CONTROLS
from ketune.comparison.results import Result, load_results
from ketune.comparison.statistics import Interval, PairedTest, holm, mean_interval, paired_t_test

#: The method that all others are tested against.
REFERENCE = "lora"
#: Two arms are of equal size when their counts of trainable parameters differ by at most this share.
SAME_SIZE = 0.1
#: Two arms differ when the adjusted p value is below this.
ALPHA = 0.05


@dataclass(frozen=True)
class Arm:
    """One row of the tables: a method with all its choices made, and a result for each seed.

    Attributes:
        method: Name of the method.
        experiment: Name of the experiment within the method.
        control: What stands in for the trained quantum part; None for methods without one.
        label: What the reader sees; unique in its comparison.
        results: Finished cells by rising seed.
        failed: Cells that did not finish.
    """

    method: str
    experiment: str
    control: str | None
    label: str
    results: tuple[Result, ...]
    failed: tuple[Result, ...] = ()

    @property
    def is_control(self) -> bool:
        """Whether something stands in for the part that the method is about."""
        return self.control not in (None, "trained")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the finished cells."""
        return tuple(result.ketune.seed for result in self.results)

    @property
    def n_trainable(self) -> int | None:
        """Trainable parameters, None when no cell says."""
        return next((n for r in self.results if (n := r.train_info.num_trainable_params) is not None), None)

    @property
    def n_base(self) -> int | None:
        """Parameters of the untouched base, None when no cell says."""
        for result in self.results:
            total, trainable = result.train_info.num_total_params, result.train_info.num_trainable_params
            if total and trainable is not None:
                return total if result.run_info.peft_config is None else total - trainable
        return None

    @property
    def quantization(self) -> str | None:
        """How the model was quantised, None for full precision."""
        return next((r.ketune.quantization for r in self.results), None)

    @property
    def budget(self) -> int | None:
        """The count that the method was sized to, None when it was not."""
        return next((r.ketune.budget for r in self.results if r.ketune.budget is not None), None)

    def values(self, metric: str) -> dict[int, float]:
        """A number for each seed that has it; `metric` is a score of the test split, or one of `_MEASURES`."""
        found = {result.ketune.seed: _measure(result, metric) for result in self.results}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, metric: str) -> Interval | None:
        """The mean over seeds with its 95 % interval, None when no seed has the number."""
        values = self.values(metric)
        return mean_interval(list(values.values())) if values else None


@dataclass
class Comparison:
    """All that a report is written from; parts may be missing.

    Attributes:
        folder: Where it stands.
        arms: In the order of the tables.
        asked: The content of `comparison.json`, empty when there is none.
        base: The content of `base_test.json` ({"test", "samples"} of the untouched base), empty when there is none.
        problems: Lines about files that could not be read.
    """

    folder: Path
    arms: list[Arm]
    asked: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def finished(self) -> list[Arm]:
        """Arms with at least one finished cell."""
        return [arm for arm in self.arms if arm.results]

    @property
    def any_result(self) -> Result | None:
        """Some finished result, else a failed one: for what all cells share (machine, versions, base)."""
        cells = [r for arm in self.arms for r in arm.results] + [r for arm in self.arms for r in arm.failed]
        return cells[0] if cells else None

    @property
    def base_scores(self) -> dict[str, float]:
        """Scores of the untouched base model, from its own file or the first cell that has them."""
        tests = (r.ketune.base_test for arm in self.arms for r in arm.results)
        return next((_numbers(test) for test in (self.base.get("test"), *tests) if test), {})

    @property
    def base_samples(self) -> dict[str, str]:
        """What the untouched base answered, by prompt."""
        return {sample["prompt"]: sample["prediction"] for sample in self.base.get("samples") or []}

    def reference_for(self, arm: Arm) -> Arm | None:
        """The arm of LoRA nearest in size to `arm`, None when LoRA has no finished cell or `arm` is LoRA itself."""
        if arm.method == REFERENCE:
            return None
        of_method = [other for other in self.finished if other.method == REFERENCE]
        candidates = [other for other in of_method if other.quantization == arm.quantization] or of_method
        size = arm.n_trainable or 0
        return min(candidates, key=lambda other: abs((other.n_trainable or 0) - size), default=None)

    def tests_against_reference(self, metric: str = "loss") -> dict[str, PairedTest]:
        """By label, the paired test of each arm that has LoRA beside it.

        p values are Holm-adjusted over the methods. Controls are tested against their own method elsewhere; here they
        have a difference and no p value, so that asking about them does not weaken the answer about the methods.
        """
        pairs = {arm.label: (arm, ref) for arm in self.finished if (ref := self.reference_for(arm)) is not None}
        scores = {label: (arm.values(metric), ref.values(metric)) for label, (arm, ref) in pairs.items()}
        tests = adjusted_tests({label: pair for label, pair in scores.items() if not pairs[label][0].is_control})
        for label in scores.keys() - tests.keys():
            test = paired_t_test(*scores[label])
            reason = test.reason or "a control; tested against its own method"
            tests[label] = PairedTest(test.difference, None, None, test.seeds, reason)
        return tests

    def controls_of(self, arm: Arm) -> list[Arm]:
        """The finished controls of an arm: same method, nearest in size for each kind of control."""
        found = []
        for control in CONTROLS[2:]:
            kind = (arm.method, arm.quantization, control)
            same = [o for o in self.finished if (o.method, o.quantization, o.control) == kind]
            if same:
                found.append(min(same, key=lambda other: abs((other.n_trainable or 0) - (arm.n_trainable or 0))))
        return found


def same_budget(arm: Arm, other: Arm) -> bool:
    """Whether two arms stand at equal budget: sized to the same count, or within `SAME_SIZE` of each other."""
    if arm.budget is not None and arm.budget == other.budget:
        return True
    a, b = arm.n_trainable, other.n_trainable
    return a is not None and b is not None and abs(a - b) <= SAME_SIZE * max(a, b)


def adjusted_tests(pairs: dict[str, tuple[dict[int, float], dict[int, float]]]) -> dict[str, PairedTest]:
    """Paired tests of one family, with Holm's adjustment of their p values."""
    tests = {label: paired_t_test(ours, theirs) for label, (ours, theirs) in pairs.items()}
    p_values = holm({label: test.p_value for label, test in tests.items()})
    return {
        label: PairedTest(test.difference, p_values[label], test.effect_size, test.seeds, test.reason)
        for label, test in tests.items()
    }


def read_comparison(folder: Path) -> Comparison:
    """Read what stands in a comparison's folder: its `comparison.json`, if any, and all readable results.

    Raises:
        ResultError: There is no such folder.
    """
    problems: list[str] = []
    results = load_results(folder, problems)
    asked = _read_object(folder / "comparison.json", problems)
    base = _read_object(folder / "base_test.json", problems)
    return Comparison(folder, group(results, method_order(asked)), asked, base, problems)


def _read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    """The JSON object in a file, empty when there is none; a file that is broken gets a line in `problems`."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path.name}: not readable as JSON ({error})")
        return {}
    return content if isinstance(content, dict) else {}


def method_order(asked: dict[str, Any]) -> tuple[str, ...]:
    """Method names in the order of the tables: as asked for, then as registered."""
    return tuple(dict.fromkeys((*(asked.get("methods") or ()), *registered_methods())))


def registered_methods() -> dict[str, str]:
    """Titles of the registered methods by name, in the order of the registry."""
    from ketune.adapters import METHODS

    return {name: method.title for name, method in METHODS.items()}


def group(results: Sequence[Result], order: Sequence[str] = ()) -> list[Arm]:
    """Put results into arms, in the given order of methods, controls behind the method they belong to."""
    groups: dict[tuple[str, str, str | None], list[Result]] = {}
    for result in results:
        info = result.ketune
        groups.setdefault((info.method, info.experiment, info.control), []).append(result)
    places = {name: place for place, name in enumerate(order)}
    keys = sorted(groups, key=lambda key: (places.get(key[0], len(places)), key[0], CONTROLS.index(key[2]), key[1]))
    labels = _labels(keys, {key: groups[key][0].ketune.quantization for key in keys})
    arms = []
    for key in keys:
        cells = sorted(groups[key], key=lambda result: result.ketune.seed)
        finished = tuple(cell for cell in cells if cell.ok)
        arms.append(Arm(*key, labels[key], finished, tuple(cell for cell in cells if not cell.ok)))
    return arms


def _labels(
    keys: Sequence[tuple[str, str, str | None]], quantizations: dict[tuple[str, str, str | None], str | None]
) -> dict[tuple[str, str, str | None], str]:
    titles = registered_methods()
    short = {}
    for key in keys:
        method, _, control = key
        name = titles.get(method, method)
        short[key] = name if control in (None, "trained") else f"{name}, {CONTROL_NAMES[control]}"
        if quantizations[key]:
            short[key] += f", {str(quantizations[key]).replace(':', ' ')}"
    names = list(short.values())
    return {key: name if names.count(name) == 1 else f"{name} ({key[1]})" for key, name in short.items()}


#: How a control is called beside the name of its method.
CONTROL_NAMES = {"frozen": "frozen circuit", "classical": "classical stand-in", "none": "no circuit"}

_MEASURES = {
    "peak_bytes": lambda r: r.ketune.memory.get("peak_bytes", r.train_info.accelerator_memory_max),
    "baseline_bytes": lambda r: r.ketune.memory.get("baseline_bytes"),
    "step_seconds": lambda r: r.ketune.speed.get("step_seconds_median"),
    "tokens_per_second": lambda r: r.ketune.speed.get("tokens_per_second"),
    "train_seconds": lambda r: r.train_info.train_time,
    "file_bytes": lambda r: r.train_info.file_size,
    "accuracy": lambda r: r.last_metrics.get("test accuracy"),
    "train_loss": lambda r: r.last_metrics.get("train loss"),
    "effective_rank": lambda r: ((r.ketune.capacity or {}).get("hidden") or {}).get("effective_rank"),
    "stable_rank": lambda r: ((r.ketune.capacity or {}).get("hidden") or {}).get("stable_rank"),
    "model_bytes": lambda r: r.ketune.size.get("model_bytes"),
    "bits_per_weight": lambda r: r.ketune.size.get("bits_per_weight"),
    "relative_norm": lambda r: ((r.ketune.capacity or {}).get("hidden") or {}).get("relative_norm"),
}


def _measure(result: Result, metric: str) -> float | None:
    value = _MEASURES[metric](result) if metric in _MEASURES else result.ketune.test.get(metric)
    return _numbers({metric: value}).get(metric)


def _numbers(scores: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a dictionary of scores."""
    return {
        key: float(value)
        for key, value in scores.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    }

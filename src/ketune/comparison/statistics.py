"""The few statistics that a comparison over seeds needs: intervals, paired tests, a correction, a front.

Student's t is computed here, from its closed form for whole degrees of freedom, because SciPy is no dependency of ours
and seeds are counted in whole numbers. Sources: Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.7.3 and
26.7.4 (t distribution); Holm 1979, *Scand. J. Statist.* 6 (correction); Cohen 1988 (effect size d_z).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values with its confidence interval; `half_width` is None for fewer than two values."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float | None:
        """Lower end, or None where there is no interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end, or None where there is no interval."""
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired t test of `ours - theirs` over shared seeds.

    Attributes:
        difference: Mean of the differences, with its interval.
        p_value: None when the test cannot be made; `reason` then says why.
        effect_size: Cohen's d_z, the mean difference in standard deviations of the differences; None with `p_value`.
        seeds: The seeds that both sides have, sorted.
        reason: Why there is no p value; None when there is one.
    """

    difference: Interval | None
    p_value: float | None
    effect_size: float | None
    seeds: tuple[int, ...]
    reason: str | None = None


def t_probability(t: float, dof: int) -> float:
    """The probability P(|T| <= t) of Student's t distribution.

    Args:
        t: A number >= 0.
        dof: Degrees of freedom, a whole number >= 1.

    Raises:
        ValueError: `dof` is below 1.
    """
    if dof < 1:
        raise ValueError(f"t_probability(dof={dof}): degrees of freedom must be at least 1; pass two or more values")
    return _probability_of_angle(math.atan2(abs(t), math.sqrt(dof)), dof)


def t_quantile(confidence: float, dof: int) -> float:
    """The t with P(|T| <= t) = confidence: half the width of a two-sided interval in standard errors.

    Args:
        confidence: Strictly between 0 and 1.
        dof: Degrees of freedom, a whole number >= 1.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 0.0 < confidence < 1.0 or dof < 1:
        raise ValueError(f"t_quantile({confidence}, dof={dof}): need 0 < confidence < 1 and dof >= 1")
    low, high = 0.0, math.pi / 2  # the probability grows with the angle, so halving brackets is enough
    for _ in range(80):
        middle = (low + high) / 2
        if _probability_of_angle(middle, dof) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2)


def _probability_of_angle(angle: float, dof: int) -> float:
    """P(|T| <= sqrt(dof) tan(angle)), by the finite sums of 26.7.3 (odd dof) and 26.7.4 (even)."""
    square = math.cos(angle) ** 2
    odd = dof % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(2 + odd, dof + 1, 2):
        total += term
        term *= square * (k - 1) / k
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of `values` with a confidence interval by Student's t; a single value gets no interval.

    Args:
        values: One number per seed, at least one.
        confidence: Coverage, 0.95 for 95 %.

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("mean_interval([]): no values; pass at least one")
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, None, n)
    return Interval(mean, t_quantile(confidence, n - 1) * _deviation(values, mean) / math.sqrt(n), n)


def paired_t_test(ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = 0.95) -> PairedTest:
    """Test whether `ours` and `theirs` differ in the mean, seed by seed.

    Pairing takes out what a seed does to both (data order, initial noise), which at few seeds is most of the spread.

    Args:
        ours: Score by seed.
        theirs: Score by seed; only seeds in both count.
        confidence: Coverage of the interval of the difference.
    """
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        return PairedTest(None, None, None, seeds, "no seed in common")
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    interval = mean_interval(differences, confidence)
    if len(seeds) < 2:
        return PairedTest(interval, None, None, seeds, "one seed in common; a test needs two")
    deviation = _deviation(differences, interval.mean)
    if deviation <= 1e-12 * max(abs(interval.mean), 1e-300):
        reason = "the same in every seed" if interval.mean == 0 else "the difference is the same in every seed"
        return PairedTest(interval, None, None, seeds, reason)
    effect = interval.mean / deviation
    p_value = 1.0 - t_probability(effect * math.sqrt(len(seeds)), len(seeds) - 1)
    return PairedTest(interval, max(p_value, 0.0), effect, seeds)


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Holm's step-down adjustment: reject where the adjusted p is below alpha, and the chance of any false alarm in the
    whole family stays below alpha. Entries that are None were not tested; they stay None and do not count."""
    tested = sorted((p, i, key) for i, (key, p) in enumerate(p_values.items()) if p is not None)
    adjusted: dict[Key, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (p, _, key) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[key] = highest
    return adjusted


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats, when less is better in both coordinates; by first coordinate.

    A point is beaten by one that is no worse in both and better in one, so equal points stay together.
    """
    front = [i for i, (a, b) in enumerate(points) if not any(c <= a and d <= b and (c < a or d < b) for c, d in points)]
    return sorted(front, key=lambda i: points[i])


def _deviation(values: Sequence[float], mean: float) -> float:
    """Sample standard deviation (with n - 1) of two or more values."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))

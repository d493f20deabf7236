"""Numbers and short phrases as the report writes them."""

from __future__ import annotations

from collections.abc import Collection

from ketune.comparison.arms import ALPHA
from ketune.comparison.statistics import Interval, PairedTest

#: What stands where there is no number.
NOTHING = "–"


def with_interval(interval: Interval | None, digits: int, scale: float = 1.0) -> str:
    """A mean with half the width of its 95 % interval, e.g. "1.4031 ± 0.0213"."""
    if interval is None:
        return NOTHING
    mean = f"{interval.mean * scale:.{digits}f}"
    return mean if interval.half_width is None else f"{mean} ± {interval.half_width * scale:.{digits}f}"


def with_range(values: Collection[float], digits: int, scale: float = 1.0) -> str:
    """A mean with the lowest and highest value, e.g. "55.0 (54.1 to 56.2)"."""
    if not values:
        return NOTHING
    mean = f"{sum(values) / len(values) * scale:.{digits}f}"
    return (
        mean if len(values) == 1 else f"{mean} ({min(values) * scale:.{digits}f} to {max(values) * scale:.{digits}f})"
    )


def number(value: float | None, digits: int, scale: float = 1.0) -> str:
    """A number with so many digits after the point, or a dash."""
    return NOTHING if value is None else f"{value * scale:.{digits}f}"


def signed(interval: Interval | None, digits: int = 4) -> str:
    """A difference with its sign and half its interval, e.g. "+0.0612 ± 0.0104"."""
    if interval is None:
        return NOTHING
    mean = f"{interval.mean:+.{digits}f}".replace("-", "−")
    return mean if interval.half_width is None else f"{mean} ± {interval.half_width:.{digits}f}"


def p_value(p: float | None) -> str:
    """A p value to three digits, never as zero."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(n: int | None) -> str:
    """A count with thousands set apart, exact."""
    return NOTHING if n is None else f"{n:,}"


def share(part: int | None, whole: int | None) -> str:
    """A percentage with three significant digits."""
    return NOTHING if part is None or not whole else f"{100 * part / whole:.3g} %"


def size(n_bytes: float | None) -> str:
    """Bytes in the unit that suits, decimal as file managers count."""
    if n_bytes is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def verdict(test: PairedTest) -> str:
    """What a test of a loss says: "better", "worse", "equal" or "undecided"."""
    if test.difference is not None and test.difference.half_width == 0 and test.difference.mean == 0:
        return "equal"
    if test.p_value is None or test.p_value >= ALPHA or test.difference is None:
        return "undecided"
    return "better" if test.difference.mean < 0 else "worse"


def seeds(n: int) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{n} seed{'' if n == 1 else 's'}"


def evidence(test: PairedTest) -> str:
    """The numbers behind a verdict, for brackets: interval, p, effect size and seeds, as far as they exist."""
    if test.difference is None:
        return test.reason or ""
    parts = []
    if test.difference.half_width is not None:
        low, high = (f"{x:+.4f}".replace("-", "−") for x in (test.difference.low, test.difference.high))
        parts.append(f"95 % interval {low} to {high}")
    if test.p_value is not None:
        p = p_value(test.p_value)
        parts.append(f"adjusted p {p}" if p.startswith("<") else f"adjusted p = {p}")
    elif test.reason:
        parts.append(test.reason)
    parts.append(seeds(len(test.seeds)))
    return "; ".join(parts)

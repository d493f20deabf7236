"""A price whose laws change: eight regimes of autoregressive returns, seen through causal indicators.

The twin of the financial tasks of continual architecture search (arXiv 2601.06392), whose code falls back on such a
series when it finds no prices.
"""

from __future__ import annotations

import numpy as np
import torch

from ketune.vqc.problems.base import LabelledData
from ketune.vqc.problems.splitting import labelled

N_REGIMES = 8
"""Number of regimes, each a task."""

N_STEPS = 32
"""Steps that a row looks back on."""

INDICATORS = (
    "return",
    "rolling mean",
    "rolling deviation",
    "relative strength",
    "convergence",
    "momentum",
    "Bollinger",
    "volatility",
)
"""The eight columns of `indicators`."""

_WARM_UP = 64  # first steps, at which the longest averages have not yet forgotten their start


def prices(n_steps: int, seed: int = 0) -> np.ndarray:
    """Close prices through eight regimes of equal length: (8 * n_steps + warm-up,), beginning at 100.

    Returns follow `r_t = mean + phi (r_(t-1) - mean) + sigma e_t`; each regime draws phi uniformly in -0.10..0.55 (so
    that directions are partly predictable, more in some regimes than in others), sigma in 0.5..2 % and mean in
    -0.03..0.03 %.

    Args:
        n_steps: steps of a regime.
        seed: decides the regimes and the series.
    """
    numbers = np.random.default_rng(seed)
    laws = np.stack([numbers.uniform(*bounds, N_REGIMES) for bounds in ((-0.10, 0.55), (0.005, 0.02), (-3e-4, 3e-4))])
    regime = np.minimum(np.maximum(np.arange(-_WARM_UP, N_REGIMES * n_steps), 0) // n_steps, N_REGIMES - 1)
    noise = numbers.standard_normal(len(regime))
    returns = np.empty(len(regime))
    last = 0.0
    for step, number in enumerate(regime):
        phi, sigma, mean = laws[:, number]
        last = mean + phi * (last - mean) + sigma * noise[step]
        returns[step] = last
    return 100 * np.exp(returns.cumsum())


def indicators(close: np.ndarray) -> np.ndarray:
    """Eight numbers at each step, from this and earlier closes only.

    The logarithmic return; its mean and deviation over 20 steps; relative strength over 14 steps (exponential, after
    Wilder); the histogram of moving-average convergence (12, 26, 9) against the close; the distance of the close from
    its exponential average over 10 steps; its distance from its mean over 20 steps in deviations (Bollinger); and the
    deviation of returns over 5 steps.

    Args:
        close: (n,) positive closes.

    Returns:
        (n, 8) in the order of `INDICATORS`; early steps look back on what there is.
    """
    returns = np.diff(np.log(close), prepend=np.log(close[0]))
    gains, losses = _exponential(np.maximum(returns, 0), 1 / 14), _exponential(np.maximum(-returns, 0), 1 / 14)
    convergence = _exponential(close, 2 / 13) - _exponential(close, 2 / 27)
    mean, deviation = _rolling(close, 20)
    return np.stack(
        (
            returns,
            *_rolling(returns, 20),
            gains / np.maximum(gains + losses, 1e-12),
            (convergence - _exponential(convergence, 2 / 10)) / close,
            close / _exponential(close, 2 / 11) - 1,
            (close - mean) / np.maximum(deviation, 1e-12),
            _rolling(returns, 5)[1],
        ),
        1,
    )


def regimes(n_rows: int = 1500, regime: int = 0, seed: int = 0) -> LabelledData:
    """Does the price rise at the next step (class 1) or fall (class 0)? The rows of one regime, in order of time.

    A row is the last 32 steps of 8 indicators. Rows are split 70 / 15 / 15 in time. Between the parts 32 rows are left
    out, so that no window or answer of one part reaches into the next. Median and median deviation of each
    feature come from the training rows, then a tanh (the original's scale).

    Args:
        n_rows: rows of the regime before the gaps, at least 300.
        regime: 0 to 7.
        seed: decides the series, one for all regimes.

    Raises:
        ValueError: for another regime or too few rows.

    Example:
        >>> data = regimes(400, regime=2)
        >>> data.n_features, data.shape
        (256, (32, 8))
    """
    if not 0 <= regime < N_REGIMES:
        raise ValueError(f"regimes: regime={regime}; choose 0 to {N_REGIMES - 1}")
    if n_rows < 300:
        raise ValueError(f"regimes: n_rows={n_rows}; take at least 300, {2 * N_STEPS} of which are gaps")
    length = n_rows + N_STEPS  # the first windows begin inside the regime, and the last has an answer
    close = prices(length, seed)
    x, y = windows(close)
    first = _WARM_UP + regime * length
    rows = torch.arange(first, first + n_rows)
    cuts = [round(0.7 * n_rows), round(0.85 * n_rows)]
    parts = (rows[: cuts[0] - N_STEPS], rows[cuts[0] : cuts[1] - N_STEPS], rows[cuts[1] :])
    return labelled(f"regimes-{regime}", x, y, parts, 2, (N_STEPS, len(INDICATORS)), "robust")


def regime_tasks(n_rows: int = 1500, seed: int = 0) -> tuple[LabelledData, ...]:
    """All eight regimes in their order; arguments and errors as `regimes`."""
    return tuple(regimes(n_rows, regime, seed) for regime in range(N_REGIMES))


def windows(close: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Every window of 32 steps that has a next step: (n - 32, 256) indicators, oldest first, and (n - 32,) directions.

    Row k ends at step k + 31 and asks for the direction of step k + 32.
    """
    table = np.lib.stride_tricks.sliding_window_view(indicators(close), N_STEPS, axis=0)  # (n - 31, 8, 32)
    x = np.ascontiguousarray(table[:-1].transpose(0, 2, 1)).reshape(len(table) - 1, -1)
    y = close[N_STEPS:] > close[N_STEPS - 1 : -1]
    return torch.from_numpy(x), torch.from_numpy(y).long()


def _exponential(values: np.ndarray, weight: float) -> np.ndarray:
    averages = np.empty(len(values))
    last = values[0]
    for step, value in enumerate(values):
        last = last + weight * (value - last)
        averages[step] = last
    return averages


def _rolling(values: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the last `length` values, of fewer at the beginning."""
    padded = np.concatenate((np.full(length - 1, np.nan), values))
    table = np.lib.stride_tricks.sliding_window_view(padded, length)
    return np.nanmean(table, 1), np.nanstd(table, 1)

"""Outliers: the few entries of a weight that a quantiser hurts most."""

from __future__ import annotations

import torch

from ketune.quantization.schemes import QuantizationError

RULES = ("error", "magnitude")
"""What makes an outlier: its distance from its quantised value, or its size."""
MOST_WEIGHTS = 2**31
"""Entries of a weight whose places int32 can name."""


def count_outliers(share: float, n_weights: int) -> int:
    """So many outliers has a weight of `n_weights` entries: the share of them, rounded, and at least one."""
    return max(1, round(share * n_weights))


def find_outliers(
    weight: torch.Tensor, count: int, rule: str = "error", quantized: torch.Tensor | None = None
) -> torch.Tensor:
    """The places of the outliers of a weight.

    Args:
        weight: (out_features, in_features).
        count: How many.
        rule: "error" takes the entries farthest from their quantised values. On heavy-tailed weights it leaves less
            error than "magnitude", which takes the largest (`docs/methods/prequant.md` has figures).
        quantized: The values that the codes stand for, (out_features, in_features); for "error".

    Returns:
        (count,) int32, ascending: row * in_features + column.

    Raises:
        QuantizationError: For an unknown rule.
    """
    if rule not in RULES:
        raise QuantizationError(f"outlier_rule={rule!r}: choose one of {', '.join(map(repr, RULES))}")
    if rule == "magnitude":
        return largest(weight.detach().abs(), count)
    assert quantized is not None, "the rule 'error' compares with quantised values"
    wide = torch.promote_types(weight.dtype, torch.float32)
    return largest((weight.detach().to(wide) - quantized.detach().to(wide)).abs_(), count)


def largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The places of the `count` largest entries of a matrix, as `find_outliers` returns them.

    Raises:
        QuantizationError: For a matrix with more entries than int32 can name.
    """
    if scores.numel() > MOST_WEIGHTS:
        raise QuantizationError(
            f"outliers of a weight {tuple(scores.shape)}: places are stored as 32-bit numbers, so a weight may have "
            f"{MOST_WEIGHTS:,} entries; leave this layer out"
        )
    return scores.reshape(-1).topk(count, sorted=False).indices.sort().values.to(torch.int32)

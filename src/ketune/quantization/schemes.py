"""How tensors are quantised, as values: bits, groups, range. Nothing here computes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ketune.errors import KetuneError

FULL = 16
"""So many bits or more mean: not quantised."""
_SPELLING = re.compile(r"w(\d+)(?:g(\d+))?a(\d+)(?:kv(\d+))?(?:g(\d+))?")


class QuantizationError(KetuneError, ValueError):
    """A quantisation that cannot be done as asked; the message says what can."""


@dataclass(frozen=True)
class TensorScheme:
    """Uniform quantisation of a tensor, group by group along its last axis.

    Attributes:
        bits: 1 to 8; a code is one of 2^bits.
        symmetric: Codes around zero, with step max|x| / (2^(bits-1) - 1). False: from the lowest to the highest value.
        group_size: Values that share a step; None: a whole row. A row of a weight (out, in) is an output channel, and
            a row of activations is a token, or one head of a token in the cache of keys and values.
        clip: The range is this part of what the group spans, on both ends, in (0, 1].
        includes_zero: The range always reaches zero, as torchao's does. RoSTE's does not.
        masked: The gradient stops where a value was clipped, as torchao's does. RoSTE passes it on.

    Raises:
        QuantizationError: A value out of range.
    """

    bits: int
    symmetric: bool = False
    group_size: int | None = None
    clip: float = 1.0
    includes_zero: bool = False
    masked: bool = False

    def __post_init__(self) -> None:
        for name, allowed, fine in (
            ("bits", "1 to 8", _is_int(self.bits) and 1 <= self.bits <= 8),
            (
                "group_size",
                "None or a whole number above 1",
                self.group_size is None or (_is_int(self.group_size) and self.group_size > 1),
            ),
            ("clip", "above 0 and at most 1", isinstance(self.clip, int | float) and 0 < self.clip <= 1),
        ):
            if not fine:
                raise QuantizationError(f"TensorScheme({name}={getattr(self, name)!r}): must be {allowed}")
        if self.symmetric and self.bits == 1:
            raise QuantizationError("TensorScheme(bits=1, symmetric=True): has no step; use symmetric=False")

    @property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        if self.symmetric:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def size_of_groups(self, width: int) -> int:
        """Values in a group of a row of this width.

        Raises:
            QuantizationError: If groups do not fill the row.
        """
        size = self.group_size or width
        if width % size:
            raise QuantizationError(
                f"group_size={size}: rows of {width} values cannot be divided into such groups; choose a divisor of "
                f"{width}, or None for whole rows"
            )
        return size


@dataclass(frozen=True)
class QuantizationScheme:
    """What is quantised how in a model.

    Attributes:
        weights: Of the linear layers; None leaves them.
        activations: Inputs of the linear layers, for each token anew; None leaves them.
        kv: Keys and values in attention; None leaves them.
    """

    weights: TensorScheme | None = None
    activations: TensorScheme | None = None
    kv: TensorScheme | None = None

    @classmethod
    def parse(cls, text: str, **options: Any) -> Self:
        """Read "w4a4kv4", "w4a16", "w2a16g128" (weights in groups of 128), "w2g64a8kv8".

        Args:
            text: Bits of weights, activations and, if named, keys and values; 16 means as they are.
            options: Further fields of every `TensorScheme`, e.g. `clip=0.95`.

        Raises:
            QuantizationError: For anything else.
        """
        match = _SPELLING.fullmatch(text.strip().lower())
        if match is None or (match[2] and match[5]):
            raise QuantizationError(
                f"bits {text!r}: write bits of weights and activations, such as w4a16, w4a4kv4 or w2a16g128 (16: as "
                "they are; kv: keys and values; g: weights in groups)"
            )
        group = match[2] or match[5]
        return cls(
            _tensor(match[1], group_size=int(group) if group else None, **options),
            _tensor(match[3], **options),
            _tensor(match[4] or FULL, **options),
        )

    def __str__(self) -> str:
        """The spelling that `parse` reads; it names bits and groups only."""
        bits = [FULL if scheme is None else scheme.bits for scheme in (self.weights, self.activations, self.kv)]
        text = f"w{bits[0]}a{bits[1]}" + (f"kv{bits[2]}" if self.kv else "")
        return text + (f"g{self.weights.group_size}" if self.weights and self.weights.group_size else "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        parts = {f.name: values.get(f.name) for f in fields(cls)}
        return cls(**{name: None if part is None else TensorScheme(**part) for name, part in parts.items()})


def as_scheme(scheme: QuantizationScheme | str) -> QuantizationScheme:
    """A scheme, or the one that a text such as "w4a4kv4" stands for."""
    return QuantizationScheme.parse(scheme) if isinstance(scheme, str) else scheme


def _tensor(bits: str | int, **options: Any) -> TensorScheme | None:
    return None if int(bits) >= FULL else TensorScheme(int(bits), **options)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""The methods that a comparison can choose from, ours and PEFT's own, each behind one face."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peft import PeftConfig
from torch import nn

from ketune.adapters.config import ConfigError

METHODS: dict[str, Method] = {}
"""Every method by name, in the order of the comparison's tables."""

REFERENCE_WIDTH = 160
"""Width of the bundled base model, at which the registry states its learning rates."""


@dataclass(frozen=True)
class Method:
    """One way to adapt a model.

    Attributes:
        name: short lower-case name, as typed on a command line.
        title: name in tables.
        summary: one sentence on what it trains.
        citation: where it comes from.
        configure: builds the PEFT config at a size, `size >= 1`; the trainable parameters grow with it, or stay. None
            for full fine-tuning, which has no config and no size.
        own_targets: for a method that adapts other modules than the projections that the rest of a comparison adapts:
            from the model and these projections to the config's fields that name its own.
        enlarge: gives the named modules of a config another size, so that a budget is met more closely than by one size
            for all; None where a method has no such choice.
        width_power: how fast the learning rates fall with the model's width.
        size_name: what the size counts ("rank", "readouts", ...); empty for a method of one size.
        size_field: the field of the config that holds the size, where it is one; found by itself for Ketune's methods.
        default_size: the size when neither a size nor a budget is asked for.
        unsized: what each layer has in its place where the config's own default is to set none.
        learning_rate: default for AdamW with a short warm-up, on a model of width REFERENCE_WIDTH; see `at_width`.
        learning_rates: the grid of `--tune-lr` at that width; every method has the same number of values.
        controls: the values of the config's field `control` that the comparison runs beside the method.
    """

    name: str
    title: str
    summary: str
    citation: str
    configure: Callable[[int], PeftConfig] | None
    size_name: str
    default_size: int
    learning_rate: float
    learning_rates: tuple[float, ...]
    controls: tuple[str, ...] = ()
    enlarge: Callable[[PeftConfig, list[str], int], PeftConfig] | None = None
    width_power: float = 1.0
    unsized: str = ""
    size_field: str = ""
    own_targets: Callable[[nn.Module, Sequence[str]], dict[str, Any]] | None = None

    def at_width(self, width: int) -> Method:
        """The method with the learning rates that suit a model with hidden states of this width.

        Adam moves each weight by about the learning rate whatever the gradient, and a sum over `width` inputs feels
        `width` such moves, so a rate that suits one width suits another when scaled by its inverse (Yang et al. 2022,
        arXiv 2203.03466); `width_power` is the exponent. A starting point, not a substitute for `--tune-lr`.
        """
        factor = (REFERENCE_WIDTH / width) ** self.width_power
        rates = tuple(_rounded(rate * factor) for rate in self.learning_rates)
        return replace(self, learning_rate=_rounded(self.learning_rate * factor), learning_rates=rates)

    def size_of(self, config: PeftConfig) -> int | None:
        """The size that a config of this method has; None where each layer has its own."""
        size = getattr(config, self.size_field or getattr(type(config), "size_field", ""), None)
        return size if isinstance(size, int) else None

    @property
    def quantum(self) -> bool:
        """Whether a circuit of qubits is part of the method."""
        config: Any = None if self.configure is None else self.configure(1)
        if hasattr(config, "circuits"):
            return config.circuits([(REFERENCE_WIDTH, REFERENCE_WIDTH)]) is not None
        return hasattr(config, "circuit_for") or hasattr(
            config, "circuit_of"
        )  # the latter: a generator's, beside no layer

    def config(self, size: int | None = None) -> PeftConfig | None:
        """The config at a size (the default one for None); None for full fine-tuning."""
        if self.configure is None:
            return None
        return self.configure(self.default_size if size is None else size)

    def with_control(self, config: PeftConfig, control: str) -> PeftConfig:
        """The same config as a control.

        Raises:
            ConfigError: when the method has no such control.
        """
        if control not in self.controls and control != "trained":
            known = ", ".join(map(repr, self.controls)) or "none: it has no circuit"
            raise ConfigError(f"method {self.name!r} has no control {control!r}; controls are {known}")
        return replace(config, control=control)  # pyright: ignore[reportCallIssue]


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def add_method(method: Method) -> Method:
    """Make a method known to the comparison and the command line.

    Raises:
        ValueError: when the name is taken.
    """
    if method.name in METHODS:
        raise ValueError(f"add_method({method.name!r}): there is already a method of this name")
    METHODS[method.name] = method
    return method


def get_method(name: str) -> Method:
    """Look a method up by name.

    Raises:
        ConfigError: with the known names, and the nearest one, when there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown method {name!r}: choose from {', '.join(METHODS)}{hint}")

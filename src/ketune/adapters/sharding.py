"""The names of modules in a model that FSDP1 has wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

FSDP1_WRAPPER = "_fsdp_wrapped_module."


class WithoutWrappers:
    """A model whose modules have the names that they have in state dicts, which leave out the wrappers of FSDP1.

    PEFT 0.21 leaves out the outermost one only, and then finds no adapter in blocks that are wrapped themselves.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self._model.named_modules():
            yield name.replace(FSDP1_WRAPPER, ""), module

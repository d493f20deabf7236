"""Modules in the place of others."""

from __future__ import annotations

from torch import nn


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another one of a model.

    Args:
        model: Changed in place.
        name: Of the module to replace, as `named_modules` has it.
        module: What takes its place.
    """
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)

"""What goes wrong with vectors, settings and budgets of loaders."""

from __future__ import annotations

from ketune.errors import KetuneError


class LoadingError(KetuneError, ValueError):
    """A vector that stands for no state, a setting out of range, or a budget that is not met."""

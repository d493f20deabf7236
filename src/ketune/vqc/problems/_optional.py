"""scikit-learn, SciPy and networkx, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from ketune.errors import KetuneError

_PACKAGES = {"sklearn": "scikit-learn"}


class MissingLibraryError(KetuneError, ImportError):
    """An optional library that a problem needs and that is not installed."""


def library(name: str) -> Any:
    """Imports a module of an optional library.

    Raises:
        MissingLibraryError: with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingLibraryError(
            f"{_PACKAGES.get(package, package)} is not installed; run: pip install 'ketune[vqc]'"
        ) from error

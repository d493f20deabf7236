"""Optional libraries, imported when they are first needed."""

import importlib
from typing import Any


def library(name: str) -> Any:
    """Imports a module of an optional library.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f'{package} is not installed; run: pip install "ketune[devices]"') from error

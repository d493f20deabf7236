"""Optional libraries, imported when they are first needed."""

import importlib
from typing import Any

from ketune.errors import KetuneError

_PACKAGES = {"sklearn": "scikit-learn", "qiskit_aer": "qiskit-aer", "qiskit_ibm_runtime": "qiskit-ibm-runtime"}
_EXTRAS = {"sklearn": "vqc", "scipy": "vqc", "networkx": "vqc", "qiskit_ibm_runtime": "ibm"}


class MissingLibraryError(KetuneError, ImportError):
    """An optional library that is needed and not installed."""


def library(name: str) -> Any:
    """Imports a module of an optional library.

    Raises:
        MissingLibraryError: with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        title, extra = _PACKAGES.get(package, package), _EXTRAS.get(package, "devices")
        raise MissingLibraryError(f'{title} is not installed; run: pip install "ketune[{extra}]"') from error

"""Ketune: parameter-efficient fine-tuning of language models with quantum circuits and quantum-inspired tensors.

Importing the package registers its methods with Hugging Face PEFT, so that `get_peft_model(model, QAAConfig(...))` and
loading saved adapters work as with PEFT's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ketune.adapters import METHODS, AdapterConfig, QAAConfig, SoraConfig, load, prune, update_matrices
from ketune.circuits import Circuit, QuantumLayer
from ketune.errors import KetuneError

if TYPE_CHECKING:
    from ketune.finetuning import TrainingParams, finetune

__version__ = "0.1.0"

# The training stack (TRL, datasets) takes seconds to import, so it is fetched when first asked for.
_LAZY = {"finetune": "ketune.finetuning", "TrainingParams": "ketune.finetuning"}

__all__ = [
    "METHODS",
    "AdapterConfig",
    "Circuit",
    "KetuneError",
    "QAAConfig",
    "QuantumLayer",
    "SoraConfig",
    "TrainingParams",
    "finetune",
    "load",
    "prune",
    "update_matrices",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ketune' has no attribute {name!r}")

"""Ketune: parameter-efficient fine-tuning of language models with quantum circuits and quantum-inspired tensors.

Importing the package registers its methods with Hugging Face PEFT, so that `get_peft_model(model, QAAConfig(...))` and
loading saved adapters work as with PEFT's own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ketune.errors import KetuneError

if TYPE_CHECKING:
    from ketune.adapters import (
        METHODS,
        AdapterConfig,
        CompassConfig,
        PreQuantConfig,
        QAAConfig,
        QPAConfig,
        QPAPrefixConfig,
        QTHAConfig,
        QuantaConfig,
        QuantumPeftConfig,
        QuicConfig,
        SoraConfig,
        export_plain,
        hotswap,
        load,
        prune,
        to_lora,
        update_matrices,
    )
    from ketune.circuits import Circuit, QuantumLayer
    from ketune.finetuning import QuantizedTraining, TrainingParams, finetune
    from ketune.quantization import QuantizeConfig, dequantize_, quantize_

__version__ = "0.1.0"

# Where the names come from. The training stack (TRL, datasets) takes seconds to import, so each home waits to be asked.
_HOMES = {
    "ketune.adapters": (
        "METHODS",
        "AdapterConfig",
        "CompassConfig",
        "PreQuantConfig",
        "QAAConfig",
        "QPAConfig",
        "QPAPrefixConfig",
        "QTHAConfig",
        "QuantaConfig",
        "QuantumPeftConfig",
        "QuicConfig",
        "SoraConfig",
        "export_plain",
        "hotswap",
        "load",
        "prune",
        "to_lora",
        "update_matrices",
    ),
    "ketune.circuits": ("Circuit", "QuantumLayer"),
    "ketune.finetuning": ("QuantizedTraining", "TrainingParams", "finetune"),
    "ketune.quantization": ("QuantizeConfig", "dequantize_", "quantize_"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "AdapterConfig",
    "Circuit",
    "CompassConfig",
    "KetuneError",
    "PreQuantConfig",
    "QAAConfig",
    "QPAConfig",
    "QPAPrefixConfig",
    "QTHAConfig",
    "QuantaConfig",
    "QuantizeConfig",
    "QuantizedTraining",
    "QuantumLayer",
    "QuantumPeftConfig",
    "QuicConfig",
    "SoraConfig",
    "TrainingParams",
    "dequantize_",
    "export_plain",
    "finetune",
    "hotswap",
    "load",
    "prune",
    "quantize_",
    "to_lora",
    "update_matrices",
]


def _is_our_command() -> bool:
    """Whether this process is the `ketune` command or `python -m ketune`, and no worker that it started."""
    if multiprocessing.parent_process() is not None or not sys.argv:
        return False
    if os.path.basename(sys.argv[0]) in ("ketune", "ketune.exe"):
        return True
    # While Python looks for the module behind -m, argv[0] is "-m", whatever the module; the full line tells which.
    line = sys.orig_argv
    return sys.argv[0] == "-m" and "-m" in line and line[line.index("-m") + 1 :][:1] == ["ketune"]


# Importing the adapters registers them with PEFT. Only our own command does without, so that `ketune --help` answers
# before torch is there; its subcommands import what they need.
if not _is_our_command():
    import_module("ketune.adapters")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ketune' has no attribute {name!r}")

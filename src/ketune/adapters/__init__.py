"""PEFT methods with quantum circuits and quantum-inspired tensors, and the registry of all methods."""

from ketune.adapters import peft_methods  # noqa: F401  (fills METHODS, the others before it)
from ketune.adapters.base import AdapterLayer, AdapterTuner, register
from ketune.adapters.calibration import spread_readouts
from ketune.adapters.compass import CompassConfig
from ketune.adapters.config import AdapterConfig, ConfigError
from ketune.adapters.counting import (
    BudgetTooSmall,
    Sized,
    count_parameters,
    count_trainable,
    fit_budget,
    meta_model,
    parse_budget,
)
from ketune.adapters.exporting import export_plain
from ketune.adapters.hotswapping import hotswap
from ketune.adapters.inspection import check_targets, linear_modules, update_matrices
from ketune.adapters.loading import load
from ketune.adapters.lora_conversion import ConvertedLora, to_lora
from ketune.adapters.prequant import PreQuantConfig
from ketune.adapters.pruning import prune
from ketune.adapters.qaa import QAAConfig
from ketune.adapters.qpa import QPAConfig
from ketune.adapters.qpa_prefix import QPAPrefixConfig
from ketune.adapters.qtha import QTHAConfig
from ketune.adapters.quanta import QuantaConfig
from ketune.adapters.quantum_peft import QuantumPeftConfig
from ketune.adapters.quic import QuicConfig
from ketune.adapters.registry import METHODS, Method, add_method, get_method
from ketune.adapters.sora import SoraConfig, effective_ranks, gates
from ketune.adapters.update import Update

__all__ = [
    "METHODS",
    "AdapterConfig",
    "AdapterLayer",
    "AdapterTuner",
    "BudgetTooSmall",
    "CompassConfig",
    "ConfigError",
    "ConvertedLora",
    "Method",
    "PreQuantConfig",
    "QAAConfig",
    "QPAConfig",
    "QPAPrefixConfig",
    "QTHAConfig",
    "QuantaConfig",
    "QuantumPeftConfig",
    "QuicConfig",
    "Sized",
    "SoraConfig",
    "Update",
    "add_method",
    "check_targets",
    "count_parameters",
    "count_trainable",
    "effective_ranks",
    "export_plain",
    "fit_budget",
    "gates",
    "get_method",
    "hotswap",
    "linear_modules",
    "load",
    "meta_model",
    "parse_budget",
    "prune",
    "register",
    "spread_readouts",
    "to_lora",
    "update_matrices",
]

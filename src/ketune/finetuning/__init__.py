"""Fine-tuning: tasks, the training run, and what the result is worth."""

from ketune.finetuning.base import BUNDLED_MODEL, context_length, load_base
from ketune.finetuning.circuit_head import CircuitHead, CircuitHeadConfig, add_circuit_head
from ketune.finetuning.data import DEFAULT_SOURCE, TaskData, load_task
from ketune.finetuning.generation import generate
from ketune.finetuning.meta_training import MetaResult, MetaTraining, meta_train_starts
from ketune.finetuning.metrics import evaluate_loss
from ketune.finetuning.params import ParamsError, TrainingParams
from ketune.finetuning.quantizing import QuantizedTraining
from ketune.finetuning.scoring import scores
from ketune.finetuning.templates import TEMPLATES, Template
from ketune.finetuning.training import FinetuneResult, finetune

__all__ = [
    "BUNDLED_MODEL",
    "DEFAULT_SOURCE",
    "TEMPLATES",
    "CircuitHead",
    "CircuitHeadConfig",
    "FinetuneResult",
    "MetaResult",
    "MetaTraining",
    "ParamsError",
    "QuantizedTraining",
    "TaskData",
    "Template",
    "TrainingParams",
    "add_circuit_head",
    "context_length",
    "evaluate_loss",
    "finetune",
    "generate",
    "load_base",
    "load_task",
    "meta_train_starts",
    "scores",
]

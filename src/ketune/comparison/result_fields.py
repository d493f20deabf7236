"""The sections of a result file, with every field named and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass
class _Section:
    """A JSON object with known keys. Keys that we do not know are kept in `extra` and written back unchanged."""

    extra: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The section that the JSON object `data` holds; keys that are missing get their defaults."""
        known = {f.name for f in fields(cls)} - {"extra"}
        extra = {key: value for key, value in data.items() if key not in known}
        return cls(**{key: value for key, value in data.items() if key in known}, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of this section."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return data | self.extra


@dataclass
class RunInfo(_Section):
    """What was run. `created_at` is ISO 8601, `total_time` seconds from start to result, `experiment_name` is
    "<method>/<experiment>", `peft_config` None for full fine-tuning, `error_msg` empty when all went well."""

    created_at: str = ""
    total_time: float = 0.0
    experiment_name: str = ""
    peft_branch: str = "main"
    train_config: dict[str, Any] = field(default_factory=dict)
    peft_config: dict[str, Any] | None = None
    error_msg: str = ""


@dataclass
class TrainInfo(_Section):
    """What training cost. Memory and `file_size` in bytes, `train_time` in seconds without evaluations.

    `metrics` holds one entry per evaluation with PEFT's keys ("step", "train loss", "valid accuracy", ...); the last
    entry carries "test accuracy" (None where the task has no exact answer), "train loss", "train samples" and
    "train total tokens".
    """

    accelerator_memory_reserved_avg: int | None = None
    accelerator_memory_max: int | None = None
    accelerator_memory_reserved_99th: int | None = None
    train_time: float | None = None
    file_size: int | None = None
    num_trainable_params: int | None = None
    num_total_params: int | None = None
    status: str = "failed"
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.status == "cancelled":
            self.status = "canceled"


@dataclass
class KetuneInfo(_Section):
    """What PEFT's layout has no place for. Everything but the first four may be missing.

    Attributes:
        method: Name in the registry, e.g. "qaa".
        experiment: Name of the experiment folder, unique within the method.
        seed: Seed of this cell.
        control: One of `CONTROLS`: what stands in for the trained quantum part.
        budget: Trainable parameters that were asked for; None when the method was not sized to a budget.
        learning_rate: The peak learning rate used.
        lr_trials: With `--tune-lr`, each trial as {"learning_rate", "eval_loss"}.
        history: Entries {"step", "tokens", "seconds", "loss", "eval_loss"?, "learning_rate"?}, losses in
            nats per token.
        test: Scores on the test split ("loss" in nats per token, "perplexity", "bits_per_byte", "bleu", "rougeL", ...).
        base_test: The same scores of the untouched base model.
        speed: {"step_seconds_median", "tokens_per_second"}.
        memory: {"peak_bytes", "baseline_bytes", "kind": "max_rss" | "cuda_allocated"}.
        capacity: {"hidden": {"singular_values", "effective_rank", "stable_rank"}, "weights": {module: {...}} or None}.
        circuit: {"n_wires", "n_gates", "n_angles", "depth", "n_two_qubit", "expressibility", "entangling_capability"}.
        quantization: How the model was quantised, e.g. "roste:w4a4kv4"; None for full precision.
        size: {"model_bytes", "bits_per_weight", "bits_per_coded_weight"} of the model that was tested.
        samples: Up to five of {"prompt", "references", "prediction"}.
        notes: Sentences for the reader.
    """

    method: str = ""
    experiment: str = ""
    seed: int = 0
    control: str | None = None
    budget: int | None = None
    learning_rate: float | None = None
    lr_trials: list[dict[str, float]] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)
    base_test: dict[str, Any] | None = None
    speed: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    capacity: dict[str, Any] | None = None
    circuit: dict[str, Any] | None = None
    quantization: str | None = None
    size: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

"""The parts of a result that PEFT's method_comparison gave their names: configurations, evaluations, failures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ketune.comparison.experiments import Experiment, training_to_peft
from ketune.comparison.result_fields import KetuneInfo, RunInfo, TrainInfo
from ketune.comparison.results import Result

if TYPE_CHECKING:
    from peft import PeftConfig

    from ketune.finetuning import FinetuneResult, TrainingParams


def now() -> str:
    """The time in UTC, as PEFT writes it."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def config_fields(config: PeftConfig | None) -> dict[str, Any] | None:
    """An adapter's configuration as JSON has it: sets sorted, enums by value; None for full fine-tuning."""
    from ketune.adapters.fields import plain_values

    return None if config is None else plain_values(config.to_dict())


def train_config(params: TrainingParams, experiment: Experiment, model: str, data: str, seed: int) -> dict[str, Any]:
    """PEFT's `train_config`: training parameters under its names, and under ours where it has none."""
    ours = params.to_dict()
    theirs = training_to_peft(ours, experiment, model)
    theirs["optimizer_kwargs"]["lr"] = params.learning_rate
    return ours | theirs | {"seed": seed, "data": data}


def peft_metrics(trained: FinetuneResult, test: dict[str, Any], params: TrainingParams) -> list[dict[str, Any]]:
    """PEFT's list of evaluations: those on the validation split while training, and the last on the test split."""
    per_step = params.batch_size * params.gradient_accumulation
    metrics: list[dict[str, Any]] = [
        {
            "step": entry["step"],
            "valid accuracy": None,
            "valid loss": entry["eval_loss"],
            "train loss": entry.get("loss"),
            "train samples": entry["step"] * per_step,
            "elapsed time": entry.get("seconds"),
        }
        for entry in trained.history
        if entry.get("eval_loss") is not None
    ]
    losses = [entry["loss"] for entry in trained.history if entry.get("loss") is not None]
    last_step = trained.history[-1]["step"] if trained.history else 0
    metrics.append(
        {
            "step": last_step,
            "test accuracy": test.get("exact_match"),
            "test loss": test["loss"],
            "train loss": losses[-1] if losses else None,
            "train samples": last_step * per_step,
            "train total tokens": trained.tokens_seen,
        }
    )
    return metrics


def failed_result(experiment: Experiment, seed: int, model: str, config: PeftConfig | None, error: str) -> Result:
    """The result of a cell that failed, so that a report can name it and why."""
    return Result(
        run_info=RunInfo(
            created_at=now(),
            experiment_name=f"{experiment.method}/{experiment.name}",
            train_config={"model_id": model, "seed": seed},
            peft_config=config_fields(config),
            error_msg=error,
        ),
        train_info=TrainInfo(num_trainable_params=experiment.n_trainable, status="failed"),
        ketune=KetuneInfo(
            method=experiment.method,
            experiment=experiment.name,
            seed=seed,
            control=experiment.control,
            budget=experiment.budget,
            learning_rate=experiment.learning_rate,
        ),
    )

"""`finetune`: one function from a model, a task and an adapter to trained weights on disk, resumable at any moment."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel

from ketune.errors import TrainingError
from ketune.finetuning.adapting import adapt, calibrate
from ketune.finetuning.base import load_base, load_tokenizer, n_virtual_tokens, prepare_tokenizer, resolve_device
from ketune.finetuning.bitsandbytes import write_record
from ketune.finetuning.callbacks import Meter, OnProgress, Progress, StopWhenDiverged, progress_of
from ketune.finetuning.checkpoints import MARK, claim, read_json, replace_folder, step_of
from ketune.finetuning.data import TaskData, load_task
from ketune.finetuning.encoding import Encoded, Encoder
from ketune.finetuning.metrics import effective_max_length
from ketune.finetuning.params import ParamsError, TrainingParams
from ketune.finetuning.quantizing import (
    QuantizedTraining,
    finished,
    gradient_free,
    publish_base,
    put_on_quantized,
)
from ketune.finetuning.quiet import quiet_datasets, quiet_transformers
from ketune.finetuning.splits import take
from ketune.quantization.sums import quantize_sums_

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

__all__ = ["FinetuneResult", "ParamsError", "TrainingParams", "finetune"]

_NOT_COMPARED = ("batch_size_eval", "report_to", "save_steps", "save_total_limit")
"""Settings that may change between a run and its continuation: they do not change what is learned."""


@dataclass
class FinetuneResult:
    """What a training run leaves.

    Attributes:
        model: the trained model in evaluation mode: a `PeftModel`, or the base model after full fine-tuning.
        tokenizer: its tokenizer.
        data: the task as it was trained on (chats rendered); use its splits for evaluation.
        history: a record per logged step: `step`, `tokens` (non-padding, so far), `seconds` (in steps, so far), `loss`
            (mean since the last record), `learning_rate`, and `eval_loss` at evaluated steps.
        adapter_dir: folder with the adapter, or with the whole model and tokenizer after full fine-tuning.
        train_seconds: time in training steps, over all runs that a kill divided.
        step_seconds_median: median duration of a step, without the first two of each process; NaN for shorter runs.
        tokens_seen: non-padding tokens trained on.
        n_trainable: parameters that were trained.
        n_total: all parameters, with the adapter's.
        notes: what the task's notes say, and what training cut, dropped or decided.
        diverged: whether the loss stopped being a finite number; the run ended there.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    history: list[dict[str, float]]
    adapter_dir: Path
    train_seconds: float
    step_seconds_median: float
    tokens_seen: int
    n_trainable: int
    n_total: int
    notes: list[str]
    diverged: bool


def finetune(
    model: str | Path | PreTrainedModel | PeftModel,
    data: TaskData | str | Path,
    adapter: PeftConfig | None = None,
    *,
    output_dir: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    params: TrainingParams | None = None,
    seed: int = 0,
    resume: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
    progress: bool | OnProgress = True,
    quantization: QuantizedTraining | None = None,
) -> FinetuneResult:
    """Trains an adapter, or the whole model, on the completions of a task.

    Args:
        model: a folder, a hub id, `"builtin:base"`, a model in memory (trained in place), or a `PeftModel`, whose
            active adapter is trained further.
        data: a task, or a source for `load_task`.
        adapter: any PEFT configuration; None trains all weights (or goes on with the adapter of a `PeftModel`).
        output_dir: gets `adapter/` (the result), `checkpoints/` and `run.json`.
        tokenizer: for models in memory without a name; else it is loaded with the model.
        params: settings of the run; None for the defaults.
        seed: of the adapter's first weights, dropout and the order of the rows.
        resume: go on from the newest whole checkpoint in `output_dir`, if there is one; False starts over.
        callbacks: further callbacks of the Trainer.
        progress: a function (see `OnProgress`), True for a bar if standard error is a terminal, False for silence.
        quantization: train a quantised model, or beside one. What was trained as part of quantised weights ends as a
            model of packed codes in `adapter/`; an adapter that stands beside codes has its base in `base/`.

    Raises:
        KetuneError: with one line, if model, data, adapter or settings cannot be used, if `output_dir` holds another
            run's checkpoints, or if memory runs out.
    """
    params = params or TrainingParams()
    output_dir = Path(output_dir)
    name, loaded, tokenizer = _load(model, tokenizer, adapter, params, quantization)
    task = (data if isinstance(data, TaskData) else load_task(data)).render(tokenizer)
    record = _record(name, loaded, adapter, task, params, seed, quantization)
    notes = list(task.notes)

    checkpointing = params.gradient_checkpointing

    def put_on(base: PreTrainedModel | PeftModel) -> PreTrainedModel | PeftModel:
        # Here and not earlier: the adapter's first weights must depend on the seed alone, not on what loading drew.
        _seed_everything(seed)
        return adapt(base, adapter, checkpointing, seed)

    is_part = False
    if quantization is None:
        trained = put_on(loaded)
    else:
        sequences = _first_rows(loaded, tokenizer, task, params)
        trained, is_part = put_on_quantized(
            loaded, put_on, quantization, sequences, adapter, tokenizer, params.batch_size, seed, output_dir, notes
        )
    train, validation, params = _encode(trained, tokenizer, task, params, notes)
    checkpoint = claim(output_dir, record, resume)
    if quantization is not None:
        publish_base(output_dir)
    if isinstance(trained, PeftModel) and adapter is not None:
        pad = int(tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
        calibrate(trained, train, pad, params.batch_size, params.calibration_rows, seed)
    if is_part and isinstance(trained, PeftModel):
        quantize_sums_(trained)

    from ketune.finetuning.trainer import make_trainer, release  # TRL takes seconds to import

    meter, guard = Meter(), StopWhenDiverged()
    with progress_of(progress) as on_progress, quiet_transformers(), quiet_datasets():
        watchers = [meter, guard, *([Progress(on_progress, meter)] if on_progress else []), *callbacks]
        trainer = make_trainer(
            trained,
            tokenizer,
            train,
            validation,
            params=params,
            seed=seed,
            folder=output_dir,
            meter=meter,
            callbacks=watchers,
        )
        if quantization is not None and quantization.method == "zeroqat":
            trainer.optimizer = gradient_free(trained, quantization, params.learning_rate, seed)
        _run(trainer, meter, checkpoint, params, notes)
        release(trainer, trained)
        n_trainable = sum(p.numel() for p in trained.parameters() if p.requires_grad)
        n_total = sum(p.numel() for p in trained.parameters())
        if is_part:
            trained = finished(trained)
        adapter_dir = _save(trained, tokenizer, output_dir, quantization)
    if guard.step is not None:
        notes.append(f"training: the loss was not a finite number at step {guard.step}; the run ended there")
    return FinetuneResult(
        model=trained.eval(),
        tokenizer=tokenizer,
        data=task,
        history=_history(trainer.state.log_history),
        adapter_dir=adapter_dir,
        train_seconds=meter.seconds,
        step_seconds_median=statistics.median(meter.step_seconds) if meter.step_seconds else math.nan,
        tokens_seen=meter.tokens,
        n_trainable=n_trainable,
        n_total=n_total,
        notes=notes,
        diverged=guard.step is not None,
    )


def _load(
    model: str | Path | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    adapter: PeftConfig | None,
    params: TrainingParams,
    quantization: QuantizedTraining | None,
) -> tuple[str, PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Returns the model's name, the model on its device, and a tokenizer that is ready."""
    if isinstance(model, str | Path):
        # Full fine-tuning keeps float32 weights and computes in bfloat16: its steps are too small for bfloat16 weights.
        dtype = "float32" if adapter is None else params.dtype
        loading = None if quantization is None else quantization.loading
        loaded, own = load_base(model, dtype, params.device, quantization=loading)
        return str(model), loaded, prepare_tokenizer(tokenizer) if tokenizer is not None else own
    base: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model  # pyright: ignore
    tokenizer = prepare_tokenizer(tokenizer) if tokenizer is not None else load_tokenizer(base.name_or_path)
    return base.name_or_path, model.to(resolve_device(params.device)), tokenizer  # pyright: ignore


def _record(
    name: str,
    model: PreTrainedModel | PeftModel,
    adapter: PeftConfig | None,
    task: TaskData,
    params: TrainingParams,
    seed: int,
    quantization: QuantizedTraining | None,
) -> dict[str, Any]:
    """What makes a run the same run, for `checkpoints.claim`."""
    configs = {"default": adapter} if adapter is not None else getattr(model, "peft_config", {})
    return {
        "model": name,
        "adapters": {key: config.to_dict() for key, config in configs.items()},
        "data": {"name": task.name, "template": task.template, "fingerprint": task.fingerprint},
        "params": {key: value for key, value in params.to_dict().items() if key not in _NOT_COMPARED},
        "seed": seed,
        **({} if quantization is None else {"quantization": quantization.to_dict()}),
    }


def _seed_everything(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)


def _first_rows(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, task: TaskData, params: TrainingParams
) -> list[Encoded]:
    """The training rows, encoded for a model without an adapter; what does not fit is left out without a note."""
    encoder = Encoder(tokenizer, effective_max_length(model, params.max_length))
    return encoder.encode_rows(list(zip(task.train["prompt"], task.train["completion"])))[0]


def _encode(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskData,
    params: TrainingParams,
    notes: list[str],
) -> tuple[list[Encoded], list[Encoded], TrainingParams]:
    """Encodes training and validation rows and settles the number of steps; what was cut goes into the notes."""
    max_length = effective_max_length(model, params.max_length)
    if params.max_length is not None and max_length < params.max_length:
        virtual = n_virtual_tokens(model)
        beside = f" beside {virtual} virtual tokens" if virtual else ""
        notes.append(f"max_length: {params.max_length} lowered to the {max_length} tokens that the model holds{beside}")
    encoder = Encoder(tokenizer, max_length)
    encoded = {}
    for split in ("train", "validation"):
        rows = getattr(task, split)
        pairs = list(zip(rows["prompt"], rows["completion"]))
        if split == "validation":
            pairs = take(pairs, params.eval_limit, seed=0)  # the same rows for every training seed
        encoded[split], report = encoder.encode_rows(pairs)
        notes.extend(report.notes(split, max_length))
        if not encoded[split]:
            raise TrainingError(f"{task.name}: no {split} row fits into {max_length} tokens; raise max_length")
    if params.epochs is not None:
        batches = math.ceil(len(encoded["train"]) / params.batch_size)
        steps_per_epoch = math.ceil(batches / params.gradient_accumulation)
        params = params.replace(max_steps=max(1, math.ceil(params.epochs * steps_per_epoch)))
    return encoded["train"], encoded["validation"], params


def _run(trainer: Any, meter: Meter, checkpoint: Path | None, params: TrainingParams, notes: list[str]) -> None:
    """Trains, from a checkpoint if there is one; a run that was already through only loads its weights."""
    if checkpoint is not None:
        meter.restore(read_json(checkpoint / MARK))
        notes.append(f"training: went on from the checkpoint at step {step_of(checkpoint)}")
    if checkpoint is not None and step_of(checkpoint) >= params.max_steps:
        trainer.restore_finished(checkpoint)
    else:
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"out of memory with batch_size={params.batch_size}; lower it and raise gradient_accumulation, lower "
                "max_length, or set gradient_checkpointing=True"
            ) from error
    if not any(
        "eval_loss" in entry and entry["step"] == trainer.state.global_step for entry in trainer.state.log_history
    ):
        trainer.evaluate()


def _save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
    quantization: QuantizedTraining | None,
) -> Path:
    """Writes the result beside its place and renames it, so that a kill leaves the old one or the new one."""
    from ketune.finetuning.trainer import save_weights

    staged, target = output_dir / "adapter.tmp", output_dir / "adapter"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    save_weights(model, staged)
    if not isinstance(model, PeftModel):
        tokenizer.save_pretrained(staged)
    elif quantization is not None and quantization.loading:
        write_record(staged, quantization.loading)
    replace_folder(staged, target)
    return target


def _history(log: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One record per logged step out of the Trainer's log, where losses and evaluations stand apart."""
    records: dict[int, dict[str, float]] = {}
    for entry in log:
        if "loss" not in entry and "eval_loss" not in entry:
            continue
        record = records.setdefault(entry["step"], {"step": entry["step"]})
        record.update(tokens=entry["tokens"], seconds=entry["train_seconds"])
        record.update({key: entry[key] for key in ("loss", "learning_rate", "eval_loss") if key in entry})
    return [records[step] for step in sorted(records)]

"""The work of one process: score the untouched base, try a learning rate, or run one cell to its result."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.comparison.capacity import circuit_metrics, hidden_change, hidden_states, weight_changes
from ketune.comparison.events import CellPhase, CellProgress, Event
from ketune.comparison.experiments import Experiment, read_config
from ketune.comparison.measurement import MemoryMeter, folder_bytes, meta_info
from ketune.comparison.peft_fields import config_fields, now, peft_metrics, train_config
from ketune.comparison.planning import Plan, load_data
from ketune.comparison.result_fields import KetuneInfo, RunInfo, TrainInfo
from ketune.comparison.results import Result
from ketune.errors import TrainingError
from ketune.quantization.size import size_of

if TYPE_CHECKING:
    from peft import PeftConfig

    from ketune.finetuning import FinetuneResult, TaskData, TrainingParams
    from ketune.finetuning.quantizing import QuantizedTraining

Report = Callable[[Event], None]
N_SAMPLES = 5
_REPORT_INTERVAL = 0.1  # seconds between progress events of a cell; terminals draw no faster


@dataclass(frozen=True)
class CellRequest:
    """What a process needs to know.

    Attributes:
        plan: The comparison's.
        out: Its folder.
        name: Of the job, for its events.
        folder: Where the cell may keep its files, e.g. `cells/qaa--default--seed0`.
        experiment: What to run; None for the untouched base.
        seed: Of initial values and data order.
        learning_rate: Peak rate.
        lr_trials: What led to this rate, with `--tune-lr`.
        system: How cells run here (threads, cells at once), for the result.
    """

    plan: Plan
    out: Path
    name: str
    folder: Path
    experiment: Experiment | None = None
    seed: int = 0
    learning_rate: float = 0.0
    lr_trials: tuple[dict[str, float | None], ...] = ()
    system: tuple[tuple[str, Any], ...] = ()


class _Progress:
    """Passes the steps of a training run on as events, and samples the memory after each."""

    def __init__(self, name: str, report: Report, meter: MemoryMeter | None) -> None:
        self.name, self.report, self.meter, self.last = name, report, meter, -math.inf

    def __call__(
        self,
        step: int,
        total: int,
        loss: float | None,
        tokens_per_second: float | None,
        eval_loss: float | None,
    ) -> None:
        if self.meter is not None:
            self.meter.sample()
        now = time.perf_counter()
        if now - self.last >= _REPORT_INTERVAL or step >= total:
            self.last = now
            self.report(CellProgress(self.name, step, total, loss, tokens_per_second))


def measure_base(request: CellRequest, report: Report) -> dict[str, Any]:
    """Score the untouched base: the content of `base_test.json`."""
    report(CellPhase(request.name, "loading"))
    model, tokenizer, data = _load(request)
    report(CellPhase(request.name, "evaluating"))
    test, samples = _evaluate(model, tokenizer, data, request)
    return {"test": test, "samples": samples, "size": size_of(model).to_dict()}


def run_trial(request: CellRequest, report: Report) -> dict[str, float]:
    """Train with one learning rate and score the validation split: {"learning_rate", "eval_loss"}."""
    from ketune.finetuning import evaluate_loss

    report(CellPhase(request.name, "loading"))
    model, tokenizer, data = _load(request)
    trained = _train(request, model, tokenizer, data, report)
    report(CellPhase(request.name, "evaluating"))
    params = _params(request)
    scores = evaluate_loss(
        trained.model, tokenizer, data.validation, batch_size=params.batch_size_eval, max_length=params.max_length
    )
    for folder in ("adapter", "checkpoints"):
        shutil.rmtree(request.folder / folder, ignore_errors=True)
    return {"learning_rate": request.learning_rate, "eval_loss": math.nan if trained.diverged else scores["loss"]}


def run_cell(request: CellRequest, report: Report) -> dict[str, Any]:
    """Train, evaluate and measure one cell: the object of its result file, without the base's scores."""
    assert request.experiment is not None
    began, started = time.perf_counter(), now()
    report(CellPhase(request.name, "loading"))
    model, tokenizer, data = _load(request)
    texts = [p + c for p, c in zip(data.validation["prompt"], data.validation["completion"])][
        : request.plan.spec.n_capacity
    ]
    before = hidden_states(model, tokenizer, texts)

    meter = MemoryMeter(next(model.parameters()).device)
    meter.start()
    report(CellPhase(request.name, "training"))
    trained = _train(request, model, tokenizer, data, report, meter)
    memory = meter.stop()
    if trained.diverged:
        raise TrainingError(f"training diverged with learning rate {request.learning_rate:g}; pass a lower one")

    report(CellPhase(request.name, "evaluating"))
    test, samples = _evaluate(trained.model, tokenizer, data, request)
    report(CellPhase(request.name, "measuring capacity"))
    capacity = {
        "hidden": hidden_change(hidden_states(trained.model, tokenizer, texts), before),
        "weights": _weight_changes(request, trained),
    }
    spec, config = request.plan.spec, _adapter_config(request)
    result = Result(
        run_info=RunInfo(
            created_at=started,
            experiment_name=f"{request.experiment.method}/{request.experiment.name}",
            train_config=train_config(_params(request), request.experiment, spec.model, spec.data, request.seed),
            peft_config=config_fields(config),
        ),
        train_info=TrainInfo(
            **meter.peft_fields(memory),  # pyright: ignore[reportArgumentType]
            train_time=trained.train_seconds,
            file_size=folder_bytes(trained.adapter_dir),
            num_trainable_params=trained.n_trainable,
            num_total_params=trained.n_total,
            status="success",
            metrics=peft_metrics(trained, test, _params(request)),
        ),
        meta_info=meta_info(spec.model, spec.data, request.plan.data_fingerprint, **dict(request.system)),
        ketune=KetuneInfo(
            method=request.experiment.method,
            experiment=request.experiment.name,
            seed=request.seed,
            control=request.experiment.control,
            budget=request.experiment.budget,
            learning_rate=request.learning_rate,
            lr_trials=list(request.lr_trials) or None,  # pyright: ignore[reportArgumentType]
            history=trained.history,
            test=test,
            speed={
                "step_seconds_median": trained.step_seconds_median,
                "tokens_per_second": trained.tokens_seen / trained.train_seconds if trained.train_seconds else None,
            },
            memory=memory,
            capacity=capacity,
            circuit=circuit_metrics(trained.model, config),
            samples=samples,
            size=size_of(trained.model).to_dict(),
            notes=[*request.experiment.notes, *trained.notes],
        ),
    )
    result.ketune.quantization = request.experiment.quantization
    _tidy(request)
    result.run_info.total_time = time.perf_counter() - began
    return result.to_dict()


def _load(request: CellRequest) -> tuple[Any, Any, TaskData]:
    params = _params(request)
    # All weights train in float32, as in `finetune`: their steps are too small for bfloat16 weights.
    full = request.experiment is not None and _adapter_config(request) is None
    model, tokenizer = _load_base(request, "float32" if full else params.dtype, params.device)
    return model, tokenizer, load_data(request.plan.spec).render(tokenizer)


def _load_base(request: CellRequest, dtype: str, device: str) -> tuple[Any, Any]:
    from ketune.finetuning import load_base

    spec, quantization = request.plan.spec, _quantization(request)
    loading = None if quantization is None else quantization.loading
    return load_base(spec.model, dtype, device, trust_remote_code=spec.trust_remote_code, quantization=loading)


def _params(request: CellRequest) -> TrainingParams:
    from ketune.finetuning import TrainingParams

    spec, experiment = request.plan.spec, request.experiment
    values = dict(spec.training)
    if experiment is not None:
        values["learning_rate"] = request.learning_rate
        if experiment.weight_decay is not None:
            values["weight_decay"] = experiment.weight_decay
    return TrainingParams.from_dict(values)


def _train(
    request: CellRequest, model: Any, tokenizer: Any, data: TaskData, report: Report, meter: MemoryMeter | None = None
) -> FinetuneResult:
    from ketune.finetuning import finetune

    return finetune(
        model,
        data,
        _adapter_config(request),
        output_dir=request.folder,
        tokenizer=tokenizer,
        params=_params(request),
        seed=request.seed,
        resume=True,
        progress=_Progress(request.name, report, meter),
        quantization=_quantization(request),
    )


def _quantization(request: CellRequest) -> QuantizedTraining | None:
    from ketune.finetuning.quantizing import QuantizedTraining

    text = request.experiment.quantization if request.experiment is not None else None
    return None if text is None else QuantizedTraining.parse(text)


def _adapter_config(request: CellRequest) -> PeftConfig | None:
    return read_config(request.out / request.experiment.path) if request.experiment is not None else None


def _evaluate(
    model: Any, tokenizer: Any, data: TaskData, request: CellRequest
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Loss on the test split, scores of greedy answers to some of its prompts, and the first few answers."""
    from ketune.finetuning import evaluate_loss, generate, scores

    spec, params = request.plan.spec, _params(request)
    test: dict[str, Any] = evaluate_loss(
        model, tokenizer, data.test, batch_size=params.batch_size_eval, max_length=params.max_length
    )
    rows = data.test.select(range(min(spec.n_generate, len(data.test))))
    if not len(rows):
        return test, []
    answers = generate(
        model, tokenizer, list(rows["prompt"]), max_new_tokens=spec.max_new_tokens, batch_size=params.batch_size_eval
    )
    references = [list(texts) for texts in rows["references"]]
    test |= scores(answers, references, bertscore_model=spec.bertscore_model)
    shown = list(zip(rows["prompt"], references, answers))[:N_SAMPLES]
    return test, [{"prompt": p, "references": r, "prediction": a} for p, r, a in shown]


def _weight_changes(request: CellRequest, trained: FinetuneResult) -> dict[str, Any] | None:
    if _quantization(request) is not None:
        return None  # rotations and rounding change all weights; what training changed is not told apart
    if _adapter_config(request) is not None:
        return weight_changes(trained.model)
    # Loaded anew instead of kept, so that the memory of full fine-tuning is not measured with a second model in it.
    base, _ = _load_base(request, "float32", "cpu")
    return weight_changes(trained.model, base, request.plan.spec.target_modules)


def _tidy(request: CellRequest) -> None:
    """Remove what only a running cell needs, and fully fine-tuned weights: as large as the base, for each seed."""
    shutil.rmtree(request.folder / "checkpoints", ignore_errors=True)
    if _adapter_config(request) is None and not request.plan.spec.keep_full:
        shutil.rmtree(request.folder / "adapter", ignore_errors=True)

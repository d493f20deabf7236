"""Learned starts for the circuits inside a language model's adapters: FLIP and Q-MAML, trained over several tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.func import functional_call

from ketune.adapters.calibration import circuits_of, collect_inputs
from ketune.adapters.learned_starts import PLACE_LENGTH, places_of, pooled
from ketune.adapters.qaa import QAAConfig
from ketune.errors import TrainingError
from ketune.finetuning.base import load_base, prepare_tokenizer
from ketune.finetuning.data import TaskData, load_task
from ketune.finetuning.encoding import Encoded, Encoder, collate
from ketune.finetuning.metrics import effective_max_length
from ketune.vqc import FlipDecoder, Initialiser, InitialiserError, Learner

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS = ("flip", "q_maml")
ORDERS = ("first", "second")
_OFFSET = ".features.turns.offset"


@dataclass(frozen=True)
class MetaTraining:
    """Settings of `meta_train_starts`.

    Args:
        n_steps: steps of the learned start.
        batch_size: rows of each loss.
        n_support: rows of a task that Q-MAML is told about, and that stand for it.
        inner_steps: gradient steps of the adapter on a task between the start and the loss that counts. At least 1:
            a QAA adapter starts at exactly zero whatever its angles are.
        inner_lr: of these steps, each scaled to unit root mean square of its tensor's gradient.
        learning_rate: of the learned start (Adam).
        order: "first" takes the inner steps for constants, "second" goes through them.
        seed: of everything that is drawn.

    Raises:
        TrainingError: for a value out of range.
    """

    n_steps: int = 100
    batch_size: int = 8
    n_support: int = 64
    inner_steps: int = 3
    inner_lr: float = 0.02
    learning_rate: float = 1e-3
    order: str = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "n_support", "inner_steps"):
            if getattr(self, name) < 1:
                raise TrainingError(f"MetaTraining({name}={getattr(self, name)}): must be at least 1")
        for name in ("inner_lr", "learning_rate"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"MetaTraining({name}={getattr(self, name)}): must be above zero")
        if self.order not in ORDERS:
            raise TrainingError(f"MetaTraining(order={self.order!r}): choose one of {', '.join(map(repr, ORDERS))}")


@dataclass(frozen=True, eq=False)
class MetaResult:
    """A learned start and how it was learned.

    Args:
        initialiser: the start, ready for `save` and `QAAConfig(init_angles=...)`.
        losses: the loss that counts, after the inner steps, of each step.
    """

    initialiser: Initialiser
    losses: list[float]


def meta_train_starts(
    model: str | Path | PreTrainedModel,
    data: Sequence[str | Path | TaskData],
    adapter: QAAConfig,
    kind: str = "flip",
    settings: MetaTraining | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> MetaResult:
    """Trains a start for the circuits of QAA adapters, so that a few gradient steps on a task lower its loss the most.

    Each step draws a task, starts the adapter where the start says, takes `inner_steps` gradient steps on batches of
    the task and measures the loss on another batch; the start follows the gradient of that loss.

    FLIP is told where a layer stands and starts circuits of any size, so what was trained here serves deeper and wider
    models too. Q-MAML is also told what the layer sees of the task (the mean of its inputs over the support rows) and
    serves this model's circuits only, which all have to be of one size.

    Args:
        model: a folder, a hub id, `"builtin:base"`, or a model in memory, which is left as it was.
        data: the tasks, each a task or a source for `load_task`. Keep the task that you will judge on out of them.
        adapter: the adapter; its `init_angles` are what is learned.
        kind: "flip" or "q_maml".
        settings: how; None for the defaults.
        tokenizer: for models in memory without a name; else it is loaded with the model.
        on_step: called with the number of each step and its loss.

    Raises:
        TrainingError: for no tasks, an unknown kind, or an adapter without trained circuits of its own.
        InitialiserError: with "q_maml", for circuits of several sizes.

    Source: the meta-loss is that of FLIP (arXiv 2103.08572, unrolled steps) and, with a pooled hidden state as the
    task's descriptor, what we make of Q-MAML (arXiv 2501.05906) inside a language model.
    """
    settings = settings or MetaTraining()
    if not data:
        raise TrainingError("meta_train_starts(data=[]): pass at least one task to learn from")
    if kind not in KINDS:
        raise TrainingError(f"meta_train_starts(kind={kind!r}): choose one of {', '.join(map(repr, KINDS))}")
    if adapter.control != "trained" or adapter.angles != "free":
        raise TrainingError(
            f"meta_train_starts: an adapter with control={adapter.control!r} and angles={adapter.angles!r} has no "
            "angles of its own to start; pass QAAConfig(control='trained', angles='free')"
        )
    base, tokenizer = _loaded(model, tokenizer)
    place = next(base.parameters()).device
    tasks = [_encoded(source, base, tokenizer) for source in data]
    pad = int(tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
    trained, training = [p for p in base.parameters() if p.requires_grad], base.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        adapted = get_peft_model(base, replace(adapter, init_angles="zeros", task_type="CAUSAL_LM"))
        try:
            adapted.eval()
            support = [_batches(rows[: settings.n_support], settings.batch_size, pad, place) for rows in tasks]
            told = _told(adapted, kind, support)
            initialiser = _initialiser(adapted, kind, len(told[0][0])).to(place)
            scaling: Any = getattr(initialiser, "scaling", None)
            if scaling is not None:
                scaling.fit(torch.cat([torch.stack(task) for task in told]))
            losses = _train(adapted, initialiser, tasks, told, settings, pad, place, on_step)
        finally:
            adapted.unload()
            for parameter in trained:
                parameter.requires_grad = True
            base.train(training)
    return MetaResult(initialiser.eval(), losses)


def _loaded(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(model, (str, Path)):
        base, found = load_base(model, "float32")
        return base, found if tokenizer is None else prepare_tokenizer(tokenizer)
    if tokenizer is None:
        raise TrainingError("meta_train_starts: a model in memory needs its tokenizer; pass tokenizer=...")
    return model, prepare_tokenizer(tokenizer)


def _encoded(source: str | Path | TaskData, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    task = (source if isinstance(source, TaskData) else load_task(source)).render(tokenizer)
    encoder = Encoder(tokenizer, effective_max_length(model, None))
    return encoder.encode_rows(list(zip(task.train["prompt"], task.train["completion"])))[0]


def _batches(rows: Sequence[Encoded], size: int, pad: int, place: torch.device) -> list[dict[str, Tensor]]:
    parts = (collate(rows[start : start + size], pad) for start in range(0, len(rows), size))
    return [{key: tensor.to(place) for key, tensor in part.items()} for part in parts]


def _told(adapted: nn.Module, kind: str, support: Sequence[Sequence[Mapping[str, Tensor]]]) -> list[list[Tensor]]:
    """For each task what the start is told about each layer."""
    circuits = circuits_of(adapted, "default")
    places = places_of(list(circuits))
    if kind == "flip":
        return [list(places)] * len(support)
    layers: dict[str, Any] = {name: adapted.get_submodule(name) for name in circuits}
    sizes = {(layers[name].in_features, features.circuit) for name, features in circuits.items()}
    if len(sizes) > 1:
        widths = ", ".join(map(str, sorted({width for width, _ in sizes})))
        raise InitialiserError(
            f"q_maml starts circuits of one size; this adapter has layers of input widths {widths}: name other "
            "target_modules, or take 'flip'"
        )
    seen = [[pooled(rows) for rows in collect_inputs(adapted, layers, batches).values()] for batches in support]
    return [[torch.cat([place.to(s), s]) for place, s in zip(places, states)] for states in seen]


def _initialiser(adapted: nn.Module, kind: str, n_task: int) -> Initialiser:
    if kind == "flip":
        return FlipDecoder(PLACE_LENGTH)
    circuit = next(iter(circuits_of(adapted, "default").values())).circuit
    return Learner(n_task, circuit.n_angles)


def _train(
    adapted: nn.Module,
    initialiser: Initialiser,
    tasks: Sequence[Sequence[Encoded]],
    told: Sequence[Sequence[Tensor]],
    settings: MetaTraining,
    pad: int,
    place: torch.device,
    on_step: Callable[[int, float], None] | None,
) -> list[float]:
    draw = random.Random(f"ketune/meta-training/{settings.seed}")
    circuits = circuits_of(adapted, "default")
    zeros = {name: p for name, p in adapted.named_parameters() if p.requires_grad and not name.endswith(_OFFSET)}
    offsets = [next(n for n, p in adapted.named_parameters() if p is f.turns.offset) for f in circuits.values()]
    optimizer = torch.optim.Adam(initialiser.parameters(), lr=settings.learning_rate)
    losses: list[float] = []
    for step in range(settings.n_steps):
        number = draw.randrange(len(tasks))
        rows = tasks[number]
        picked = [draw.choices(rows, k=settings.batch_size) for _ in range(settings.inner_steps + 1)]
        *inner, last = [_batches(batch, settings.batch_size, pad, place)[0] for batch in picked]
        starts = [initialiser(f.circuit, task.to(place)) for f, task in zip(circuits.values(), told[number])]
        fast: dict[str, Tensor] = dict(zip(offsets, starts)) | {name: p.detach() for name, p in zeros.items()}
        for batch in inner:
            fast = _inner_step(adapted, fast, batch, settings)
        loss = functional_call(adapted, fast, args=(), kwargs=last).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(initialiser.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(step, losses[-1])
    return losses


def _inner_step(
    adapted: nn.Module, fast: dict[str, Tensor], batch: Mapping[str, Tensor], settings: MetaTraining
) -> dict[str, Tensor]:
    """One step of every tensor against its gradient, scaled to unit root mean square."""
    through = settings.order == "second"
    at = fast if through else {name: value.detach() for name, value in fast.items()}
    at = {name: value if value.requires_grad else value.requires_grad_() for name, value in at.items()}
    loss = functional_call(adapted, at, args=(), kwargs=dict(batch)).loss
    slopes = torch.autograd.grad(loss, list(at.values()), create_graph=through)
    moved = {}
    for (name, value), slope in zip(fast.items(), slopes):
        size = slope.square().mean()
        # An angle's slope is exactly zero while W_up is; its root has no derivative there.
        scaled = torch.zeros_like(slope) if float(size.detach()) == 0.0 else slope * size.rsqrt()
        moved[name] = value - settings.inner_lr * scaled
    return moved

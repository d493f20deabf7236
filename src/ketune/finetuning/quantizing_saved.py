"""A saved model as packed codes, without training: what `ketune quantize` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from ketune.adapters.new_folder import free_folder, write_folder
from ketune.errors import DataError
from ketune.finetuning.base import load_base
from ketune.finetuning.data import TaskData, load_task
from ketune.finetuning.encoding import Encoded, Encoder
from ketune.finetuning.merging import weight_bytes
from ketune.finetuning.metrics import effective_max_length, score_sequences
from ketune.finetuning.quantizing import calibration_batches
from ketune.finetuning.quiet import quiet_transformers
from ketune.finetuning.splits import take
from ketune.quantization import CodedLinear, QuantizationError, QuantizationScheme, QuantizeConfig, QuantizedLinear
from ketune.quantization.gptq import convert_gptq_
from ketune.quantization.prepare import convert_
from ketune.quantization.range_search import search_ranges_
from ketune.quantization.roste import RosteConfig, RosteReport, prepare_roste_
from ketune.quantization.size import ModelSize, size_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROUNDINGS = ("nearest", "gptq")
SPLITS = ("validation", "test")


class OnPhase(Protocol):
    """Called when a phase begins (`done` is 0) and as it goes on."""

    def __call__(self, phase: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class QuantizedModel:
    """What was written, and what it costs.

    Attributes:
        folder: the new folder.
        bits: of weights, activations, keys and values, such as "w4a16".
        rounding: "nearest" or "gptq".
        rotations: which rotations were chosen, and what they save.
        errors: by layer, |Q(W) - W| / |W| of its weight, rotated as it is stored.
        before, after: sizes of the model's tensors, in the dtype in which it was loaded and as codes.
        n_bytes: size of the weights on disk.
        split: which rows were scored; None without data.
        n_rows: how many.
        loss_before, loss_after: mean loss per token of their completions, in full precision and quantised.
        notes: what the data's notes say.
    """

    folder: Path
    bits: str
    rounding: str
    rotations: RosteReport
    errors: dict[str, float]
    before: ModelSize
    after: ModelSize
    n_bytes: int
    split: str | None = None
    n_rows: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def mean_error(self) -> float:
        """Of the layers' errors."""
        return sum(self.errors.values()) / len(self.errors)

    @property
    def worst_layer(self) -> str:
        """The layer with the largest error."""
        return max(self.errors, key=self.errors.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "folder": str(self.folder),
            "bits": self.bits,
            "rounding": self.rounding,
            "rotations": self.rotations.to_dict(),
            "mean_error": self.mean_error,
            "worst_layer": self.worst_layer,
            "worst_error": self.errors[self.worst_layer],
            "errors": self.errors,
            "model_bytes_before": self.before.n_bytes,
            **self.after.to_dict(),
            "n_bytes": self.n_bytes,
            "split": self.split,
            "n_rows": self.n_rows,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "notes": self.notes,
        }


def quantize_saved(
    model: str | Path,
    out: str | Path,
    bits: str = "w4a16",
    *,
    rotations: str = "never",
    rounding: str = "nearest",
    clip: float = 1.0,
    range: str = "minmax",
    outliers: float = 0.0,
    data: str | Path | None = None,
    n_calibration: int = 128,
    split: str = "validation",
    limit: int | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    data_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    on_phase: OnPhase | None = None,
) -> QuantizedModel:
    """Turns the weights of a saved model into packed codes and writes the model that transformers loads.

    Args:
        model, dtype, device, trust_remote_code: as in `load_base`; what stays in full precision is saved in the dtype.
        out: a folder that does not stand yet, or is empty; it appears whole or not at all.
        bits: as `QuantizationScheme.parse` reads them; they have to name fewer than 16 for weights.
        rotations: "never", "adaptive" (where they lower the error, as RoSTE chooses) or "always".
        rounding: "nearest", or "gptq", in which each column takes over the errors of those before it.
        clip: the part of each range that is kept, in (0, 1].
        range: of each group of weights: "minmax", or "mse", the range of least squared error.
        outliers: share of the entries of each weight that stays in full precision, those that rounding moves farthest;
            what PreQuant trains.
        data: a source for `load_task`; `data_options` are its further arguments. With it the losses are measured;
            adaptive rotations and GPTQ cannot do without it.
        n_calibration: training rows that those two look at.
        split: rows to score, "validation" or "test"; at most `limit` of them.
        batch_size: sequences per forward pass.
        max_length: longest sequence in tokens, as in `evaluate_loss`.
        seed: of the calibration rows, and of the signs of the residual stream's rotation.
        on_phase: is told what goes on.

    Raises:
        QuantizationError: for bits, rotations or a rounding that cannot be used, calibration without data, or a model
            that is quantised already.
        KetuneError: for a folder that holds something already, and as in `load_base` and `load_task`.
    """
    scheme = QuantizationScheme.parse(bits, clip=clip)
    config = RosteConfig(scheme, rotations=rotations, seed=seed)
    _check(scheme, rotations, rounding, data, n_calibration, split)
    QuantizeConfig(scheme, range=range, outliers=outliers)  # refuses what it cannot do
    if outliers and rounding == "gptq":
        raise QuantizationError("outliers: not beside rounding='gptq', whose codes make up for rounding every entry")
    report_phase = on_phase or (lambda phase, done, total: None)
    target = free_folder(out)
    options = dict(data_options or {})
    task = None if data is None else load_task(data, limit=None if limit is None else {split: limit}, **options)
    loaded, tokenizer = load_base(model, dtype, device, trust_remote_code=trust_remote_code)
    if getattr(loaded, "is_quantized", False):
        raise QuantizationError(f"{model}: is quantised already; pass the model in full precision")
    prompts, scored = [], []
    if task is not None:
        task = task.render(tokenizer)
        encoder = Encoder(tokenizer, effective_max_length(loaded, max_length))
        scored = _encode(task, split, encoder)
        if rotations == "adaptive" or rounding == "gptq":
            drawn = _encode(task, "train", encoder, n_calibration, seed)
            prompts = calibration_batches(drawn, _pad(tokenizer), n_calibration, batch_size, seed, loaded.device)

    def loss(words: str) -> float | None:
        if task is None:
            return None
        with _counting(loaded, report_phase, words, math.ceil(len(scored) / batch_size)):
            return score_sequences(loaded, scored, _pad(tokenizer), batch_size)["loss"]

    before, loss_before = size_of(loaded), loss("loss before")
    with _counting(loaded, report_phase, "choosing rotations", len(prompts) * _passes(config)):
        report = prepare_roste_(loaded, config, prompts)
    if range == "mse":
        search_ranges_(loaded)
    exact = {name: layer for name, layer in loaded.named_modules() if isinstance(layer, QuantizedLinear)}
    if rounding == "gptq":
        with _counting(loaded, report_phase, "inputs of the layers", len(prompts)):
            convert_gptq_(loaded, prompts, on_layer=lambda done, total: report_phase("rounding", done, total))
    else:
        convert_(loaded, outliers)
    errors = {name: _error(loaded.get_submodule(name), layer) for name, layer in exact.items()}
    loss_after = loss("loss after")

    def write(folder: Path) -> None:
        with quiet_transformers():
            loaded.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    write_folder(target, write)
    return QuantizedModel(
        folder=target,
        bits=str(scheme),
        rounding=rounding,
        rotations=report,
        errors=errors,
        before=before,
        after=size_of(loaded),
        n_bytes=weight_bytes(target),
        split=None if task is None else split,
        n_rows=len(scored),
        loss_before=loss_before,
        loss_after=loss_after,
        notes=[] if task is None else list(task.notes),
    )


def _check(
    scheme: QuantizationScheme, rotations: str, rounding: str, data: str | Path | None, n_calibration: int, split: str
) -> None:
    """Everything that can be refused before a model is loaded."""
    if scheme.weights is None:
        raise QuantizationError(f"bits {scheme}: weights stay as they are, so nothing is stored as codes; name 1 to 8")
    if rounding not in ROUNDINGS:
        raise QuantizationError(f"rounding={rounding!r}: choose one of {', '.join(map(repr, ROUNDINGS))}")
    if split not in SPLITS:
        raise DataError(f"split={split!r}: choose one of {', '.join(map(repr, SPLITS))}")
    if n_calibration < 1:
        raise DataError(f"n_calibration={n_calibration}: must be at least 1")
    asking = "rounding='gptq'" if rounding == "gptq" else "rotations='adaptive'" if rotations == "adaptive" else None
    if asking and data is None:
        raise QuantizationError(f"{asking} looks at calibration rows; pass data, such as builtin:inns")


def _encode(task: TaskData, split: str, encoder: Encoder, n_rows: int | None = None, seed: int = 0) -> list[Encoded]:
    """The rows of a split, or so many of them, as tokens; what does not fit is left out."""
    rows = getattr(task, split)
    rows = rows.select(take(list(range(len(rows))), n_rows, seed))
    found, _ = encoder.encode_rows(list(zip(rows["prompt"], rows["completion"])))
    if not found:
        raise DataError(f"{task.name}: no {split} row fits into {encoder.max_length} tokens; raise max_length")
    return found


def _pad(tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]


def _passes(config: RosteConfig) -> int:
    """How often `prepare_roste_` shows the prompts to the model: once for each residual stream, and once to choose."""
    if config.rotations != "adaptive":
        return 0
    return 3 if config.residual == "auto" else 1


@contextmanager
def _counting(
    model: PreTrainedModel, report: Callable[[str, int, int], None], phase: str, total: int
) -> Iterator[None]:
    """Report the forward passes of a model, and of its copies."""
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        report(phase, done, total)

    if not total:
        yield
        return
    report(phase, 0, total)
    handle = model.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _error(coded: nn.Module, exact: QuantizedLinear) -> float:
    assert isinstance(coded, CodedLinear)
    weight = exact.rotated_weight().float()
    return float((coded.dequantize().float() - weight).norm() / weight.norm().clamp_min(torch.finfo().tiny))

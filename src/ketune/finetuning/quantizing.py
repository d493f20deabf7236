"""Training on, through and into quantised weights: what `--quantization` does around a training run.

Three kinds of methods, which differ in what is trained and what is left:

    roste, rotated, ste   the base is trained through fake quantisers, or an adapter as part of the quantised weight;
    zeroqat               what is left is a model of packed codes
    prequant              the base becomes codes once, with its outliers apart; adapters train beside it
    nf4, int8             the base is loaded by bitsandbytes; adapters train beside it
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from peft import PeftConfig, PeftModel

from ketune.errors import TrainingError
from ketune.finetuning.bitsandbytes import BITSANDBYTES
from ketune.finetuning.checkpoints import replace_folder
from ketune.finetuning.encoding import Encoded, collate
from ketune.quantization import QuantizationError, QuantizeConfig, quantize_
from ketune.quantization.prepare import convert_
from ketune.quantization.roste import RosteConfig, prepare_roste_
from ketune.quantization.schemes import QuantizationScheme
from ketune.quantization.sums import check_sums
from ketune.quantization.zeroqat import ZeroQATConfig, prepare_zeroqat_, zeroth_order

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROTATIONS = {"roste": "adaptive", "rotated": "always", "ste": "never"}
METHODS = (*ROTATIONS, "zeroqat", "prequant", *BITSANDBYTES)
ZEROQAT_RATE = 1e-2
"""In units of the quantisers' steps; see `ketune.quantization.zeroqat.zeroth_order`."""
DEFAULT_BITS = {"roste": "w4a4kv4", "rotated": "w4a4kv4", "ste": "w4a4kv4", "zeroqat": "w4a4", "prequant": "w4a16"}
BASE = "base"
"""Folder, beside that of an adapter, with the quantised base that it was trained on."""


@dataclass(frozen=True)
class QuantizedTraining:
    """How a run quantises.

    Attributes:
        method: "roste" (rotations where they help), "rotated" (everywhere), "ste" (none, plain straight-through
            training), "zeroqat" (no gradients), "prequant" (outliers train, the rest stays as codes), "nf4", "int8".
        bits: "w4a4kv4" and the like; None: the method's usual. nf4 and int8 have none.
        clip: The part of each range that is kept, in (0, 1].
        n_calibration: Training rows that are shown to methods that look at activations first.
        options: Further fields of `RosteConfig`, of `ZeroQATConfig` and arguments of its optimiser (`n_probes`,
            `epsilon`), or, for prequant, fields of `QuantizeConfig`.

    Raises:
        TrainingError: A method that is unknown, or bits where there are none to choose.
        QuantizationError: Bits that cannot be read.
    """

    method: str
    bits: str | None = None
    clip: float = 1.0
    n_calibration: int = 128
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise TrainingError(f"quantization {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.method in BITSANDBYTES:
            if self.bits is not None:
                raise TrainingError(f"bits={self.bits!r}: {self.method} has its own; leave bits out")
            return
        object.__setattr__(self, "bits", self.bits or DEFAULT_BITS[self.method])
        if self.scheme.weights is None and self.method == "prequant":
            raise TrainingError(f"bits={self.bits!r}: prequant quantises weights; name fewer than 16 bits for them")
        if not self.n_calibration >= 1:
            raise TrainingError(f"n_calibration={self.n_calibration}: must be at least 1")

    @property
    def scheme(self) -> QuantizationScheme:
        """The bits as a scheme."""
        return QuantizationScheme.parse(str(self.bits), clip=self.clip)

    @property
    def trains_through(self) -> bool:
        """Whether weights or adapters are trained as part of what is quantised."""
        return self.method in (*ROTATIONS, "zeroqat")

    @property
    def loading(self) -> str | None:
        """What `load_base` has to know: the method, where the base is quantised while it is loaded."""
        return self.method if self.method in BITSANDBYTES else None

    @classmethod
    def parse(cls, text: str, **more: Any) -> Self | None:
        """Read "roste:w4a4kv4", "roste" (its usual bits) or "nf4"; "none" gives None.

        Args:
            text: The method and, behind a colon, the bits.
            more: Further fields.
        """
        method, _, bits = text.strip().lower().partition(":")
        return None if method == "none" else cls(method, bits or None, **more)

    @property
    def learning_rate(self) -> float | None:
        """The usual learning rate, where it is not that of what is trained."""
        return ZEROQAT_RATE if self.method == "zeroqat" else None

    def zeroqat_fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options of ZeroQAT: fields of its config, and arguments of its optimiser."""
        names = {f.name for f in dataclasses.fields(ZeroQATConfig)}
        ours = {name: value for name, value in self.options.items() if name in names}
        return ours, {name: value for name, value in self.options.items() if name not in names}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method}:{self.bits}"


def calibration_batches(
    sequences: Sequence[Encoded], pad_token_id: int, n_rows: int, batch_size: int, seed: int, device: torch.device
) -> list[dict[str, torch.Tensor]]:
    """Rows drawn from the training rows, as keyword arguments of the model."""
    drawn = random.Random(f"ketune/quantization/{seed}").sample(range(len(sequences)), min(n_rows, len(sequences)))
    drawn.sort(key=lambda i: len(sequences[i]))  # little padding
    batches = []
    for start in range(0, len(drawn), batch_size):
        batch = collate([sequences[i] for i in drawn[start : start + batch_size]], pad_token_id)
        batches.append({key: batch[key].to(device) for key in ("input_ids", "attention_mask", "labels")})
    return batches


def prepare_base(
    model: PreTrainedModel,
    quantization: QuantizedTraining,
    batches: Sequence[dict[str, torch.Tensor]],
    adapter: PeftConfig | None,
) -> list[str]:
    """Quantise a base before training, as the method wants it. Changes the model and returns what to note.

    Raises:
        TrainingError: For a method that trains no base, without an adapter.
        QuantizationError: As the method does.
    """
    method = quantization.method
    if adapter is None and not quantization.trains_through:
        raise TrainingError(f"quantization {method!r} leaves the base as it is; choose an adapter to train beside it")
    if method in BITSANDBYTES:
        return []
    if method in ROTATIONS:
        config = RosteConfig(quantization.scheme, **{"rotations": ROTATIONS[method], **quantization.options})
        report = prepare_roste_(model, config, batches)
        return [f"quantization: {quantization.bits}, {report}"]
    if method == "prequant":
        options = {"range": "mse", "outliers": 0.005, **quantization.options}
        quantize_(model, QuantizeConfig(quantization.scheme, "convert", **options))
        apart = f"{options['outliers']:.2%} of each matrix kept in full precision" if options["outliers"] else ""
        return [f"quantization: {quantization.bits}{', ' if apart else ''}{apart}"]
    zeroqat = prepare_zeroqat_(model, ZeroQATConfig(quantization.scheme, **quantization.zeroqat_fields()[0]), batches)
    return [f"quantization: {quantization.bits}, {zeroqat}"]


def gradient_free(model: PreTrainedModel | PeftModel, quantization: QuantizedTraining, rate: float, seed: int) -> Any:
    """The optimiser of ZeroQAT for what trains in a model."""
    return zeroth_order(model, rate, seed=seed, **quantization.zeroqat_fields()[1])


def put_on_quantized(
    base: PreTrainedModel | PeftModel,
    put_on: Callable[[PreTrainedModel | PeftModel], PreTrainedModel | PeftModel],
    quantization: QuantizedTraining,
    sequences: Sequence[Encoded],
    adapter: PeftConfig | None,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    seed: int,
    output_dir: Path,
    notes: list[str],
) -> tuple[PreTrainedModel | PeftModel, bool]:
    """Quantise a base and make it ready to train, with an adapter or as it is.

    Args:
        base: changed in place.
        put_on: puts the adapter on a model; the same each time it is called.
        quantization: how.
        sequences: the training rows, some of which calibrate.
        adapter: what `put_on` puts on; None: nothing, all weights train.
        tokenizer: saved with a base that adapters stand beside.
        batch_size: of calibration.
        seed: which rows calibrate.
        output_dir: where such a base goes.
        notes: what was decided is added here.

    Returns:
        The model to train, and whether what trains is to be part of the quantised weights: then call `quantize_sums_`
        when the adapter has its first values, and `finished` after training.

    Raises:
        TrainingError: for a model that carries an adapter, or a method that trains no base without one.
    """
    if isinstance(base, PeftModel):
        raise TrainingError(
            f"quantization {quantization.method!r}: the model already has an adapter ({', '.join(base.peft_config)}); "
            "merge it first"
        )
    if quantization.loading is None and getattr(base, "is_quantized", False):
        raise TrainingError(
            f"quantization {str(quantization)!r}: the model is quantised already; pass it in full precision, or leave "
            "quantization out and train an adapter beside it"
        )
    shutil.rmtree(output_dir / f"{BASE}.tmp", ignore_errors=True)  # of a start that was refused
    device = next(base.parameters()).device
    pad = int(tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
    batches = calibration_batches(sequences, pad, quantization.n_calibration, batch_size, seed, device)
    notes.extend(prepare_base(base, quantization, batches, adapter))
    if quantization.method == "prequant":
        save_base(base, tokenizer, output_dir)
        return put_on(base), False
    # Full fine-tuning would open all weights; ZeroQAT has chosen which train.
    trained = base if quantization.method == "zeroqat" and adapter is None else put_on(base)
    if not quantization.trains_through:
        return trained, False
    if not isinstance(trained, PeftModel):
        return trained, True
    try:
        check_sums(trained)
        return trained, True
    except QuantizationError as error:
        if adapter is None or (not adapter.is_prompt_learning and "no matrix" not in str(error)):
            raise
    # It cannot be part of the weights. They do not train then, so they can be codes from the start.
    prepared = _without_adapter(trained)
    convert_(prepared)
    save_base(prepared, tokenizer, output_dir)
    notes.append(
        f"quantization: {type(adapter).__name__} cannot be part of the quantised weights and stands beside them "
        "in full precision"
    )
    return put_on(prepared), False


def _without_adapter(model: PeftModel) -> PreTrainedModel:
    """The prepared base that an adapter was put on, as it was before."""
    base: Any = model.get_base_model() if model.active_peft_config.is_prompt_learning else model.unload()
    return base


def finished(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A model that was trained through its quantisers, as codes; an adapter is merged first."""
    base: Any = model.merge_and_unload() if isinstance(model, PeftModel) else model  # pyright: ignore[reportCallIssue]
    convert_(base)
    return base


def save_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, output_dir: Path) -> None:
    """Write a quantised base for the adapter that will be trained on it, and call it by its place from now on.

    It comes to its place with `publish_base`, once it is known that the folder is not another run's.
    """
    staged, target = output_dir / f"{BASE}.tmp", output_dir / BASE
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    model.save_pretrained(staged)
    tokenizer.save_pretrained(staged)
    model.config.name_or_path = model.name_or_path = str(target.resolve())


def publish_base(output_dir: Path) -> None:
    """Put what `save_base` wrote, if anything, in the place of what an earlier start of the run left there."""
    staged = output_dir / f"{BASE}.tmp"
    if staged.is_dir():
        replace_folder(staged, output_dir / BASE)

"""Experiment folders in the layout of PEFT's method_comparison, ours and the user's own.

    experiments/<method>/<experiment>/adapter_config.json     a PEFT config as `save_pretrained` writes it; absent for
                                                              full fine-tuning
    experiments/<method>/<experiment>/training_params.json    what differs from the comparison's training parameters

So PEFT's `run.py` starts from our folders, and any folder that PEFT's method_comparison holds can join a comparison.

Source of the layout: huggingface/peft, `method_comparison/MetaMathQA/README.md` and `utils.py`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.errors import KetuneError
from ketune.files import write_atomically

if TYPE_CHECKING:
    from peft import PeftConfig

ADAPTER_CONFIG = "adapter_config.json"
TRAINING_PARAMS = "training_params.json"

_PEFT_NAMES = {"max_length": "max_seq_length", "gradient_checkpointing": "use_gc"}
_SAME_NAMES = ("batch_size", "max_steps", "eval_steps", "grad_norm_clip", "lr_scheduler")
_OPTIMIZERS = ("AdamW", None)


class ExperimentError(KetuneError, ValueError):
    """An experiment folder that cannot take part; the message is one line."""


@dataclass(frozen=True)
class Experiment:
    """One column of a comparison: a method with all of its choices made, to be run with every seed.

    Attributes:
        method: Name in the registry, or the PEFT type in lower case for a user's folder.
        name: Unique within the method: "default", "control-frozen", or the name of a user's folder.
        learning_rate: Peak learning rate; with `--tune-lr` the one that trials start around.
        learning_rates: The grid that `--tune-lr` starts with; empty when the rate is fixed.
        control: What stands in for the trained quantum part; None for methods without such a part.
        n_trainable: Exact count of trainable parameters.
        budget: The count that the method was sized to, None if it was not.
        weight_decay: Only where the folder asks for another one than the comparison.
        notes: Sentences for the report.
        quantization: How the model is quantised, e.g. "roste:w4a4kv4"; None for full precision.
    """

    method: str
    name: str
    learning_rate: float
    learning_rates: tuple[float, ...] = ()
    control: str | None = None
    n_trainable: int | None = None
    budget: int | None = None
    weight_decay: float | None = None
    notes: tuple[str, ...] = ()
    quantization: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rates", tuple(self.learning_rates))
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def id(self) -> str:
        """File-name form, e.g. "qaa--control-frozen"."""
        return f"{self.method}--{self.name}"

    @property
    def path(self) -> Path:
        """Its folder, relative to the comparison's."""
        return Path("experiments") / self.method / self.name

    def cell(self, seed: int) -> str:
        """Name of the cell with this seed, e.g. "qaa--default--seed0"."""
        return f"{self.id}--seed{seed}"


def write_experiment(
    out: Path, experiment: Experiment, config: PeftConfig | None, training: Mapping[str, Any], model: str
) -> None:
    """Write the folder of one experiment, each file whole or not at all.

    Args:
        out: Folder of the comparison.
        experiment: What to write; its learning rate goes into `training_params.json`.
        config: The adapter's configuration, None for full fine-tuning.
        training: Fields of `TrainingParams` that the comparison sets.
        model: Name of the base model.
    """
    folder = out / experiment.path
    if config is not None:
        with tempfile.TemporaryDirectory() as staged:
            config.save_pretrained(staged)
            write_atomically(folder / ADAPTER_CONFIG, (Path(staged) / ADAPTER_CONFIG).read_bytes())
    content = json.dumps(training_to_peft(training, experiment, model), indent=2) + "\n"
    write_atomically(folder / TRAINING_PARAMS, content)


def training_to_peft(training: Mapping[str, Any], experiment: Experiment, model: str) -> dict[str, Any]:
    """Training parameters under the names of PEFT's method_comparison, as far as it has names for them."""
    found: dict[str, Any] = {"model_id": model}
    found |= {name: training[name] for name in _SAME_NAMES if name in training}
    found |= {theirs: training[ours] for ours, theirs in _PEFT_NAMES.items() if ours in training}
    if training.get("dtype") in ("float32", "float16", "bfloat16"):
        found["dtype"] = training["dtype"]
    decay = training.get("weight_decay") if experiment.weight_decay is None else experiment.weight_decay
    named = training.get("optimizer", "adamw_torch")
    found["optimizer_type"] = "AdamW" if "adamw" in named else named
    found["optimizer_kwargs"] = {"lr": experiment.learning_rate}
    if decay is not None:
        found["optimizer_kwargs"]["weight_decay"] = decay
    return found


def read_config(folder: Path) -> PeftConfig | None:
    """The adapter's configuration in an experiment folder, ready to train; None where there is none (full fine-tuning).

    Raises:
        ExperimentError: The file is no adapter configuration that this PEFT (with Ketune) knows.
    """
    from peft import PeftConfig

    import ketune.adapters  # noqa: F401  (registers our methods with PEFT)

    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    kind = _read_json(path).get("peft_type")
    if kind is None:
        raise ExperimentError(f"{path}: peft_type is missing; write the file with `config.save_pretrained(folder)`")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except KeyError as error:
        raise ExperimentError(f"{path}: peft_type {kind!r} is not a method of this PEFT; update PEFT") from error
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"{path}: not an adapter configuration ({_one_line(error)})") from error
    config.inference_mode = False  # PEFT saves trained adapters with True, and would train nothing
    return config


def read_user_experiment(
    folder: Path | str, learning_rate: float, learning_rates: tuple[float, ...]
) -> tuple[Experiment, PeftConfig]:
    """Read a user's own experiment folder.

    The comparison keeps data, steps and batches equal for all, so of `training_params.json` only the learning rate and
    the weight decay count; what else it sets is named in a note.

    Args:
        folder: Holds `adapter_config.json`, and `training_params.json` if you like.
        learning_rate: Used when the folder names none.
        learning_rates: What `--tune-lr` tries when the folder names no rate; else as many around the one it names.

    Raises:
        ExperimentError: No such folder, no adapter configuration in it, or an optimiser that we don't run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ExperimentError(f"experiment folder {str(folder)!r} does not exist; pass a folder with {ADAPTER_CONFIG}")
    config = read_config(folder)
    if config is None:
        raise ExperimentError(
            f"{folder}: no {ADAPTER_CONFIG}; write one with `config.save_pretrained({str(folder)!r})` "
            "(for full fine-tuning name the method 'full')"
        )
    training = _read_json(folder / TRAINING_PARAMS) if (folder / TRAINING_PARAMS).is_file() else {}
    optimizer = training.get("optimizer_kwargs") or {}
    if training.get("optimizer_type") not in _OPTIMIZERS:
        raise ExperimentError(
            f"{folder / TRAINING_PARAMS}: optimizer_type {training['optimizer_type']!r} is not run here; "
            "a comparison uses AdamW for all, remove the line"
        )
    notes = []
    rate = optimizer.get("lr", training.get("learning_rate"))
    if rate is None:
        rate = learning_rate
        notes.append(f"{folder.name} names no learning rate: {rate:g} was used.")
    elif not isinstance(rate, int | float) or isinstance(rate, bool) or not rate > 0:
        raise ExperimentError(f"{folder / TRAINING_PARAMS}: lr is {rate!r}; write a positive number")
    else:
        learning_rates = around(rate, len(learning_rates)) if learning_rates else ()
    taken = {"optimizer_kwargs", "optimizer_type", "learning_rate", "model_id"}
    if ignored := sorted(set(training) - taken):
        notes.append(f"{folder.name}: the comparison's own values stand in for {', '.join(ignored)}.")
    kind = str(getattr(config.peft_type, "value", config.peft_type)).lower()
    in_layout = folder.parent.parent.name == "experiments"
    experiment = Experiment(
        method=_safe(folder.parent.name if in_layout else kind),
        name=_safe(folder.name),
        learning_rate=float(rate),
        learning_rates=learning_rates,
        control=getattr(config, "control", None),
        weight_decay=optimizer.get("weight_decay"),
        notes=tuple(notes),
    )
    return experiment, config


def around(rate: float, n: int) -> tuple[float, ...]:
    """`n` learning rates, rising by a factor of 3 each (rounded to one digit), with `rate` in the middle."""
    return tuple(sorted(rate if i == n // 2 else float(f"{rate * 3.0 ** (i - n // 2):.1g}") for i in range(n)))


def unique_names(experiments: list[Experiment]) -> list[Experiment]:
    """The experiments with "-2", "-3", ... behind names that occur before them."""
    seen: set[str] = set()
    renamed = []
    for experiment in experiments:
        name, n = experiment.name, 1
        while f"{experiment.method}--{name}".lower() in seen:  # lower: some file systems do not tell case apart
            n += 1
            name = f"{experiment.name}-{n}"
        seen.add(f"{experiment.method}--{name}".lower())
        renamed.append(replace(experiment, name=name))
    return renamed


def _safe(name: str) -> str:
    """A name that can stand between "--" in a file name."""
    return re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", name)).strip("-.") or "experiment"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ExperimentError(f"{path}: expected a JSON object, found a {type(found).__name__}")
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

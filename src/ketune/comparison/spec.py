"""What one comparison is asked to do, as one value that can be checked, written down and compared with another."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ketune.assets.names import BUNDLED_MODEL
from ketune.errors import KetuneError

BUNDLED_DATA = "builtin:inns"
METHODS = ("full", "lora", "prefix", "sora", "qaa")
"""What `ketune compare` runs when nobody names methods."""

DEFAULT_TRAINING: dict[str, Any] = {"max_steps": 80, "batch_size": 8, "eval_steps": 20, "eval_limit": 64}
"""Training parameters of a comparison unless others are asked for. With the sizes of `ComparisonSpec` and the bundled
model they let five methods times three seeds end within five minutes on two cores."""

BUNDLED_RATES = {"full": 1e-3, "lora": 2e-2, "prefix": 0.6, "sora": 3e-2, "qaa": 0.1, "qtha": 3e-2}
"""Learning rates for short runs on the bundled model, from two to four trials by hand each; others may want less."""

BUDGET_RANK = 4
"""Without a budget all methods get as many parameters as LoRA of this rank on its default targets."""

NOT_QUANTIZED = "none"
"""Among ways to quantise: full precision."""

_OURS = ("learning_rate", "output_dir", "seed")
"""Training parameters that the comparison itself sets, each with a field of the spec."""


class SpecError(KetuneError, ValueError):
    """A comparison that cannot be run as asked; the message is one line that says what to ask instead."""


@dataclass(frozen=True)
class ComparisonSpec:
    """Everything that decides the numbers of a comparison. Equal specs give equal cells.

    Attributes:
        model: A model folder, a hub id, or "builtin:base".
        data: A data folder or file, a hub id, or "builtin:inns"; see `ketune.finetuning.load_task`.
        methods: Names in `ketune.adapters.METHODS`, in the order of the report. "all" stands for every one of them, and
            "-full" behind it leaves one out; those that the budget is too small for, or that this model has no place
            for, are then left out with a note.
        experiments: Folders with an `adapter_config.json` of any PEFT method, to be compared beside the methods.
        target_modules: Names of the modules that the methods adapt; None: the query and value projections of models
            that PEFT knows, and those with usual names of others. IA3 and LN tuning have modules of their own, and
            folders in `experiments` bring theirs.
        budget: Trainable parameters that each method may have: a count (5000, "12k"), or a share of the model such as
            "0.1%". None: as many as LoRA of rank 4. Full fine-tuning is exempt, and so are the `experiments`.
        seeds: One cell for each method and seed; a seed decides initial values and the order of the data.
        controls: Run the controls of each method beside it, at its size.
        tune_lr: Choose the learning rate of each method on the validation split, with `lr_trials` trials for each.
        learning_rates: Rates by method, instead of those in the registry (on the bundled model, `BUNDLED_RATES`). A
            folder in `experiments` brings its own. A method named here takes no part in `tune_lr`.
        training: Fields of `ketune.finetuning.TrainingParams`, over `DEFAULT_TRAINING`.
        template, columns, train, validation, test: How to read the data; see `ketune.finetuning.load_task`.
        n_train: At most so many training rows; None takes all.
        n_validation, n_test: At most so many rows for the losses on these splits.
        n_generate: So many test prompts are answered and scored; 0 to skip generation.
        max_new_tokens: Length of each answer.
        n_capacity: Validation rows whose hidden states give the singular values of the change.
        lr_trials: Learning rates that `tune_lr` tries for each method: a grid of three, then one after the other where
            the best one so far leaves room.
        keep_full: Keep fully fine-tuned weights (as large as the model, for each seed) when their cell is done.
            Adapters are always kept, in `cells/<cell>/adapter`.
        bertscore_model: Folder or hub id of an encoder; adds BERTScore to the scores.
        trust_remote_code: Whether a model may bring code of its own.
        only_fitting: Leave out, with a note, the methods that cannot be sized to the budget; "all" sets it.
        quantization: Ways to quantise, each of which every method is trained with: "roste:w4a4kv4", "prequant:w4a16",
            "nf4", ..., as `ketune.finetuning.QuantizedTraining` has them; "none" is one too, in full precision.

    Raises:
        SpecError: A value that cannot work, with what is allowed.
    """

    model: str = BUNDLED_MODEL
    data: str = BUNDLED_DATA
    methods: tuple[str, ...] = METHODS
    experiments: tuple[str, ...] = ()
    target_modules: tuple[str, ...] | None = None
    budget: int | str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    controls: bool = False
    tune_lr: bool = False
    learning_rates: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    columns: dict[str, str] | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    n_train: int | None = None
    n_validation: int = 200
    n_test: int = 400
    n_generate: int = 48
    max_new_tokens: int = 64
    n_capacity: int = 8
    lr_trials: int = 3
    keep_full: bool = False
    bertscore_model: str | None = None
    trust_remote_code: bool = False
    only_fitting: bool = False
    quantization: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("methods", "experiments", "seeds", "quantization"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        if self.target_modules is not None:
            object.__setattr__(self, "target_modules", _as_tuple("target_modules", self.target_modules) or None)
        object.__setattr__(self, "training", DEFAULT_TRAINING | dict(self.training))
        object.__setattr__(self, "learning_rates", dict(self.learning_rates))
        for name in ("model", "data"):
            if not str(getattr(self, name)).strip():
                _refuse(
                    name, getattr(self, name), f"name a folder, a hub id or {self.__dataclass_fields__[name].default!r}"
                )
            object.__setattr__(self, name, str(getattr(self, name)))
        object.__setattr__(self, "experiments", tuple(str(Path(folder).absolute()) for folder in self.experiments))
        self._check_methods()
        self._check_seeds()
        self._check_numbers()
        self._check_training()
        self._check_budget()
        self._check_quantization()

    def _check_quantization(self) -> None:
        from ketune.finetuning.quantizing import QuantizedTraining

        spelled = tuple(str(QuantizedTraining.parse(text) or NOT_QUANTIZED) for text in self.quantization)
        if len(set(spelled)) < len(spelled):
            _refuse("quantization", self.quantization, "name each way once")
        object.__setattr__(self, "quantization", spelled)

    def _check_methods(self) -> None:
        from ketune.adapters import METHODS as registry

        if "all" in self.methods:
            without = [name.removeprefix("-") for name in self.methods if name != "all"]
            for name in self.methods:
                if name != "all" and (not name.startswith("-") or name[1:] not in registry):
                    _refuse(
                        "methods", name, f"behind 'all' stand names to leave out, such as '-{next(iter(registry))}'"
                    )
            object.__setattr__(self, "methods", tuple(name for name in registry if name not in without))
            object.__setattr__(self, "only_fitting", True)
        if not self.methods and not self.experiments:
            _refuse("methods", (), f"name at least one of {', '.join(registry)}, or a folder in experiments")
        for name in (*self.methods, *self.learning_rates):
            if name not in registry:
                near = difflib.get_close_matches(name, registry, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise SpecError(f"unknown method {name!r}: {hint}choose from {', '.join(registry)}")
        if len(set(self.methods)) < len(self.methods):
            _refuse("methods", self.methods, "name each method once")
        for name, rate in self.learning_rates.items():
            if not (_is_number(rate) and math.isfinite(rate) and rate > 0):
                _refuse(f"learning_rates[{name!r}]", rate, "pass a positive number such as 1e-3")

    def _check_budget(self) -> None:
        from ketune.adapters.counting import parse_budget

        if self.budget is None:
            return
        parse_budget(self.budget, 10**15)  # any share of so many is at least one
        share = str(self.budget).strip().removesuffix("%")
        if share != str(self.budget).strip() and float(share) > 100:
            _refuse("budget", self.budget, "a share of the model is at most 100%")

    def _check_seeds(self) -> None:
        if not self.seeds:
            _refuse("seeds", self.seeds, "pass at least one, e.g. 0")
        for seed in self.seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
                _refuse("seeds", seed, "seeds are whole numbers from 0 to 2147483647")
        if len(set(self.seeds)) < len(self.seeds):
            _refuse("seeds", self.seeds, "a seed given twice is one cell, not two; name each seed once")

    def _check_numbers(self) -> None:
        least = {"n_train": 1, "n_validation": 1, "n_test": 1, "n_generate": 0, "max_new_tokens": 1}
        least |= {"n_capacity": 1, "lr_trials": 2}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is None and name == "n_train":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                _refuse(name, value, f"pass a whole number of at least {minimum}")

    def _check_training(self) -> None:
        from ketune.finetuning import TrainingParams

        for name in _OURS:
            if name in self.training:
                instead = {"learning_rate": "learning_rates", "seed": "seeds"}.get(name, "the folder of the comparison")
                _refuse(f"training[{name!r}]", self.training[name], f"the comparison sets this one; use {instead}")
        TrainingParams.from_dict(self.training)  # has checks of its own

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON holds it; `from_dict` gives the same spec back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a spec from the object of its JSON.

        Raises:
            SpecError: An unknown field, or a value that cannot work.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for name in data:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
                raise SpecError(f"a comparison has no field {name!r}: {hint}")
        return cls(**data)

    def differences(self, other: ComparisonSpec) -> list[str]:
        """One phrase for each field in which `other` asks for something else; empty when both ask for the same."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [f"{name} is {mine[name]!r}, not {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(name: str, value: object, advice: str) -> None:
    raise SpecError(f"ComparisonSpec({name}={value!r}): {advice}")

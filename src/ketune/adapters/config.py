"""The fields that every Ketune adapter has, with PEFT's names and meaning, written once."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, cast

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from torch import nn

from ketune.errors import KetuneError

if TYPE_CHECKING:
    from ketune.adapters.update import Place, Update

CARD_HEADING = "## How to load this adapter"


class ConfigError(KetuneError, ValueError):
    """A hyper-parameter that an adapter cannot work with."""


class Checks:
    """How a config refuses a value: by its name, with the value given and what is allowed."""

    def _refuse(self, name: str, value: object, advice: str) -> NoReturn:
        raise ConfigError(f"{type(self).__name__}({name}={value!r}): {advice}")

    def _require(self, name: str, condition: bool, advice: str) -> None:
        if not condition:
            self._refuse(name, getattr(self, name), advice)

    def _choose(self, name: str, allowed: Sequence[str]) -> None:
        value = getattr(self, name)
        if value in allowed:
            return
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        self._refuse(name, value, f"choose one of {', '.join(map(repr, allowed))}{hint}")


@dataclass
class AdapterConfig(Checks, PeftConfig):
    """What all Ketune adapters share. A method subclasses it, adds its hyper-parameters and `parameter_count`.

    Raises:
        ConfigError: from `__post_init__`, naming the field, the value given and what is allowed.
    """

    method: ClassVar[str] = ""
    """Lower-case name of the method; set by `ketune.adapters.base.register`."""

    size_field: ClassVar[str] = ""
    """The field that `size_pattern` overrides; the method's size."""

    calibration_rows: ClassVar[int] = 64
    """How many training rows `calibrate` wants to see, where `needs_calibration`."""

    has_shared_part: ClassVar[bool] = False
    """Whether the tuner keeps what `make_shared` makes, a part that all layers of an adapter share.

    Such a method lives on a whole model only: PEFT refuses to inject it without a tuner (`inject_adapter_in_model`).
    Without it the update of the first layer has to keep that part, see `Update.attach`.
    """

    start_fields: ClassVar[tuple[str, ...]] = ("init_weights",)
    """Fields that only say how training starts or goes on: a trained adapter is the same function whatever they are."""

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Names (suffixes) of the linear layers to adapt, a regular expression, or 'all-linear'. "
            "None picks the query and value projections of known model types."
        },
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Names (suffixes) or a regular expression of layers to leave alone."}
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the update, in [0, 1)."})
    bias: str = field(
        default="none",
        metadata={"help": "Which of the base model's biases train: 'none', 'all' or '<method>_only'."},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train in full and save with the adapter, e.g. a new head."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Only adapt the layers with these indices; needs target_modules as a list."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers in the model, if it is not a common one."}
    )
    target_parameters: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names (suffixes) of parameters to adapt where there is no linear layer, such as fused experts' "
            "'mlp.experts.gate_up_proj'; each expert gets an update of its own. For methods linear in the layer's "
            "input. target_modules=[] adapts nothing else."
        },
    )
    size_pattern: dict[str, int] = field(
        default_factory=dict,
        metadata={
            "help": "Another size (rank, number of readouts, ...) for some layers, by name or regular expression, "
            "as in LoRA's rank_pattern."
        },
    )
    init_weights: bool = field(
        default=True,
        metadata={"help": "True: the adapted model starts exactly as the base model. False: random (for tests)."},
    )
    combined: list[dict[str, Any]] | None = field(
        default=None,
        metadata={"help": "Written by add_weighted_adapter: the weights and configs of the adapters it adds up."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.method:
            raise TypeError(f"{type(self).__name__} is not registered; call ketune.adapters.base.register(...) first")
        from ketune.adapters._peft_types import ensure_peft_type

        self.peft_type = ensure_peft_type(self.method.upper())
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        for name in ("layers_to_transform", "layers_pattern"):
            if isinstance(self.target_modules, str) and getattr(self, name) is not None:
                self._refuse(name, getattr(self, name), f"pass target_modules as a list of names to use {name}")
        if self.layers_pattern and self.layers_to_transform is None:
            self._refuse("layers_pattern", self.layers_pattern, "pass layers_to_transform as well")
        self._require("dropout", 0.0 <= self.dropout < 1.0, "must be in [0, 1)")
        if self.target_parameters is not None:
            advice = "pass a list of names; regular expressions are not supported"
            self._require("target_parameters", not isinstance(self.target_parameters, str), advice)
            self.target_parameters = sorted(self.target_parameters)
            advice = "must be 0 with target_parameters, whose inputs are not seen"
            self._require("dropout", not self.target_parameters or self.dropout == 0, advice)
        self._choose("bias", ("none", "all", f"{self.method}_only"))

    def for_module(self, name: str) -> Self:
        """The config for the module of this name: with the size that `size_pattern` gives it and a seed of its own."""
        if self.combined:
            from ketune.adapters.combining import changed_parts

            return cast(Self, changed_parts(self, lambda part: part.for_module(name)))
        changes: dict[str, Any] = {}
        key = get_pattern_key(list(self.size_pattern), name)
        if key in self.size_pattern:
            changes = {self.size_field: self.size_pattern[key], "size_pattern": {}}
        if hasattr(self, "seed"):
            changes["seed"] = module_seed(self.seed, name)  # pyright: ignore[reportAttributeAccessIssue]
        return replace(self, **changes) if changes else self

    def for_expert(self, number: int) -> Self:
        """The config for one matrix of a stack of them: with a seed of its own."""
        if self.combined:
            from ketune.adapters.combining import changed_parts

            return cast(Self, changed_parts(self, lambda part: part.for_expert(number)))
        if not hasattr(self, "seed"):
            return self
        seed = module_seed(self.seed, str(number))  # pyright: ignore[reportAttributeAccessIssue]
        return replace(self, seed=seed)  # pyright: ignore[reportCallIssue]

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """Number of trainable parameters that this method adds to one linear layer of the given shape, exactly."""
        raise NotImplementedError

    def model_parameter_count(self, shapes: Sequence[tuple[int, int]]) -> int:
        """The same for all layers of an adapter together, which is more or less than a sum where they share a part.

        Args:
            shapes: (in_features, out_features) of each layer, in the model's order; a parameter that holds the weights
                of several experts counts as so many layers.
        """
        return sum(self.parameter_count(*shape) for shape in shapes)

    def make_shared(self, places: Sequence[Place]) -> nn.Module | None:
        """The part that all layers of the adapter share, or None; called once, when the layers are known.

        Each update receives it through `Update.attach`. It is saved with the adapter: by the tuner for methods with
        `has_shared_part`, else with the update that keeps it.

        Args:
            places: every layer of the adapter, in the model's order.
        """
        return None

    @property
    def needs_calibration(self) -> bool:
        """Whether `calibrate` has to see a few batches before training starts."""
        return False

    def calibrate(self, model: nn.Module, batches: Iterable[dict[str, torch.Tensor]], adapter_name: str) -> None:
        """Set data-dependent starting values; each item of `batches` holds keyword arguments of the model."""

    def wrap_optimizer(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, adapter_name: str, total_steps: int
    ) -> torch.optim.Optimizer:
        """Give the method its own update rule around the trainer's optimiser; the default leaves it as it is."""
        return optimizer

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save `adapter_config.json` as PEFT does, and put the loading lines into the model card beside it."""
        super().save_pretrained(save_directory, **kwargs)
        describe_loading(Path(save_directory) / "README.md", self.method)

    @classmethod
    def help(cls) -> dict[str, str]:
        """The help text of each field, for command lines and documentation."""
        return {f.name: f.metadata["help"] for f in fields(cls) if "help" in f.metadata}

    def make_update(self, in_features: int, out_features: int) -> Update:
        """Build the trainable update for one layer; filled in by `register`."""
        raise NotImplementedError


def module_seed(seed: int, name: str) -> int:
    """A seed for one module, from the adapter's seed and the end of the module's name.

    Names are read from the number of the block on ("0.attn.q_proj"), so that a model finds its start again under
    another wrapper or head.
    """
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return zlib.crc32(".".join(parts[first:]).encode(), seed & 0xFFFFFFFF)


def _as_set(value: Any) -> Any:
    return set(value) if isinstance(value, list | tuple) else value


def describe_loading(card: Path, method: str) -> None:
    """Add the section on loading to a model card, once; PEFT alone cannot know that the import is needed."""
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if CARD_HEADING in text:
        return
    title = method.upper().replace("_", " ")
    section = (
        f"\n{CARD_HEADING}\n\n"
        f"This is a {title} adapter made with Ketune. PEFT learns about it on `import ketune`, so keep that line:\n\n"
        "```python\n"
        "import ketune  # registers the method with PEFT\n"
        "from peft import AutoPeftModelForCausalLM\n\n"
        'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")\n'
        "```\n\n"
        'or, with base model and adapter in one call, `model = ketune.load("path/to/this/folder")`.\n'
    )
    staged = card.with_suffix(".md.tmp")
    staged.write_text(text.rstrip("\n") + "\n" + section if text else section.lstrip("\n"), encoding="utf-8")
    staged.replace(card)

"""RoSTE: rotations chosen for each block by what quantising costs with and without them, then training through them.

Source: Wei et al. 2025, "RoSTE: An Efficient Quantization-Aware Supervised Fine-Tuning Approach for Large Language
Models", arXiv 2502.09003. The lower level (which of identity and Hadamard each rotation is) is solved on the weights
before training, from a few calibration prompts; the upper level is training with straight-through gradients, for which
any trainer serves. Differences from the authors' code: errors are relative to what is quantised, so that weights count
beside activations with outliers (`norm` has the others); they cover every tensor that a rotation turns; both choices
see the same inputs, those of the model in full precision; and the rotation of the residual stream is compared too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from ketune.quantization.errors_of_rotations import NORMS, Batch, Errors, measure_errors
from ketune.quantization.prepare import QuantizeConfig, prepare_
from ketune.quantization.rotations import KINDS, RotationPlace, rotate_residual, rotation_places
from ketune.quantization.schemes import QuantizationError, QuantizationScheme, as_scheme

CHOICES = ("adaptive", "always", "never")


@dataclass(frozen=True)
class RosteConfig:
    """How a model is rotated and quantised.

    Attributes:
        scheme: A `QuantizationScheme`, or its spelling: "w4a4kv4".
        rotations: "adaptive": each block's R2, R3 and R4 where they lower the error. "always" is SpinQuant's way
            without learned rotations, and "never" plain straight-through training.
        residual: R1, which turns the residual stream of the whole model: True, False, or "auto": where it lowers the
            error of the whole model ("adaptive" only; holds a second copy of the model for a moment).
        kinds: Which of "R2", "R3", "R4" may be used.
        norm: Of the errors that are compared: "relative", "frobenius" (the paper's) or "mean" (the code's).
        seed: Of R1's signs.

    Raises:
        QuantizationError: A value that is none of these.
    """

    scheme: QuantizationScheme | str = "w4a4kv4"
    rotations: str = "adaptive"
    residual: bool | str | None = None
    kinds: tuple[str, ...] = KINDS
    norm: str = "relative"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", as_scheme(self.scheme))
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if self.residual is None:
            default = {"adaptive": "auto", "always": True}.get(self.rotations, False)
            object.__setattr__(self, "residual", default)
        for name, value, allowed in (
            ("rotations", self.rotations, CHOICES),
            ("norm", self.norm, NORMS),
            ("residual", self.residual, (True, False, "auto")),
            *(("kinds", kind, KINDS) for kind in self.kinds),
        ):
            if value not in allowed:
                raise QuantizationError(f"RosteConfig({name}={value!r}): choose from {', '.join(map(repr, allowed))}")
        if self.residual == "auto" and self.rotations != "adaptive":
            raise QuantizationError(
                f"RosteConfig(residual='auto', rotations={self.rotations!r}): 'auto' compares errors, which only "
                "rotations='adaptive' measures; pass True or False"
            )


@dataclass(frozen=True)
class Choice:
    """One rotation that was decided: what quantising costs without and with it, and whether the model has it.

    `plain` and `rotated` are None where nothing was measured.
    """

    kind: str
    place: str
    plain: float | None
    rotated: float | None
    chosen: bool


@dataclass(frozen=True)
class RosteReport:
    """What was decided, and what it costs.

    Attributes:
        choices: R1 first, if it was compared; then every block's.
        error: Of the whole model with what was chosen, in the norm that was asked for; None if nothing was measured.
        error_never, error_always: With none and with all of R2 to R4, R1 being as it was chosen.
        n_prompts: Calibration prompts that were seen.
    """

    choices: tuple[Choice, ...]
    error: float | None = None
    error_never: float | None = None
    error_always: float | None = None
    n_prompts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        counts = []
        for kind in ("R1", *KINDS):
            of_kind = [choice for choice in self.choices if choice.kind == kind]
            if of_kind:
                counts.append(f"{kind} {sum(choice.chosen for choice in of_kind)} of {len(of_kind)}")
        errors = (
            ""
            if self.error is None
            else f"; error {self.error:.4g} (none {self.error_never:.4g}, all {self.error_always:.4g})"
        )
        return f"rotations: {', '.join(counts) or 'none'}{errors}"


def prepare_roste_(
    model: PreTrainedModel, config: RosteConfig, batches: Callable[[], Iterable[Batch]] | Sequence[Batch] = ()
) -> RosteReport:
    """Rotate a model as RoSTE chooses and give it fake quantisers. Changes the model.

    Train it then with any trainer; `quantize_(model, QuantizeConfig(config.scheme, step="convert"))` turns the result
    into codes that compute the same to the last bit.

    Args:
        model: A causal language model in full precision, of a type in `layouts.ARCHITECTURES` (any model for
            rotations="never").
        config: How.
        batches: Calibration prompts as keyword arguments of the model; RoSTE takes 128 prompts of the training rows.
            Only needed for "adaptive". A list, or a function that gives them anew.

    Returns:
        What was chosen.

    Raises:
        QuantizationError: For a model type that rotations do not know, groups that do not fill the rows, a model that
            is quantised already, or "adaptive" without prompts.
    """
    scheme = as_scheme(config.scheme)
    if config.rotations == "never" and not config.residual:
        prepare_(model, QuantizeConfig(scheme))
        return RosteReport(())
    prompts: list[Batch] = list(batches() if callable(batches) else batches)
    if config.rotations == "adaptive" and not prompts:
        raise QuantizationError("rotations='adaptive' compares errors on calibration prompts; pass batches of them")
    choices: list[Choice] = []
    residual = config.residual
    if residual == "auto":
        plain, rotated = (_error_with(copy.deepcopy(model), config, prompts, on) for on in (False, True))
        residual = rotated < plain
        choices.append(Choice("R1", "residual stream", plain, rotated, residual))
    elif residual:
        choices.append(Choice("R1", "residual stream", None, None, True))
    _build(model, config, bool(residual))
    report = choose_rotations_(model, config, prompts)
    return RosteReport(
        (*choices, *report.choices), report.error, report.error_never, report.error_always, report.n_prompts
    )


def choose_rotations_(model: PreTrainedModel, config: RosteConfig, batches: Iterable[Batch] = ()) -> RosteReport:
    """Choose R2, R3 and R4 of a prepared model anew and set them. Changes the model.

    The weights that train are not rotated, so this may be repeated during training (the paper's K > 1): the function
    in full precision and what an optimiser remembers stay valid.
    """
    places = _places(model, config)
    for place in places:
        place.set(model, on=False)
    if config.rotations != "adaptive":
        on = config.rotations == "always"
        for place in places:
            place.set(model, on=on)
        return RosteReport(tuple(Choice(p.kind, p.consumer, None, None, on) for p in places))
    prompts = list(batches)
    errors = measure_errors(model, places, prompts, config.norm)
    choices, chosen = [], _lower(errors, places)
    for place in places:
        plain, rotated = errors.of_place(place)
        place.set(model, on=place in chosen)
        choices.append(Choice(place.kind, place.consumer, plain, rotated, place in chosen))
    return RosteReport(
        tuple(choices),
        errors.total(chosen),
        errors.total(()),
        errors.total(places),
        sum(len(batch["input_ids"]) for batch in prompts),
    )


def _error_with(model: PreTrainedModel, config: RosteConfig, prompts: Sequence[Batch], residual: bool) -> float:
    """The lowest error of the whole model with and without R1; uses the model up."""
    _build(model, config, residual)
    places = _places(model, config)
    errors = measure_errors(model, places, prompts, config.norm)
    return errors.total(_lower(errors, places))


def _build(model: PreTrainedModel, config: RosteConfig, residual: bool) -> None:
    if residual:
        rotate_residual(model, config.seed)
    prepare_(model, QuantizeConfig(config.scheme))


def _places(model: PreTrainedModel, config: RosteConfig) -> list[RotationPlace]:
    """The places of the asked kinds that this model, as it is quantised, has a use for."""
    places = (place for place in rotation_places(model) if place.kind in config.kinds)
    return [place for place in places if place.why_not(model) is None]


def _lower(errors: Errors, places: Sequence[RotationPlace]) -> list[RotationPlace]:
    """The places whose rotation lowers the error; of equals, without."""
    pairs = ((place, errors.of_place(place)) for place in places)
    return [place for place, (plain, rotated) in pairs if rotated < plain]

"""From what was asked to what will be run: methods sized to one budget, their controls, their learning rates."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.comparison.experiments import (
    Experiment,
    ExperimentError,
    around,
    read_user_experiment,
    unique_names,
    write_experiment,
)
from ketune.comparison.spec import BUDGET_RANK, BUNDLED_MODEL, BUNDLED_RATES, ComparisonSpec, SpecError
from ketune.errors import KetuneError
from ketune.files import write_atomically

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from ketune.adapters import Method

COMPARISON = "comparison.json"
GRID = 3
"""Learning rates of the grid that tuning starts with."""
_UNKNOWN_RATE = 1e-3  # for a PEFT method that neither its folder nor our registry knows a rate of


@dataclass(frozen=True)
class Plan:
    """What a comparison runs, with every choice made that needs the model or the data.

    Attributes:
        spec: What was asked.
        experiments: In the order of the report.
        budget: The count that methods were sized to; None when no method takes a size.
        n_parameters: Parameters of the base model, tied ones once.
        data_fingerprint: Of the three splits; a resumed comparison refuses other data.
        notes: Sentences for the report.
    """

    spec: ComparisonSpec
    experiments: tuple[Experiment, ...]
    budget: int | None
    n_parameters: int
    data_fingerprint: str
    notes: tuple[str, ...] = ()

    def cells(self) -> list[tuple[Experiment, int]]:
        """All cells, seed by seed, so that a comparison that was stopped early still compares all methods."""
        return [(experiment, seed) for seed in self.spec.seeds for experiment in self.experiments]


def prepare(spec: ComparisonSpec, out: Path) -> Plan:
    """Read the plan that stands in `out`, or make it and write it down.

    Raises:
        SpecError: Another comparison stands in `out`, or its data changed since.
        KetuneError: The model, the data, the budget or an experiment folder cannot be used.
    """
    if not (out / COMPARISON).exists():
        if any((out / "results").glob("*.json")):
            raise SpecError(f"{out}: holds results but no {COMPARISON}; pass another folder with --out")
        plan, configs = make_plan(spec)
        write_plan(plan, configs, out)
        return plan
    plan = read_plan(out)
    if differences := plan.spec.differences(spec):
        raise SpecError(
            f"{out}: another comparison stands here ({'; '.join(differences)}); "
            "ask for the same again to finish it, or pass another folder with --out"
        )
    if (found := load_data(spec).fingerprint) != plan.data_fingerprint:
        raise SpecError(
            f"{out}: the data {spec.data!r} changed since this comparison began ({plan.data_fingerprint} then, "
            f"{found} now); pass another folder with --out"
        )
    return plan


def load_data(spec: ComparisonSpec) -> Any:
    """The task that the spec names, as `ketune.finetuning.TaskData`."""
    from ketune.finetuning import load_task

    limits = {"train": spec.n_train, "validation": spec.n_validation, "test": spec.n_test}
    return load_task(
        spec.data,
        template=spec.template,
        train=spec.train,
        validation=spec.validation,
        test=spec.test,
        columns=spec.columns,
        limit={split: n for split, n in limits.items() if n is not None},
        seed=0,  # splits are the same for all cells; the cell's seed orders the training rows
    )


def make_plan(spec: ComparisonSpec) -> tuple[Plan, list[PeftConfig | None]]:
    """Size every method, read the user's folders, load the data once to see that it is there.

    Returns:
        The plan and, for each of its experiments, the adapter's configuration (None for full fine-tuning).

    Raises:
        KetuneError: The model, the data, the budget or an experiment folder cannot be used.
    """
    from ketune.adapters.counting import count_parameters, count_trainable, meta_model

    data = load_data(spec)
    model = meta_model(spec.model, trust_remote_code=spec.trust_remote_code)
    n_parameters = count_parameters(model)
    methods = _methods(spec, model)
    budget = _budget(spec, methods, model, n_parameters)
    found: list[tuple[Experiment, PeftConfig | None]] = []
    sized, left_out = _sized(spec, methods, model, budget, n_parameters)
    for name, config, count in sized:
        method = methods[name]
        usual = BUNDLED_RATES.get(name) if spec.model == BUNDLED_MODEL else None
        rate = spec.learning_rates.get(name) or usual or method.learning_rate
        tuned = spec.tune_lr and name not in spec.learning_rates
        main = Experiment(
            method=name,
            name="default",
            learning_rate=rate,
            learning_rates=_grid(method, rate, min(spec.lr_trials, GRID)) if tuned else (),
            control=getattr(config, "control", None),
            n_trainable=count,
            budget=None if config is None else budget,
        )
        found.append((main, config))
        if spec.controls and config is not None:
            for control in method.controls:
                other = method.with_control(config, control)
                size = count_trainable(model, other)
                found.append((replace(main, name=f"control-{control}", control=control, n_trainable=size), other))
    for folder in spec.experiments:
        experiment, config = _user_experiment(spec, folder, methods)
        try:
            size = count_trainable(model, config)
        except ValueError as error:  # PEFT's: no module matches, no default targets for this model, ...
            raise ExperimentError(f"{folder}: {' '.join(str(error).split())}") from error
        found.append((replace(experiment, n_trainable=size), config))
    found, unquantized = _quantized(spec, found)
    experiments = unique_names([experiment for experiment, _ in found])
    notes = (*data.notes, *left_out, *unquantized)
    plan = Plan(spec, tuple(experiments), budget, n_parameters, data.fingerprint, notes)
    return plan, [config for _, config in found]


def _methods(spec: ComparisonSpec, model: PreTrainedModel) -> dict[str, Method]:
    """The registry, with every method on the same modules of this model.

    Raises:
        KetuneError: Nobody knows which, or those asked for are not there.
    """
    from ketune.adapters import METHODS, ConfigError
    from ketune.adapters.counting import hidden_width
    from ketune.adapters.targeting import choose_targets, with_targets

    methods = {name: method.at_width(hidden_width(model)) for name, method in METHODS.items()}
    if not any(METHODS[name].configure for name in spec.methods):
        return methods
    targets = choose_targets(model, spec.target_modules)
    for name in {*spec.methods, "lora"}:  # and no others: a model may have no place for one that nobody asked for
        try:
            methods[name] = with_targets(methods[name], model, targets)
        except ConfigError:
            if not spec.only_fitting:
                raise  # else `_sized` meets it again, and leaves the method out
    return methods


def _budget(spec: ComparisonSpec, methods: dict[str, Method], model: PreTrainedModel, n_parameters: int) -> int | None:
    """The budget as a count. None asks for what LoRA of rank `BUDGET_RANK` needs."""
    from ketune.adapters.counting import count_trainable, parse_budget

    if spec.budget is not None:
        return parse_budget(spec.budget, n_parameters)
    if all(name == "full" for name in spec.methods):
        return None
    return count_trainable(model, methods["lora"].config(BUDGET_RANK))


def _sized(
    spec: ComparisonSpec, methods: dict[str, Method], model: PreTrainedModel, budget: int | None, n_parameters: int
) -> tuple[list[tuple[str, PeftConfig | None, int]], list[str]]:
    """Name, configuration and exact count of each method, as large as the budget lets it be; what was left out and why.

    Raises:
        SpecError: The budget is too small for some methods; names the smallest count for each of them. With
            `only_fitting` that is a note, unless nothing fits.
    """
    from ketune.adapters.counting import BudgetTooSmall, fit_budget

    found, too_small, unfit = [], {}, []
    for name in spec.methods:
        if methods[name].configure is None or budget is None:
            found.append((name, None, n_parameters))
            continue
        try:
            sized = fit_budget(methods[name], model, budget)
        except BudgetTooSmall as error:
            too_small[name] = error.smallest
        except ValueError as error:  # PEFT's, and ConfigError: the model has no place for this method
            if not spec.only_fitting:
                raise
            unfit.append(f"{name} was left out: {' '.join(str(error).split())}")
        else:
            found.append((name, sized.config, sized.count))
    needs = ", ".join(f"{name} needs at least {count:,}" for name, count in too_small.items())
    if too_small and (not spec.only_fitting or not (found or spec.experiments)):
        raise SpecError(
            f"a budget of {budget:,} parameters is too small: {needs}; "
            f"pass a budget of {max(too_small.values()):,} or more, or leave these methods out"
        )
    if not (found or spec.experiments):
        raise SpecError(f"no method can be run on this model: {'; '.join(unfit)}")
    if too_small:
        unfit.append(f"The budget of {budget:,} parameters is too small for some methods: {needs}.")
    return found, unfit


def _quantized(
    spec: ComparisonSpec, found: list[tuple[Experiment, PeftConfig | None]]
) -> tuple[list[tuple[Experiment, PeftConfig | None]], list[str]]:
    """Every experiment in every way of quantising that it can be trained with; notes about the others.

    Raises:
        SpecError: When no method can be trained in any of the ways.
    """
    from ketune.finetuning.quantizing import QuantizedTraining

    if not spec.quantization:
        return found, []
    every, notes = [], []
    for text in spec.quantization:
        way = QuantizedTraining.parse(text)
        for experiment, config in found:
            if way is None:
                every.append((experiment, config))
            elif config is None and not way.trains_through:
                notes.append(f"{experiment.method} with {way} was left out: it leaves no weight of the base to train.")
            else:
                suffix = str(way).replace(":", "-")
                name = suffix if experiment.name == "default" else f"{experiment.name}-{suffix}"
                rates = {}
                if way.learning_rate is not None and experiment.method not in spec.learning_rates:
                    grid = around(way.learning_rate, len(experiment.learning_rates)) if spec.tune_lr else ()
                    rates = {"learning_rate": way.learning_rate, "learning_rates": grid}
                every.append((replace(experiment, name=name, quantization=str(way), **rates), config))
    if not every:
        raise SpecError(f"nothing can be run: {' '.join(notes)} Name an adapter among the methods")
    return every, notes


def _grid(method: Method, rate: float, n_trials: int) -> tuple[float, ...]:
    """The `n_trials` rates of the method's own grid that lie around `rate`; every method gets the same number."""
    own = sorted(method.learning_rates)
    if rate not in own or len(own) < n_trials:
        return around(rate, n_trials)
    first = min(max(own.index(rate) - n_trials // 2, 0), len(own) - n_trials)
    return tuple(own[first : first + n_trials])


def _user_experiment(spec: ComparisonSpec, folder: str, registry: dict[str, Method]) -> tuple[Experiment, PeftConfig]:
    from ketune.comparison.experiments import read_config

    config = read_config(Path(folder)) if Path(folder).is_dir() else None
    kind = str(getattr(getattr(config, "peft_type", ""), "value", "")).lower()
    known = {"prefix_tuning": "prefix"}.get(kind, kind)
    rate = registry[known].learning_rate if known in registry else _UNKNOWN_RATE
    return read_user_experiment(folder, rate, around(rate, min(spec.lr_trials, GRID)) if spec.tune_lr else ())


def write_plan(plan: Plan, configs: list[PeftConfig | None], out: Path) -> None:
    """Write the experiment folders and then `comparison.json`, so that its standing means that all of it stands."""
    from ketune import __version__

    for experiment, config in zip(plan.experiments, configs, strict=True):
        write_experiment(out, experiment, config, plan.spec.training, plan.spec.model)
    content = plan.spec.to_dict() | {
        "ketune_version": __version__,
        "created_at": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "resolved": {
            "budget": plan.budget,
            "n_parameters": plan.n_parameters,
            "data_fingerprint": plan.data_fingerprint,
            "experiments": [asdict(experiment) for experiment in plan.experiments],
            "notes": list(plan.notes),
        },
    }
    write_atomically(out / COMPARISON, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_plan(out: Path) -> Plan:
    """The plan in a comparison's folder.

    Raises:
        KetuneError: There is none, or it is not ours.
    """
    path = out / COMPARISON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        resolved = content.pop("resolved")
        for name in ("ketune_version", "created_at"):
            content.pop(name)
        return Plan(
            spec=ComparisonSpec.from_dict(content),
            experiments=tuple(Experiment(**entry) for entry in resolved["experiments"]),
            budget=resolved["budget"],
            n_parameters=resolved["n_parameters"],
            data_fingerprint=resolved["data_fingerprint"],
            notes=tuple(resolved["notes"]),
        )
    except FileNotFoundError as error:
        raise KetuneError(f"{out}: no {COMPARISON}; pass the folder of a comparison") from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise KetuneError(f"{path}: not a comparison that this version of Ketune can read ({error!r})") from error

"""What a result must hold: the types of its fields, and every key that PEFT's own tooling reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ketune.errors import KetuneError

if TYPE_CHECKING:
    from ketune.comparison.results import Result

#: How a cell may have ended. PEFT spells it "canceled"; "cancelled" is read as the same.
STATUSES = ("success", "failed", "canceled")
#: What may stand in for the trained quantum part; None for methods that have no such part.
CONTROLS = (None, "trained", "frozen", "classical", "none")

_TRAIN_NUMBERS = (
    "accelerator_memory_reserved_avg",
    "accelerator_memory_max",
    "accelerator_memory_reserved_99th",
    "train_time",
    "file_size",
    "num_trainable_params",
)
_LAST_METRICS = ("test accuracy", "train loss", "train samples", "train total tokens")
_PACKAGES = ("peft-version", "transformers-version", "datasets-version", "torch-version", "bitsandbytes-version")


class ResultError(KetuneError):
    """A result that is not what this page says it is; one line that names the file where there is one."""


_TYPES: dict[str, tuple[type, ...]] = {
    "run_info.experiment_name": (str,),
    "run_info.created_at": (str,),
    "run_info.train_config": (dict,),
    "run_info.peft_config": (dict, type(None)),
    "run_info.error_msg": (str,),
    "run_info.total_time": (int, float),
    "train_info.accelerator_memory_max": (int, type(None)),
    "train_info.train_time": (int, float, type(None)),
    "train_info.file_size": (int, type(None)),
    "train_info.num_trainable_params": (int, type(None)),
    "train_info.num_total_params": (int, type(None)),
    "train_info.metrics": (list,),
    "ketune.method": (str,),
    "ketune.experiment": (str,),
    "ketune.seed": (int,),
    "ketune.budget": (int, type(None)),
    "ketune.learning_rate": (int, float, type(None)),
    "ketune.lr_trials": (list, type(None)),
    "ketune.history": (list,),
    "ketune.test": (dict,),
    "ketune.base_test": (dict, type(None)),
    "ketune.speed": (dict,),
    "ketune.memory": (dict,),
    "ketune.capacity": (dict, type(None)),
    "ketune.circuit": (dict, type(None)),
    "ketune.quantization": (str, type(None)),
    "ketune.size": (dict,),
    "ketune.samples": (list,),
    "ketune.notes": (list,),
}


def check_types(result: Result, where: str) -> None:
    """Raise ResultError, starting with `where`, for the first field whose value is not of its kind."""
    for name, allowed in _TYPES.items():
        section, key = name.split(".")
        value = getattr(getattr(result, section), key)
        if not isinstance(value, allowed) or isinstance(value, bool):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
            raise ResultError(f"{where}: {name} is {describe(value)}; expected {expected}")
    for name, value, allowed in (
        ("train_info.status", result.train_info.status, STATUSES),
        ("ketune.control", result.ketune.control, CONTROLS),
    ):
        if value not in allowed:
            raise ResultError(f"{where}: {name} is {value!r}; choose one of {', '.join(map(repr, allowed))}")
    if not result.ketune.method:
        raise ResultError(f"{where}: no method; set ketune.method, or run_info.experiment_name to '<method>/<name>'")


def missing_for_peft(data: dict[str, Any]) -> list[str]:
    """The fields that PEFT's `method_comparison/processing.py` would look up in vain, dotted."""
    run, train, meta = data["run_info"], data["train_info"], data["meta_info"]
    last = train["metrics"][-1] if train["metrics"] else {}
    missing = [f"train_info.{key}" for key in _TRAIN_NUMBERS if train.get(key) is None]
    missing += [f"train_info.metrics[-1]['{key}']" for key in _LAST_METRICS if key not in last]
    if "model_id" not in run["train_config"]:
        missing.append("run_info.train_config.model_id")
    if run["peft_config"] is not None and "peft_type" not in run["peft_config"]:
        missing.append("run_info.peft_config.peft_type")
    packages = meta.get("package_info") or {}
    missing += [f"meta_info.package_info['{key}']" for key in _PACKAGES if key not in packages]
    if "system_info" not in meta:
        missing.append("meta_info.system_info")
    return missing


def describe(value: Any) -> str:
    """`value` as an error message names it: its type and the beginning of its text."""
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"

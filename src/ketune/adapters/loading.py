"""Loading a saved adapter with its base model in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from ketune.adapters.cpu_packing import guard_packing_
from ketune.assets.names import resolve_model
from ketune.errors import KetuneError

_BY_TASK: dict[str, Any] = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "FEATURE_EXTRACTION": AutoModel,
}


def load(
    folder: str | Path,
    model: PreTrainedModel | None = None,
    *,
    adapter_name: str = "default",
    is_trainable: bool = False,
    **base_kwargs: Any,
) -> PeftModel:
    """Load an adapter, Ketune's or PEFT's own, onto its base model.

    Args:
        folder: what `save_pretrained` wrote (with `adapter_config.json`), or a hub id.
        model: the base model if it is loaded already; otherwise it is found through the adapter's config.
        adapter_name: name to give the adapter.
        is_trainable: whether training will go on; otherwise the adapter is frozen.
        base_kwargs: passed to the base model's `from_pretrained` (dtype, device_map, revision, ...).

    Returns:
        The base model with the adapter active, as PEFT's `from_pretrained` gives it.

    Raises:
        KetuneError: when the folder holds no adapter, or the config does not say which base model it belongs to.
    """
    config = read_config(folder)
    options: dict[str, Any] = {"adapter_name": adapter_name, "is_trainable": is_trainable}
    if model is not None:
        return _with_adapter(model, folder, config, options)
    if not config.base_model_name_or_path:
        raise KetuneError(f"the adapter at {str(folder)!r} does not name its base model; pass load(..., model=...)")
    auto = _BY_TASK.get(str(getattr(config.task_type, "value", config.task_type)), AutoModelForCausalLM)
    base = auto.from_pretrained(resolve_model(config.base_model_name_or_path), **base_kwargs)
    return _with_adapter(base, folder, config, options)


def _with_adapter(model: Any, folder: str | Path, config: PeftConfig, options: dict[str, Any]) -> PeftModel:
    adapted = PeftModel.from_pretrained(model, str(folder), config=config, **options)
    guard_packing_(adapted)
    return adapted


def read_config(folder: str | Path) -> PeftConfig:
    """The config of a saved adapter.

    Raises:
        KetuneError: when the folder holds no adapter, or one of a method that is not known.
    """
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, OSError) as error:
        raise KetuneError(
            f"no adapter at {str(folder)!r}: pass a folder with adapter_config.json or a hub id; "
            "a model that was fine-tuned in full is loaded with transformers' AutoModelForCausalLM"
        ) from error
    except KeyError as error:
        raise KetuneError(
            f"the adapter at {str(folder)!r} is of type {error}, which neither PEFT nor Ketune knows; "
            "upgrade peft or import the package that defines it first"
        ) from error

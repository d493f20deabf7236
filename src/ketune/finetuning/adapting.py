"""Putting an adapter on a model, and showing it data before training if it asks for some."""

from __future__ import annotations

import copy
import difflib
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model

from ketune.adapters.config import AdapterConfig
from ketune.adapters.cpu_packing import guard_packing_
from ketune.errors import ModelError, TrainingError
from ketune.finetuning.encoding import Encoded, collate
from ketune.finetuning.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adapt(
    model: PreTrainedModel | PeftModel, adapter: PeftConfig | None, gradient_checkpointing: bool = False, seed: int = 0
) -> PreTrainedModel | PeftModel:
    """Makes a model trainable: with a new adapter, with the active one it has, or with all its weights.

    Args:
        model: changed in place.
        adapter: left as it is; a copy goes into the model. None: see above.
        gradient_checkpointing: only to refuse what cannot work with it.
        seed: added to the seed of an adapter whose start is rebuilt from one, so that runs start differently.

    Raises:
        TrainingError: for a second adapter on a model that has one, or prefix tuning with gradient checkpointing.
        ModelError: if the adapter's target modules are not in the model.
    """
    if isinstance(model, PeftModel):
        if adapter is not None:
            raise TrainingError(
                f"the model already has an adapter ({', '.join(model.peft_config)}); pass adapter=None to train it "
                "further, or merge it first"
            )
        for name in model.active_adapters:
            _refuse_prefix(model.peft_config[name], gradient_checkpointing)
            _make_trainable(model, name)
        return model
    if adapter is None:
        return model.requires_grad_(True)
    _refuse_prefix(adapter, gradient_checkpointing)
    config = copy.deepcopy(adapter)
    config.task_type = config.task_type or TaskType.CAUSAL_LM
    own = getattr(config, "seed", None)
    if isinstance(own, int):
        setattr(config, "seed", own + seed)  # noqa: B010  no PEFT config declares it
    try:
        with quiet_transformers():
            return guard_packing_(get_peft_model(model, config))  # pyright: ignore[reportReturnType]
    except ValueError as error:
        if "target modules" not in str(error).lower() and "target_modules" not in str(error):
            raise
        raise ModelError(_unmatched_targets(model, config, error)) from error


def calibrate(
    model: PeftModel, sequences: Sequence[Encoded], pad_token_id: int, batch_size: int, n_rows: int | None, seed: int
) -> None:
    """Shows training rows to adapters that set their starting values from data (`needs_calibration`).

    Args:
        model: the adapted model, at its start.
        sequences: the training rows.
        pad_token_id: fills up shorter rows of a batch.
        batch_size: rows in a batch.
        n_rows: how many rows; None: the `calibration_rows` that each adapter's config asks for.
        seed: which rows are drawn.
    """
    for name in model.active_adapters:
        config: Any = model.peft_config[name]
        if not getattr(config, "needs_calibration", False):
            continue
        n = min(len(sequences), n_rows or getattr(config, "calibration_rows", AdapterConfig.calibration_rows))
        drawn = random.Random(f"ketune/calibration/{seed}").sample(range(len(sequences)), n)
        device = next(model.parameters()).device
        batches = []
        for start in range(0, n, batch_size):
            batch = collate([sequences[i] for i in drawn[start : start + batch_size]], pad_token_id)
            batches.append({key: tensor.to(device) for key, tensor in batch.items()})
        config.calibrate(model, batches, name)


def _refuse_prefix(config: PeftConfig, gradient_checkpointing: bool) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if gradient_checkpointing and kind in ("PREFIX_TUNING", "CARTRIDGE"):
        raise TrainingError(
            f"gradient_checkpointing=True: {kind} keeps its prefix in the key-value cache, which "
            "gradient checkpointing throws away; set gradient_checkpointing=False"
        )


def _make_trainable(model: PeftModel, name: str) -> None:
    """Undoes the freezing of an adapter that was loaded for inference."""
    config = model.peft_config[name]
    config.inference_mode = False
    if config.is_prompt_learning:
        model.prompt_encoder[name].requires_grad_(True)
    else:
        model.set_adapter(name)
    if not any(p.requires_grad for p in model.parameters()):
        raise TrainingError(f"adapter {name!r}: none of its parameters can be trained")


def _unmatched_targets(model: PreTrainedModel, config: PeftConfig, error: ValueError) -> str:
    """One line for target modules that the model does not have, with the names that were probably meant."""
    wanted = getattr(config, "target_modules", None)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"]
    names = sorted({name.rpartition(".")[2] for name in linear})
    near = []
    for target in sorted(wanted) if isinstance(wanted, set | list | tuple) else [str(wanted)]:
        near.extend(difflib.get_close_matches(re.sub(r"\W+", "_", target), names, n=2))
    hint = f"; did you mean {', '.join(map(repr, dict.fromkeys(near)))}?" if near else ""
    shown = sorted(wanted) if isinstance(wanted, set) else wanted
    return (
        f"target_modules={shown!r}: {'; '.join(str(error).split('. ')[:1])}; linear layers of this "
        f"{model.config.model_type} model are {', '.join(names)}{hint}"
    )

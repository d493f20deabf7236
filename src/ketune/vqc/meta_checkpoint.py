"""The state of meta-training in one safetensors file: weights, Adam's moments, the source of tasks, the history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from ketune.files import write_tensors
from ketune.vqc.initialiser import Initialiser

if TYPE_CHECKING:
    from ketune.vqc.meta_training import MetaHistory

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_COUNTS = ("n_gradients", "seconds")


def write_checkpoint(
    path: Path,
    settings: dict[str, Any],
    initialiser: Initialiser,
    optimizer: torch.optim.Adam,
    history: MetaHistory,
    generator: torch.Generator,
) -> None:
    """Writes the state beside its place and renames it.

    Args:
        path: the file; its folder is made.
        settings: what the training was called with, as JSON can hold it.
        initialiser: its weights and buffers.
        optimizer: Adam over its parameters, after at least one step.
        history: losses and counts.
        generator: on the CPU.
    """
    tensors = {f"initialiser.{name}": tensor for name, tensor in initialiser.state_dict().items()}
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        tensors |= {f"adam.{number}.{name}": optimizer.state[parameter][name] for name in _MOMENTS}
    tensors["generator"] = generator.get_state()
    tensors["losses"] = torch.tensor(history.losses, dtype=torch.float64)
    tensors["gradient_norms"] = torch.tensor(history.gradient_norms, dtype=torch.float64)
    counts = {name: getattr(history, name) for name in _COUNTS}
    write_tensors(path, tensors, {"settings": json.dumps(settings), "counts": json.dumps(counts)})


def read_checkpoint(
    path: Path,
    settings: dict[str, Any],
    initialiser: Initialiser,
    optimizer: torch.optim.Adam,
    history: MetaHistory,
    generator: torch.Generator,
) -> None:
    """Brings everything into the state that `write_checkpoint` kept.

    Raises:
        ValueError: for a file that holds something else, or the state of a training with other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dictionary
        kept, counts = json.loads(metadata["settings"]), json.loads(metadata["counts"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: no checkpoint of meta_train ({error}); delete it to start anew") from error
    given = json.loads(json.dumps(settings))
    if other := [name for name in given if kept.get(name) != given[name]]:
        name = other[0]
        raise ValueError(
            f"{path}: a checkpoint of meta_train with {name}={kept.get(name)!r}, not {given[name]!r}; go on with that, "
            "or delete the file"
        )
    prefix = "initialiser."
    initialiser.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        optimizer.state[parameter] = {
            name: tensors[f"adam.{number}.{name}"].to("cpu" if name == "step" else parameter.device)
            for name in _MOMENTS
        }
    generator.set_state(tensors["generator"])
    history.losses, history.gradient_norms = tensors["losses"].tolist(), tensors["gradient_norms"].tolist()
    for name in _COUNTS:
        setattr(history, name, counts[name])

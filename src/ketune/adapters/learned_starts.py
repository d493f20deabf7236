"""Learned starts (FLIP, Q-MAML) for the circuits of an adapter: what they are told about each layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ketune.adapters.calibration import circuits_of, collect_inputs
from ketune.vqc import Initialiser, InitialiserError

# Names of linear layers by what they do, over the model types that transformers has.
_ROLES = (
    ("q_proj", "query", "q_lin", "wq"),
    ("k_proj", "key", "k_lin", "wk"),
    ("v_proj", "value", "v_lin", "wv"),
    ("qkv", "c_attn", "query_key_value", "in_proj"),
    ("o_proj", "out_proj", "dense_4h_to_h", "attn.c_proj", "out_lin"),
    ("gate_proj", "up_proj", "c_fc", "dense_h_to_4h", "fc1", "lin1", "wi"),
    ("down_proj", "mlp.c_proj", "fc2", "lin2", "wo"),
)
PLACE_LENGTH = 3 + len(_ROLES) + 1
"""How many numbers say where a layer stands."""


def place_features(name: str, depth: float) -> Tensor:
    """Where a layer stands, (PLACE_LENGTH,): its depth from 0 to 1 with its sine and cosine, and what it does."""
    role = next((k for k, words in enumerate(_ROLES) if any(word in name for word in words)), len(_ROLES))
    kind = [float(k == role) for k in range(len(_ROLES) + 1)]
    return torch.tensor([depth, math.sin(math.pi * depth), math.cos(math.pi * depth), *kind])


def places_of(names: Sequence[str]) -> Tensor:
    """The same for all layers of an adapter by their names, (n, PLACE_LENGTH): depth is that of their block."""
    blocks = [int(found.group()) if (found := re.search(r"(?<![^.])\d+(?![^.])", name)) else 0 for name in names]
    deepest = max(blocks, default=0) or 1
    return torch.stack([place_features(name, block / deepest) for name, block in zip(names, blocks)])


def pooled(rows: Tensor) -> Tensor:
    """What a layer sees of a task, (in_features,): the mean of its inputs (n, in_features), at unit mean square."""
    mean = rows.float().mean(0)
    return mean * mean.square().mean().clamp_min(1e-12).rsqrt()


def tasks_for(initialiser: Initialiser, places: Tensor, states: Sequence[Tensor] | None) -> list[Tensor]:
    """What a start is told about each layer: its place, and for one that is long enough for it what the layer sees.

    Args:
        initialiser: the start; `n_task` says how much it is told: PLACE_LENGTH, or that and the layers' input width.
        places: (n, PLACE_LENGTH) of `places_of`.
        states: (in_features,) of `pooled` for each layer; None where they are not known.

    Raises:
        InitialiserError: when the start was made for another number of inputs.
    """
    n_task = int(getattr(initialiser, "n_task", PLACE_LENGTH))
    if n_task == PLACE_LENGTH:
        return list(places)
    told = [] if states is None else [torch.cat([place.to(s), s]) for place, s in zip(places, states)]
    if not told or any(len(task) != n_task for task in told):
        widths = sorted({len(task) - PLACE_LENGTH for task in told})
        raise InitialiserError(
            f"this learned start was made for {n_task} numbers about a task; a layer's place has {PLACE_LENGTH}, and "
            f"its input {', '.join(map(str, widths)) or 'is not known'}: meta-train one for this model"
        )
    return told


@torch.no_grad()
def start_angles(
    model: nn.Module,
    initialiser: Initialiser,
    batches: Iterable[Mapping[str, Tensor]],
    adapter_name: str = "default",
) -> None:
    """Starts every circuit of an adapter where a learned start says.

    Args:
        model: a model with QAA adapters.
        initialiser: the start, trained by `ketune.finetuning.meta_train_starts`.
        batches: keyword arguments of the model: the support rows that Q-MAML is told about, pooled layer by layer.
        adapter_name: which adapter.

    Raises:
        InitialiserError: when the model has no such circuits, or the start was made for others.
    """
    circuits = circuits_of(model, adapter_name)
    if not circuits:
        raise InitialiserError(f"adapter {adapter_name!r} has no circuit that a learned start could start")
    places = places_of(list(circuits))
    states = None
    if int(getattr(initialiser, "n_task", PLACE_LENGTH)) != PLACE_LENGTH:
        inputs = collect_inputs(model, {name: model.get_submodule(name) for name in circuits}, batches)
        states = [pooled(rows) for rows in inputs.values()]
    parameter = next(initialiser.parameters())
    for features, task in zip(circuits.values(), tasks_for(initialiser, places, states)):
        features.turns.restart(initialiser(features.circuit, task.to(parameter)))

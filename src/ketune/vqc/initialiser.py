"""What every learned start is: a module that gives a circuit its angles, and that one file keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ketune.circuits import Circuit
from ketune.errors import KetuneError
from ketune.files import write_tensors

INITIALISERS: dict[str, type[Initialiser]] = {}
"""The kinds of learned starts by name; a subclass enters itself."""


class InitialiserError(KetuneError, ValueError):
    """A file that holds no learned start, or a start that does not fit."""


class Initialiser(nn.Module):
    """A learned start: circuit and task to angles.

    Subclasses set `kind`, implement `forward` and `settings`, and are then saved and loaded by this class.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.kind:
            INITIALISERS[cls.kind] = cls

    def forward(self, circuit: Circuit, task: Tensor) -> Tensor:
        """Starting angles.

        Args:
            circuit: the circuit to start.
            task: (..., n_task) numbers about the task; see the subclass.

        Returns:
            (..., circuit.n_angles) angles in radians.
        """
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Writes weights and settings to one safetensors file, beside its place first and then renamed."""
        write_tensors(Path(path), self.state_dict(), {"kind": self.kind, "settings": json.dumps(self.settings())})


def load_initialiser(path: str | Path) -> Initialiser:
    """Reads what `Initialiser.save` wrote.

    Raises:
        InitialiserError: when there is no such file, or it holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dictionary
    except (OSError, SafetensorError) as error:
        raise InitialiserError(f"{path}: no file of a learned start ({error}); Initialiser.save writes one") from error
    kind = metadata.get("kind", "")
    if kind not in INITIALISERS:
        known = ", ".join(map(repr, INITIALISERS)) or "none"
        raise InitialiserError(f"{path}: holds the kind {kind!r} of start; known kinds are {known}")
    try:
        initialiser = INITIALISERS[kind](**json.loads(metadata["settings"]))
        initialiser.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InitialiserError(f"{path}: this {kind!r} start is damaged ({error}); train and save it anew") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise InitialiserError(f"{path}: this {kind!r} start has weights that are not finite; train it anew")
    return initialiser

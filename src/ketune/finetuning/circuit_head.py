"""A quantum circuit as the head of a language model: the last token's hidden state, a few wires, classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ketune.circuits import ring_rxryrz, rxryrz_ring
from ketune.errors import ModelError
from ketune.files import write_atomically, write_tensors
from ketune.vqc.classifier import CircuitClassifier, ParameterCounts
from ketune.vqc.reducers import DenseReducer, TTReducer

CONFIG_FILE = "circuit_head.json"
WEIGHTS_FILE = "circuit_head.safetensors"

ORDERS = {"rotations_first": rxryrz_ring, "entangler_first": ring_rxryrz}
"""Circuits of the head by where the CNOTs of a layer stand."""

REDUCERS = ("linear", "tt")
"""Ways from the hidden width to the wires."""


@dataclass(frozen=True)
class CircuitHeadConfig:
    """What a `CircuitHead` is made of.

    Args:
        hidden_size: width of the hidden states.
        n_classes: number of classes.
        n_wires: wires of the circuit.
        n_layers: layers of RX, RY, RZ and a ring of CNOTs.
        order: "rotations_first" or "entangler_first".
        reducer: "linear", or "tt" for a tensor train.
        max_rank: ranks of the train.
        angle_map: one of `ketune.vqc.angle_maps.ANGLE_MAPS`.
        block: "circuit", or a control in its place: "linear" (as many parameters), "frozen" (random angles), "none".
        head: "linear" or "temperature", from readouts to classes.
        start: one of `ketune.vqc.STARTS` for the angles.
        seed: of all weights.

    Raises:
        ValueError: for an unknown order or reducer; the other fields are checked when the head is made.
    """

    hidden_size: int
    n_classes: int
    n_wires: int = 6
    n_layers: int = 2
    order: str = "rotations_first"
    reducer: str = "linear"
    max_rank: int = 4
    angle_map: str = "pi_tanh"
    block: str = "circuit"
    head: str = "linear"
    start: str = "uniform"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order={self.order!r}: choose one of {', '.join(map(repr, ORDERS))}")
        if self.reducer not in REDUCERS:
            raise ValueError(f"reducer={self.reducer!r}: choose one of {', '.join(map(repr, REDUCERS))}")

    def make(self) -> CircuitClassifier:
        """The classifier of hidden states."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.reducer == "tt":
            encoder = TTReducer(
                self.hidden_size, self.n_wires, max_rank=self.max_rank, bias="vector", generator=generator
            )
        else:
            encoder = DenseReducer(self.hidden_size, self.n_wires, generator)
        return CircuitClassifier(
            encoder,
            ORDERS[self.order](self.n_wires, self.n_layers),
            self.n_classes,
            angle_map=self.angle_map,
            block=self.block,
            head=self.head,
            start=self.start,
            seed=self.seed,
        )


class CircuitHead(nn.Module):
    """Hidden states to logits, in the place of `model.score` of an `AutoModelForSequenceClassification`.

    Hidden states are normalised to mean 0 and variance 1 (without weights), reduced to one number per wire, and
    classified by a `CircuitClassifier`. In a model that `add_circuit_head` prepared, only the last token of each row,
    which is all that the model reads, goes through the circuit; padding on either side is minded. It stays in float32
    whatever the model's type and autocast are.

    Args:
        config: what it is made of.

    Example:
        >>> head = CircuitHead(CircuitHeadConfig(hidden_size=32, n_classes=3, n_wires=4))
        >>> head(torch.randn(2, 7, 32)).shape
        torch.Size([2, 7, 3])
    """

    def __init__(self, config: CircuitHeadConfig) -> None:
        super().__init__()
        self.config = config
        # Not "classifier": for sequence classification PEFT copies every module that ends in that name or in "score".
        self.hybrid = config.make()
        self._rows: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden_size) to logits (..., n_classes)."""
        rows = self._rows
        if rows is None or hidden.ndim != 3 or len(rows) != len(hidden):
            return self._classify(hidden)
        last = hidden[torch.arange(len(hidden), device=hidden.device), rows.to(hidden.device)]
        return self._classify(last)[:, None].expand(-1, hidden.shape[1], -1)

    def _classify(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            normal = F.layer_norm(hidden.float(), hidden.shape[-1:])
            return self.hybrid(normal)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CircuitHead:
        def keep_precision(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            return tensor.to(out.device) if out.dtype in (torch.float16, torch.bfloat16) else out

        super()._apply(keep_precision, recurse)
        return self

    def count_parameters(self) -> ParameterCounts:
        """Trainable parameters, quantum and classical apart."""
        return self.hybrid.count_parameters()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the weights as safetensors and the config as JSON, each whole or not at all."""
        folder = Path(folder)
        write_tensors(folder / WEIGHTS_FILE, self.state_dict())
        write_atomically(folder / CONFIG_FILE, json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CircuitHead:
        """Reads what `save_pretrained` wrote.

        Raises:
            ModelError: when the folder holds no head, or a damaged one.
        """
        folder = Path(folder)
        try:
            head = cls(CircuitHeadConfig(**json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))))
            head.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except FileNotFoundError as error:
            raise ModelError(
                f"{folder}: holds no circuit head ({error}); CircuitHead.save_pretrained writes one"
            ) from error
        except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder}: the circuit head is damaged ({error}); train and save it anew") from error
        return head


def add_circuit_head(
    model: PreTrainedModel, head: CircuitHead | None = None, *, freeze: bool = True, **settings: Any
) -> CircuitHead:
    """Replaces the score layer of a sequence classifier by a circuit head, in place.

    Then train it with transformers' Trainer; with PEFT, name it: `LoraConfig(..., modules_to_save=["score"])`. To load
    such an adapter, give its base a head with the same settings first.

    Args:
        model: an `AutoModelForSequenceClassification` whose `score` reads hidden states of every token (GPT-2, GPT-Neo,
            Llama, Mistral, Qwen and most decoders).
        head: the head, such as one loaded by `CircuitHead.from_pretrained`; None makes one.
        freeze: stops the gradients of all else.
        settings: for `CircuitHeadConfig`, when a head is made.

    Returns:
        the head, which is `model.score`.

    Raises:
        ModelError: for a model without such a layer, or a head of another width or number of classes.
    """
    score = getattr(model, "score", None)
    if not isinstance(score, (nn.Linear, CircuitHead)):
        raise ModelError(
            f"{type(model).__name__} has no layer 'score' to replace; load the model by "
            "AutoModelForSequenceClassification, of a decoder"
        )
    width = score.in_features if isinstance(score, nn.Linear) else score.config.hidden_size
    n_classes = int(model.config.num_labels or 0)
    if head is None:
        head = CircuitHead(CircuitHeadConfig(width, n_classes, **settings))
    elif (head.config.hidden_size, head.config.n_classes) != (width, n_classes):
        raise ModelError(
            f"a head from width {head.config.hidden_size} to {head.config.n_classes} classes; {type(model).__name__} "
            f"has width {width} and num_labels={n_classes}"
        )
    if freeze:
        model.requires_grad_(False)
    place = next(model.parameters()).device
    model.score = head.to(place)
    if not getattr(model, "_tells_rows_to_circuit_heads", False):
        model.register_forward_pre_hook(_tell_rows, with_kwargs=True)
        model.register_forward_hook(_forget_rows, always_call=True)
        model._tells_rows_to_circuit_heads = True  # type: ignore[assignment]
    return head


def _heads(model: nn.Module) -> list[CircuitHead]:
    return [module for module in model.score.modules() if isinstance(module, CircuitHead)]  # type: ignore[union-attr]


def _tell_rows(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tells the heads which token of each row the model will read, by the rule of transformers."""
    ids = args[0] if args else kwargs.get("input_ids")
    pad = model.config.get_text_config().pad_token_id  # type: ignore[union-attr]
    rows = None
    if isinstance(ids, Tensor) and pad is not None:
        places = torch.arange(ids.shape[-1], device=ids.device)
        rows = (places * (ids != pad)).argmax(-1)
    elif isinstance(ids, Tensor):
        rows = torch.full((len(ids),), ids.shape[-1] - 1, device=ids.device)
    for head in _heads(model):
        head._rows = rows


def _forget_rows(model: nn.Module, *_: Any) -> None:
    for head in _heads(model):
        head._rows = None

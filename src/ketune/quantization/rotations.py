"""Rotations in a transformer that leave its function alone and make its tensors easier to quantise.

R1 turns the residual stream, once and for all: it is merged into the embeddings, the head, and every linear layer that
reads from the stream or writes into it. The others are chosen block by block and act while the model runs:

    R2  values, head by head, and back in the output projection; both folded into weights
    R3  queries and keys after their rotary embedding, head by head; their products stay as they are
    R4  the input of the MLP's down projection; the weight is turned back

That is SpinQuant's arrangement (arXiv 2405.16406), from which RoSTE (arXiv 2502.09003) chooses. R1 has random signs;
the others are plain Hadamard matrices, as in RoSTE's code, so that nothing is added to what runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ketune.quantization.attention import NAME as KV_QUANTIZER
from ketune.quantization.hadamard import Rotation
from ketune.quantization.layouts import Heads, layout_of
from ketune.quantization.linear import QuantizedLinear
from ketune.quantization.norm_fusing import fuse_norms
from ketune.quantization.rewriting import linear_with_weight, rewrite_rows
from ketune.quantization.schemes import QuantizationError

KINDS = ("R2", "R3", "R4")


def rotate_residual(model: PreTrainedModel, seed: int = 0) -> Rotation:
    """Turn the residual stream by R1, merged into the weights; norms are fused first. Changes the model.

    The model computes the same logits up to rounding. Half precision rounds each weight anew; rotate in float32 where
    that matters.

    Args:
        model: A causal language model of a type in `layouts.ARCHITECTURES`.
        seed: Of the random signs.

    Returns:
        R1 (hidden size): hidden states of the model are `hidden R1` of what they were.

    Raises:
        QuantizationError: As `fuse_norms`.
    """
    fuse_norms(model)
    layout = layout_of(model)
    rotation = Rotation(layout.width, signs_seed=seed)
    for name in layout.embeddings:
        rewrite_rows(model.get_parameter(f"{name}.weight"), rotation)
    for name in layout.readers:
        rewrite_rows(linear_with_weight(model, name).weight, rotation)
    for name in layout.writers:
        writer = linear_with_weight(model, name)
        rewrite_rows(writer.weight.mT, rotation)
        if writer.bias is not None:
            rewrite_rows(writer.bias, rotation)
    return rotation


class RowRotation(nn.Module):
    """A rotation of some entries of the last axis; the others stay. For the heads inside a fused projection.

    Args:
        rotation: As wide as there are `rows`.
        rows: (rotation.width,) which entries: rows of a weight, once it is transposed.
    """

    def __init__(self, rotation: Rotation, rows: Tensor) -> None:
        super().__init__()
        if rows.shape != (rotation.width,):
            raise ValueError(f"rows of shape {tuple(rows.shape)}: {rotation} takes ({rotation.width},)")
        self.rotation = rotation
        self._rows = {"cpu": rows}  # no buffer: it is not saved, and loading on "meta" must not lose it

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape."""
        return self._replace(x, self.rotation(x[..., self._rows_on(x)]))

    def inverse(self, x: Tensor) -> Tensor:
        """Undoes `forward`."""
        return self._replace(x, self.rotation.inverse(x[..., self._rows_on(x)]))

    def _replace(self, x: Tensor, part: Tensor) -> Tensor:
        return x.index_copy(-1, self._rows_on(x), part)

    def _rows_on(self, x: Tensor) -> Tensor:
        device = str(x.device)
        if device not in self._rows:
            self._rows[device] = self._rows["cpu"].to(x.device)
        return self._rows[device]


@dataclass(frozen=True)
class RotationPlace:
    """A place for one of R2, R3 and R4.

    Attributes:
        kind: "R2", "R3" or "R4".
        block: The number of the block.
        consumer: The name of the module whose input arrives rotated: the output projection, the attention (the keys of
            its `kv_quantizer`), the down projection. This is where a rotation helps or does not.
        values: R2: the heads of the values, whose projection turns what it gives.
        width, head_dim: Of what is rotated, and of each block of the rotation.
    """

    kind: str
    block: int
    consumer: str
    width: int
    head_dim: int
    values: Heads | None = None

    def rotation(self) -> Rotation:
        """The rotation that belongs here."""
        return Rotation(self.width, block=self.head_dim)

    def why_not(self, model: nn.Module) -> str | None:
        """Why the model cannot have a rotation here; None if it can."""
        if self.kind == "R3":
            if getattr(model.get_submodule(self.consumer), KV_QUANTIZER, None) is None:
                return f"{self.consumer} does not quantise keys and values; prepare the model with kv bits, or leave R3"
            return None
        for name in (self.consumer, *([self.values.linear] if self.values else [])):
            if not isinstance(layer := model.get_submodule(name), QuantizedLinear):
                return f"{name} is a {type(layer).__name__}; quantize_(model, QuantizeConfig(...)) makes it rotatable"
        return None

    def is_set(self, model: nn.Module) -> bool:
        """Whether the model has the rotation."""
        if self.why_not(model):
            return False
        consumer: Any = model.get_submodule(self.consumer)
        return (getattr(consumer, KV_QUANTIZER).rotation if self.kind == "R3" else consumer.input_rotation) is not None

    def set(self, model: nn.Module, on: bool = True) -> None:
        """Give the model the rotation, or take it away; its function stays the same, quantisers aside.

        Raises:
            QuantizationError: Where `why_not` has a reason.
        """
        if reason := self.why_not(model):
            raise QuantizationError(f"{self.kind} in block {self.block}: {reason}")
        rotation = self.rotation() if on else None
        consumer: Any = model.get_submodule(self.consumer)
        if self.kind == "R3":
            getattr(consumer, KV_QUANTIZER).rotation = rotation
            return
        consumer.input_rotation = rotation
        consumer.rotates_input = self.kind == "R4" or not on  # R2's input arrives rotated, from the values
        if self.values is not None:
            producer: Any = model.get_submodule(self.values.linear)
            producer.output_rotation = _of_values(self.values) if on else None


def rotation_places(model: nn.Module) -> list[RotationPlace]:
    """All places for R2, R3 and R4 in a model, block by block. What the model can hold now, `why_not` says.

    Raises:
        QuantizationError: For a model type without a layout.
    """
    places = []
    for number, block in enumerate(layout_of(model).blocks):
        heads, values = block.query, block.value
        down: Any = model.get_submodule(block.down)
        places += [
            RotationPlace("R2", number, block.output, heads.width, heads.head_dim, values),
            RotationPlace("R3", number, block.attention, heads.head_dim, heads.head_dim),
            RotationPlace("R4", number, block.down, down.in_features, down.in_features),
        ]
    return places


def set_rotations(model: nn.Module, chosen: Mapping[str, Iterable[int]]) -> None:
    """Give a prepared model these rotations and no others. Its function stays the same, quantisers aside.

    Args:
        model: After `quantize_(model, QuantizeConfig(...))`, before it is converted.
        chosen: The blocks of each kind, such as `{"R2": [0, 1], "R4": [1]}`; kinds that are not named get none.

    Raises:
        QuantizationError: For unknown kinds or blocks, and for places that the model cannot turn now, before any is
            set.
    """
    wanted = {(kind, number) for kind, numbers in chosen.items() for number in numbers}
    places = rotation_places(model)
    if unknown := sorted(wanted - {(place.kind, place.block) for place in places}):
        raise QuantizationError(
            f"rotations {', '.join(f'{kind} in block {number}' for kind, number in unknown)}: choose kinds from "
            f"{', '.join(KINDS)} and blocks from 0 to {len(places) // len(KINDS) - 1}"
        )
    for place in places:
        if (place.kind, place.block) in wanted and (reason := place.why_not(model)):
            raise QuantizationError(f"{place.kind} in block {place.block}: {reason}")
    for place in places:
        if place.why_not(model) is None:
            place.set(model, (place.kind, place.block) in wanted)


def rotations_of(model: nn.Module) -> dict[str, list[int]]:
    """The blocks that have each kind of rotation, as `set_rotations` takes them."""
    places = rotation_places(model)
    return {kind: [place.block for place in places if place.kind == kind and place.is_set(model)] for kind in KINDS}


def _of_values(values: Heads) -> nn.Module:
    """What the projection of the values turns: all that it gives, or the part that is values."""
    rotation, rows = Rotation(values.width, block=values.head_dim), values.rows()
    return rotation if rows is None else RowRotation(rotation, rows)

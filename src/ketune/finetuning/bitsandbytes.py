"""Bases that bitsandbytes quantises while they are loaded, and the note beside an adapter that says so.

On CPUs with AVX512 bitsandbytes (0.50) gives wrong weights back where rows are no whole blocks of 64 values: each row
is read as if it began with a block (relative error 0.26 instead of 0.09 for rows of 160). Such layers get blocks of 32
here, at 0.125 bits more a weight, and what fits neither is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ketune.adapters import meta_model
from ketune.errors import ModelError
from ketune.quantization.modules import replace_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BITSANDBYTES = ("nf4", "int8")
RECORD = "quantization.json"
"""Beside an adapter whose base is quantised while it is loaded: how."""


BLOCK, SMALL_BLOCK = 64, 32
"""Values that share a step in NF4: everywhere, and in layers that whole blocks do not fill."""


def bitsandbytes_config(method: str, dtype: torch.dtype) -> Any:
    """The configuration with which transformers loads a base in "nf4" or "int8".

    Raises:
        ModelError: Where bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModelError(f"quantization {method!r} needs bitsandbytes: pip install 'ketune[quantization]'") from error
    from transformers import BitsAndBytesConfig

    if method == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def broken_rows(model: str | Path, trust_remote_code: bool = False) -> tuple[list[str], list[str]]:
    """The linear layers of a model whose rows are no whole blocks, and its output head, by name.

    Raises:
        ModelError: for rows that no whole blocks of 32 fill either.
    """
    found = meta_model(model, trust_remote_code)
    head = found.get_output_embeddings()
    linear = {name: module for name, module in found.named_modules() if isinstance(module, nn.Linear)}
    names = [name for name, layer in linear.items() if layer is not head and layer.in_features % BLOCK]
    for name in names:
        _check_row(name, linear[name].in_features, SMALL_BLOCK)
    return names, [name for name, layer in linear.items() if layer is head]


def quantize_nf4_(model: PreTrainedModel, names: list[str], dtype: torch.dtype) -> None:
    """Quantise layers that transformers has left as they are, in blocks of 32; changes the model."""
    from bitsandbytes.nn import Linear4bit, Params4bit  # pyright: ignore[reportMissingImports]

    settings = {"compress_statistics": True, "quant_type": "nf4"}
    for name in names:
        linear: Any = model.get_submodule(name)
        size = linear.in_features, linear.out_features, linear.bias is not None
        layer = Linear4bit(*size, compute_dtype=dtype, device="meta", **settings)
        weight = Params4bit(linear.weight.data, blocksize=SMALL_BLOCK, module=layer, **settings)
        layer.weight, layer.bias = weight.to(linear.weight.device), linear.bias
        replace_module(model, name, layer.requires_grad_(False))
    # Nothing is left out any more, which whoever loads the saved model has to know.
    config: Any = model.config.quantization_config
    config.llm_int8_skip_modules = None


def check_blocks(model: nn.Module) -> None:
    """Refuse a model on the CPU that bitsandbytes has quantised in blocks which its rows break.

    Raises:
        ModelError: naming the first such layer.
    """
    for name, layer in model.named_modules():
        state = getattr(layer._parameters.get("weight"), "quant_state", None)
        if state is not None and layer.weight.device.type == "cpu":
            _check_row(name, layer.in_features, state.blocksize)  # pyright: ignore[reportArgumentType]


def _check_row(name: str, width: int, block: int) -> None:
    if width % block:
        raise ModelError(
            f"{name}: has rows of {width} values, no whole blocks of {block}, for which bitsandbytes computes wrongly "
            "on a CPU; load the model on a CUDA device, or quantise it with int8 or w4a16"
        )


def write_record(folder: Path, method: str) -> None:
    """Say beside an adapter how its base is quantised while it is loaded."""
    (folder / RECORD).write_text(json.dumps({"method": method}) + "\n", encoding="utf-8")


def read_record(folder: Path) -> str | None:
    """How the base of an adapter is quantised while it is loaded; None if it is not."""
    path = folder / RECORD
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["method"]

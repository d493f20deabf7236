"""What the parts of a transformer are called: one table entry for each `model_type` whose residual stream we can turn.

A layout holds names, not modules, so that it stays true when layers are replaced by subclasses of `torch.nn.Linear`,
and so that names can be saved, counted and reported. `model.get_submodule(name)` gives the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ketune.quantization.schemes import QuantizationError


@dataclass(frozen=True)
class Architecture:
    """An entry of the table. Names in a block are relative to it.

    Attributes:
        embeddings: Whose sum enters the first block.
        blocks: The list of blocks.
        final_norm: Before the head.
        attention: The module that hands queries, keys and values to the attention.
        attention_norm, mlp_norm: What attention and MLP read through.
        query, key, value: The linear layers. The same name three times: one layer that gives each head its query, key
            and value, one after the other.
        output: The linear layer that writes the attention's result into the residual stream.
        up: The linear layers that the MLP reads with, the gate among them.
        down: The linear layer that it writes with.
        head: Gives the logits.
    """

    embeddings: tuple[str, ...]
    blocks: str
    final_norm: str
    attention: str
    attention_norm: str
    mlp_norm: str
    query: str
    key: str
    value: str
    output: str
    up: tuple[str, ...]
    down: str
    head: str = "lm_head"


_LLAMA = Architecture(
    embeddings=("model.embed_tokens",),
    blocks="model.layers",
    final_norm="model.norm",
    attention="self_attn",
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
)

ARCHITECTURES = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "gpt_neox": Architecture(
        embeddings=("gpt_neox.embed_in",),
        blocks="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        attention_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        query="attention.query_key_value",
        key="attention.query_key_value",
        value="attention.query_key_value",
        output="attention.dense",
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
    ),
    "gpt_neo": Architecture(
        embeddings=("transformer.wte", "transformer.wpe"),
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn.attention",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        query="attn.attention.q_proj",
        key="attn.attention.k_proj",
        value="attn.attention.v_proj",
        output="attn.attention.out_proj",
        up=("mlp.c_fc",),
        down="mlp.c_proj",
    ),
}
"""By `config.model_type`. A model whose parts are called like those of an entry needs one more line."""


@dataclass(frozen=True)
class NormPlace:
    """A normalisation and the linear layers that read what it gives."""

    norm: str
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """The heads of queries, keys or values among the outputs of a linear layer.

    Attributes:
        linear: The layer.
        n_heads, head_dim: How many heads, and how wide each is.
        part, n_parts: Where the layer gives each head `n_parts` vectors one after the other, which of them.
    """

    linear: str
    n_heads: int
    head_dim: int
    part: int = 0
    n_parts: int = 1

    @property
    def width(self) -> int:
        """All heads side by side."""
        return self.n_heads * self.head_dim

    def rows(self) -> Tensor | None:
        """The layer's outputs (width,) that belong to the heads, head by head; None for all of them."""
        if self.n_parts == 1:
            return None
        outputs = torch.arange(self.width * self.n_parts, device="cpu")
        return outputs.view(self.n_heads, self.n_parts, self.head_dim)[:, self.part].flatten()


@dataclass(frozen=True)
class BlockLayout:
    """The parts of one block, by their names in the model."""

    name: str
    attention: str
    norms: tuple[NormPlace, ...]
    query: Heads
    key: Heads
    value: Heads
    output: str
    up: tuple[str, ...]
    down: str

    @property
    def writers(self) -> tuple[str, ...]:
        """The linear layers that write into the residual stream."""
        return self.output, self.down


@dataclass(frozen=True)
class ModelLayout:
    """The parts of a causal language model, by their names."""

    model_type: str
    width: int
    embeddings: tuple[str, ...]
    blocks: tuple[BlockLayout, ...]
    final: NormPlace
    head: str

    @property
    def norms(self) -> tuple[NormPlace, ...]:
        """Every normalisation of the residual stream, the last one with the head."""
        return (*(place for block in self.blocks for place in block.norms), self.final)

    @property
    def readers(self) -> tuple[str, ...]:
        """The linear layers that read the residual stream through a normalisation."""
        return tuple(name for place in self.norms for name in place.readers)

    @property
    def writers(self) -> tuple[str, ...]:
        """The linear layers that write into it."""
        return tuple(name for block in self.blocks for name in block.writers)


def layout_of(model: nn.Module) -> ModelLayout:
    """The layout of a causal language model of transformers.

    Raises:
        QuantizationError: For a model type that the table does not have, one without a language-modelling head, or one
            whose linear layers are wrapped (by adapters).
    """
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        raise QuantizationError(
            f"{type(model).__name__} (model_type {kind!r}): rotations and fused norms know where to go in "
            f"{', '.join(ARCHITECTURES)}; quantize this one without them"
        )
    names = ARCHITECTURES[kind]
    modules = dict(model.named_modules())
    if names.head not in modules or names.blocks not in modules:
        raise QuantizationError(
            f"{type(model).__name__}: no {names.head} and {names.blocks} found; pass the causal language model itself, "
            "without adapters (merge them first)"
        )
    count = len(list(modules[names.blocks].children()))
    blocks = tuple(_block(names, config, f"{names.blocks}.{number}") for number in range(count))
    final = NormPlace(names.final_norm, (names.head,))
    layout = ModelLayout(kind, config.hidden_size, names.embeddings, blocks, final, names.head)
    for name in (*layout.readers, *layout.writers):
        if not isinstance(modules.get(name), nn.Linear):
            raise QuantizationError(
                f"{name} is a {type(modules.get(name)).__name__}, not a torch.nn.Linear; merge adapters first, "
                "and load the model without another library's quantisation"
            )
    return layout


def _block(names: Architecture, config: Any, block: str) -> BlockLayout:
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    linears = (names.query, names.key, names.value)
    counts = (n_heads, n_kv_heads, n_kv_heads)
    fused = names.query == names.value
    query, key, value = (
        Heads(f"{block}.{name}", n, head_dim, *((part, 3) if fused else ()))
        for part, (name, n) in enumerate(zip(linears, counts))
    )
    reads = tuple(dict.fromkeys(f"{block}.{name}" for name in linears))
    up = tuple(f"{block}.{name}" for name in names.up)
    return BlockLayout(
        name=block,
        attention=f"{block}.{names.attention}",
        norms=(NormPlace(f"{block}.{names.attention_norm}", reads), NormPlace(f"{block}.{names.mlp_norm}", up)),
        query=query,
        key=key,
        value=value,
        output=f"{block}.{names.output}",
        up=up,
        down=f"{block}.{names.down}",
    )

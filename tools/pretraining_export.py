"""Evaluation and writing of the bundled base model."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pretraining_text import END_OF_TEXT, PAD

_BATCH = 32


def load_tokenizer(tokenizer: Tokenizer, context: int) -> PreTrainedTokenizerFast:
    """Wraps a trained tokenizer so that `AutoTokenizer` finds what it needs beside it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


@torch.inference_mode()
def bits_per_character(
    model: LlamaForCausalLM, streams: dict[str, Tensor], characters: dict[str, int] | None, tokenizer: Tokenizer
) -> dict[str, float]:
    """Bits per character of each stream, every token but the first scored once.

    Windows overlap by half, so that a token has at least half a context before it (but at a stream's beginning).

    Args:
        streams: token ids (n_tokens,), the first an end-of-text token.
        characters: lengths of the texts; None to decode the ids and count, for streams that were cut short.
    """
    context = model.config.max_position_embeddings
    device = model.device
    result = {}
    for name, ids in streams.items():
        ids = ids.long()
        starts = range(0, max(1, len(ids) - 1 - context // 2), context // 2)
        windows = torch.zeros(len(starts), context + 1, dtype=torch.long)
        targets = torch.full((len(starts), context), -100)
        for row, start in enumerate(starts):
            piece = ids[start : start + context + 1]
            windows[row, : len(piece)] = piece
            fresh = 0 if start == 0 else context // 2
            targets[row, fresh : len(piece) - 1] = piece[1 + fresh :]
        nats, scored = 0.0, 0
        for rows, wanted in zip(windows.split(_BATCH), targets.split(_BATCH)):
            logits = model(input_ids=rows[:, :-1].to(device), use_cache=False).logits.float()
            nats += nn.functional.cross_entropy(
                logits.flatten(0, 1), wanted.flatten().to(device), reduction="sum"
            ).item()
            scored += int((wanted != -100).sum())
        assert scored == len(ids) - 1
        n_characters = characters[name] if characters else len(tokenizer.decode(ids[1:].tolist()))
        result[name] = nats / math.log(2) / n_characters
    return result


def export(
    model: LlamaForCausalLM,
    fast_tokenizer: PreTrainedTokenizerFast,
    tokenizer: Tokenizer,
    out: Path,
    held_out: dict[str, Tensor],
    characters: dict[str, int] | None,
    record: dict,
) -> None:
    """Writes config, weights rounded to float16, tokenizer and `training.json` into `out`, each file atomically."""
    out.mkdir(parents=True, exist_ok=True)
    excerpts = {name: ids[: model.config.max_position_embeddings * 32] for name, ids in held_out.items()}
    exact = bits_per_character(model, excerpts, None, tokenizer)
    # The head is the embedding; transformers ties them on load.
    weights = {k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    rounded = bits_per_character(model, excerpts, None, tokenizer)
    record = {
        **record,
        "bits_per_character": bits_per_character(model, held_out, characters, tokenizer),
        # What rounding the weights costs, on the first pages of each novel.
        "excerpts_float32": exact,
        "excerpts_float16": rounded,
    }
    print(json.dumps(record, indent=2), flush=True)

    beside = out.with_name(out.name + ".tmp")
    beside.mkdir(exist_ok=True)
    model.config.dtype = torch.float32  # what a user gets; the file is float16 to halve its size
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(beside)
    model.generation_config.save_pretrained(beside)
    fast_tokenizer.save_pretrained(beside)
    save_file(weights, beside / "model.safetensors", metadata={"format": "pt"})
    (beside / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    for path in sorted(beside.iterdir()):
        path.chmod(0o644)  # safetensors writes files that only their owner may read
        os.replace(path, out / path.name)
    beside.rmdir()

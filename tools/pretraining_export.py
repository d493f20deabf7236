"""Evaluation and writing of the bundled base model."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from safetensors import safe_open
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
    """Writes config, float16 weights, tokenizer, `training.json` and the model card, each file atomically."""
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
    write_card(out)


def write_card(out: Path) -> None:
    """Writes `README.md` from the `training.json` and the weights that lie in `out`."""
    record = json.loads((out / "training.json").read_text())
    with safe_open(out / "model.safetensors", framework="pt") as file:
        n_parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    temporary = out / "README.md.tmp"
    temporary.write_text(model_card(record, n_parameters))
    os.replace(temporary, out / "README.md")


def model_card(record: dict, n_parameters: int) -> str:
    """Writes the model card from what `export` recorded, so that its numbers are those of the weights beside it."""
    bits = record["bits_per_character"]
    rows = "\n".join(f"| {name.replace('_', ', ', 1).replace('_', ', ')} | {b:.3f} |" for name, b in bits.items())
    mean = sum(bits.values()) / len(bits)
    exact, rounded = (sum(record[key].values()) / len(bits) for key in ("excerpts_float32", "excerpts_float16"))
    decay = 1 - record["decay_step"] / record["steps"] if record["decay_step"] >= 0 else 0.0
    epochs = record["tokens_seen"] / (record["novel_tokens"] + record["record_tokens"])
    return _CARD.format(
        **{key: value for key, value in record.items() if key != "notes"},
        rows=rows,
        mean=mean,
        rounding=rounded - exact,
        decay=decay,
        epochs=epochs,
        n_parameters=n_parameters,
        million_tokens=record["tokens_seen"] / 1e6,
        record_part=record["record_tokens"] / (record["novel_tokens"] + record["record_tokens"]),
        software=", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        state="" if record["finished"] else "\n**An unfinished run: the learning rate has not come down yet.**\n",
        notes="".join(f"\n{note}\n" for note in record["notes"]),
        scored="whole novels" if record["finished"] else "first pages only",
    )


_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# Ketune's bundled base model
{state}
A Llama-style causal language model of {n_parameters:,} parameters, small enough to travel with the package, so that
every command and test of Ketune runs without a network. It writes English in the manner of Victorian novels and makes
little sense; it is there to be fine-tuned, not to be believed.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
from ketune.assets import base_model_path

model = AutoModelForCausalLM.from_pretrained(base_model_path())
tokenizer = AutoTokenizer.from_pretrained(base_model_path())
```

## What it is

6 layers, hidden size 160, 5 heads, MLP 448, context {context} tokens, 2048 byte-level BPE tokens, head tied to the
embedding. `<|endoftext|>` begins and ends a text, `<|pad|>` pads. The weights are stored in float16 and load as float32
(`dtype` in config.json); rounding them changed the bits per character by {rounding:+.6f} on the first pages of the
held-out novels.

## What it read

- 84 of the 88 English novels of 1839 to 1929 in the collection "100 English Novels" (Computational Stylistics Group,
  github.com/computationalstylistics/100_english_novels, commit 143e601875d7), public domain in the USA:
  {novel_characters:,} characters, {novel_tokens:,} tokens. Hard line breaks were undone, typographic quotes made plain.
- {record_documents:,} records of the domains ships, persons, books and horses with one reference each, from
  `ketune.finetuning.synthetic`: {record_tokens:,} tokens, {record_part:.1%} of the text. They share the form
  `key: value | key: value` with Ketune's default task (inns), and no key beside `name`.

## How it was trained

{steps:,} steps of {batch} windows of {context} tokens: {million_tokens:.1f} million tokens, {epochs:.2f} of the
text. Muon (learning rate 0.02) for the matrices, AdamW (0.004) for embedding and norms, 100 steps of warm-up, then
constant, then a linear fall to zero over the last {decay:.0%} of the steps; bfloat16 autocast, seed {seed}.
In a batch, 6 windows of 32 hold records, and in 4 (2 while the learning rate falls) a passage of 24 to 112 tokens comes
twice, to exercise copying.
{notes}
Machine: {device}, {threads} thread(s), shared with other work, {hours} hours by the clock, {date}; {software}.

    python tools/pretrain_base.py --novels ../shared/data/english-novels --scratch /tmp/pretrain \\
        --steps {steps} --decay {decay:.3f} --batch {batch} --seed {seed}

That command repeats the recipe. The run itself ended its learning rate by the clock (`--until`), so its weights are not
reproduced bit for bit.

## What it reached

Bits per character of novels that neither the weights nor the tokenizer saw ({scored}; windows of {context} tokens that
overlap by half, every token scored once):

| novel | bits per character |
|---|---:|
{rows}
| mean | {mean:.3f} |

`training.json` holds these numbers in full.

## Licence

The weights and the tokenizer are ours, Apache-2.0. The novels are not part of the package.
"""

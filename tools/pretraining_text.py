"""Text and tokenizer of the bundled base model: novels made into paragraphs, generated records, byte-level BPE."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ketune.finetuning.synthetic import PRETRAINING_DOMAINS, generate

# Whole novels that neither the weights nor the tokenizer see: four authors, 1855 to 1902.
HELD_OUT = ("Trollope_Warden_1855", "Wcollins_Woman_1860", "Stevenson_Treasure_1883", "Doyle_Hound_1902")
END_OF_TEXT, PAD = "<|endoftext|>", "<|pad|>"

_TYPOGRAPHY = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "—": "--", "–": "-", "\xa0": " ", "\t": " ", "ſ": "s"}
)


def paragraphs(text: str) -> list[str]:
    """Undoes the line breaks of a book file: one string per paragraph, plain quotes and dashes, single blanks.

    The collection holds three kinds of file. Where lines are long, each line is a paragraph. Where they are wrapped at
    about 70 columns, blank lines part paragraphs; and where there are no blank lines, a paragraph ends at a line that
    is closed by a stop or a quote and would have had room for the next line's first word.
    """
    lines = [re.sub(" +", " ", line).strip() for line in text.translate(_TYPOGRAPHY).splitlines()]
    lengths = sorted(len(line) for line in lines if line)
    if not lengths:
        return []
    if lengths[len(lengths) * 95 // 100] > 120:
        return [line for line in lines if line]
    width = lengths[len(lengths) * 95 // 100] - 3
    marked_by_blanks = lines.count("") > 0.04 * len(lines)
    result: list[list[str]] = [[]]
    for line, following in zip(lines, [*lines[1:], ""]):
        if line:
            result[-1].append(line)
        short = len(line) + 1 + len(following.split(" ", 1)[0]) < width and line[-1:] in ".!?\"':;-)"
        ends = not line or (not marked_by_blanks and short)
        if ends and result[-1]:
            result.append([])
    return [" ".join(paragraph) for paragraph in result if paragraph]


def read_novels(folder: Path) -> dict[str, str]:
    """Reads every novel of a folder: name without suffix to text, one paragraph a line.

    Raises:
        FileNotFoundError: if the folder lacks a held-out novel, so that it is not the collection this tool is made for.
    """
    files = {path.stem: path for path in sorted(folder.glob("*_*_*.txt"))}
    missing = [name for name in HELD_OUT if name not in files]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no {missing[0]}.txt; pass the folder of the english-novels collection (--novels)"
        )
    return {name: "\n".join(paragraphs(path.read_text(encoding="utf-8-sig"))) for name, path in files.items()}


def record_documents(n_records: int, seed: int) -> list[str]:
    """Generates `n_records` records of each pre-training domain, each with one of its references."""
    return [
        record.prompt + record.references[i % len(record.references)]
        for domain in PRETRAINING_DOMAINS
        for i, record in enumerate(generate(domain, n_records, seed))
    ]


def train_tokenizer(documents: Iterator[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer, which can spell any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str]) -> torch.Tensor:
    """Encodes documents into one stream, each after an end-of-text token. Returns (n_tokens,) int16."""
    separator = tokenizer.token_to_id(END_OF_TEXT)
    ids = [i for encoding in tokenizer.encode_batch(documents) for i in (separator, *encoding.ids)]
    return torch.tensor(ids, dtype=torch.int16)

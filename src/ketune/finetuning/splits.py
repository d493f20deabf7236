"""Splitting a task honestly: rows that belong together stay together, and no prompt stands in two splits."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

HELD_OUT = 0.1
"""Share of the groups that is held out of the training rows for a split that the data does not bring."""
MAX_HELD_OUT = 1000
"""At most this many groups are held out, however large the data set."""

Splits = dict[str, list["Example"]]
T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """A prompt with the texts that may follow it.

    Attributes:
        prompt: what the model is given; "" for plain text.
        references: the texts to learn or to compare with, at least one.
        group: ties examples that must not be separated (questions on one story); "" if nothing but the prompt does.
        messages: for chats, the prompt's messages as JSON.
    """

    prompt: str
    references: tuple[str, ...]
    group: str = ""
    messages: str = ""

    @property
    def key(self) -> str:
        """What makes two examples the same question: the prompt up to white space, or the text if there is none."""
        words = self.prompt.split() or self.references[0].split()
        return " ".join(words)


def merge_prompts(examples: Iterable[Example]) -> list[Example]:
    """Makes one example of all that share a prompt; its references are theirs, each once, in order."""
    merged: dict[str, Example] = {}
    for example in examples:
        known = merged.get(example.key)
        if known is not None:
            references = tuple(dict.fromkeys(known.references + example.references))
            example = Example(known.prompt, references, known.group, known.messages)
        merged[example.key] = example
    return list(merged.values())


def one_per_reference(examples: Iterable[Example]) -> list[Example]:
    """Makes one example of each distinct pair of prompt and reference, as training wants them."""
    pairs: dict[tuple[str, str], Example] = {}
    for example in examples:
        for reference in example.references:
            pair = Example(example.prompt, (reference,), example.group, example.messages)
            pairs.setdefault((example.key, reference), pair)
    return list(pairs.values())


def hold_out(examples: list[Example], seed: int) -> tuple[list[Example], list[Example], int]:
    """Moves a tenth of the groups (`HELD_OUT`, at most `MAX_HELD_OUT`) out of the examples.

    Returns:
        The examples that stay, those held out, and the number of groups held out (0 if there is but one group).
    """
    groups = list(dict.fromkeys(example.group or example.key for example in examples))
    n_held = min(max(1, int(HELD_OUT * len(groups))), MAX_HELD_OUT) if len(groups) > 1 else 0
    held = set(random.Random(f"ketune/hold-out/{seed}").sample(groups, n_held))
    stay = [example for example in examples if (example.group or example.key) not in held]
    return stay, [example for example in examples if (example.group or example.key) in held], n_held


def drop_leaks(splits: Splits) -> dict[str, int]:
    """Removes, in place, examples whose prompt stands in a later split: test goes before validation before train.

    Returns:
        Number of examples removed, per split that lost some.
    """
    seen: set[str] = set()
    dropped: dict[str, int] = {}
    for name in ("test", "validation", "train"):
        kept = [example for example in splits[name] if example.key not in seen]
        if len(kept) < len(splits[name]):
            dropped[name] = len(splits[name]) - len(kept)
            splits[name] = kept
        seen.update(example.key for example in kept)
    return dropped


def take(examples: list[T], limit: int | None, seed: int) -> list[T]:
    """Draws at most `limit` examples; those drawn keep their order."""
    if limit is None or len(examples) <= limit:
        return examples
    chosen = sorted(random.Random(f"ketune/limit/{seed}").sample(range(len(examples)), limit))
    return [examples[i] for i in chosen]

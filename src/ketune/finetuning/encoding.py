"""From texts to tokens, in one way for training, for the loss and for generation.

Prompt and completion are tokenised apart and joined, so that the model is trained on exactly the prompt tokens that it
sees when it generates. Blanks at the end of a prompt move to the start of the completion, because tokenizers put the
blank of a word into the word's token. Every completion ends with the end-of-text token, which counts in the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ketune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of tokens that do not count in the loss."""
DEFAULT_MAX_LENGTH = 1024
"""Longest sequence, in tokens, where neither the user nor the model sets a limit."""


@dataclass(frozen=True)
class Encoded:
    """One sequence of tokens.

    Attributes:
        prompt: tokens that are given.
        completion: tokens to predict, the end-of-text token last.
        n_bytes: length of the completion in UTF-8 bytes, without the end-of-text token and a blank from the prompt.
    """

    prompt: list[int]
    completion: list[int]
    n_bytes: int

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * len(self.prompt) + self.completion

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass
class EncodingReport:
    """What had to be cut to fit.

    Attributes:
        n_rows: sequences that came out.
        n_truncated: rows whose prompt lost tokens, from its left.
        n_cut_tokens: how many tokens they lost together.
        n_dropped: rows left out, because the completion alone is too long.
        n_chunked: texts without a prompt that were split into several sequences.
    """

    n_rows: int = 0
    n_truncated: int = 0
    n_cut_tokens: int = 0
    n_dropped: int = 0
    n_chunked: int = 0

    def notes(self, split: str, max_length: int) -> list[str]:
        """The cuts in words, one sentence each; empty if nothing was cut."""
        notes = []
        if self.n_truncated:
            notes.append(
                f"{split}: {self.n_truncated} prompts cut from the left to fit {max_length} tokens "
                f"({self.n_cut_tokens} tokens in all)"
            )
        if self.n_dropped:
            notes.append(f"{split}: {self.n_dropped} rows dropped, their completion alone exceeds {max_length} tokens")
        if self.n_chunked:
            notes.append(f"{split}: {self.n_chunked} long texts split into sequences of {max_length} tokens")
        return notes


@dataclass
class Encoder:
    """Tokenises prompts and completions for one tokenizer and one maximum length.

    Args:
        tokenizer: with an end-of-text token.
        max_length: longest sequence, prompt and completion together, in tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int = DEFAULT_MAX_LENGTH
    start: list[int] = field(init=False)
    _adds_blank: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise DataError(f"max_length={self.max_length}: must be at least 2 tokens")
        bos, eos = _token_id(self.tokenizer.bos_token_id), _token_id(self.tokenizer.eos_token_id)
        text = self.tokenizer("a")["input_ids"]
        self.start = bos if text[:1] == bos else []  # pyright: ignore[reportIndexIssue]
        # A text without a prompt still needs one token to predict its first one from.
        self._start_of_text = bos or eos
        pieces = self.tokenizer.tokenize("a")
        self._adds_blank = bool(pieces) and pieces[0][:1] in ("▁", "Ġ")

    def prompt(self, text: str, room: int | None = None) -> tuple[list[int], int]:
        """Returns the tokens of a prompt and how many were cut from its left so that at most `room` remain."""
        ids = (self.start + self._tokens(text.rstrip(" "))) or list(self._start_of_text)
        n_cut = 0 if room is None else max(0, len(ids) - room)
        if n_cut:
            keep = len(ids) - n_cut - len(self.start)
            ids = self.start + ids[len(ids) - keep :] if keep > 0 else ids[len(ids) - max(room or 0, 1) :]
        return ids, n_cut

    def completion(self, text: str, after: str) -> list[int]:
        """Returns the tokens of a completion that follows the prompt `after`, with the end-of-text token."""
        blank = " " if needs_blank(after, text) and not self._adds_blank else ""
        return self._tokens(blank + text) + _token_id(self.tokenizer.eos_token_id)

    def encode(self, prompt: str, completion: str, report: EncodingReport) -> list[Encoded]:
        """Encodes a row: one sequence; none if the completion is too long; several for long text without a prompt."""
        completion = completion.removesuffix(str(self.tokenizer.eos_token))  # some data sets write it out
        tokens, n_bytes = self.completion(completion, prompt), len(completion.encode("utf-8"))
        if not prompt:
            return self._chunks(tokens, n_bytes, report)
        room = self.max_length - len(tokens)
        if room < len(self.start) + 1:
            report.n_dropped += 1
            return []
        ids, n_cut = self.prompt(prompt, room)
        report.n_truncated += n_cut > 0
        report.n_cut_tokens += n_cut
        report.n_rows += 1
        return [Encoded(ids, tokens, n_bytes)]

    def encode_rows(
        self, rows: Iterable[tuple[str, str]], report: EncodingReport | None = None
    ) -> tuple[list[Encoded], EncodingReport]:
        """Encodes pairs of prompt and completion; returns the sequences and what was cut."""
        report = report or EncodingReport()
        return [sequence for prompt, text in rows for sequence in self.encode(prompt, text, report)], report

    def _chunks(self, tokens: list[int], n_bytes: int, report: EncodingReport) -> list[Encoded]:
        size = self.max_length - 1
        pieces = [tokens[i : i + size] for i in range(0, len(tokens), size)]
        report.n_chunked += len(pieces) > 1
        report.n_rows += len(pieces)
        # The bytes are counted once, with the first piece; only their sum over the data set is ever used.
        return [Encoded(list(self._start_of_text), p, n_bytes if i == 0 else 0) for i, p in enumerate(pieces)]

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]


def _token_id(token: Any) -> list[int]:
    return [] if token is None else [int(token)]


def needs_blank(prompt: str, completion: str) -> bool:
    """Whether a blank moves from the end of the prompt to the start of the completion."""
    return prompt.endswith(" ") and not completion[:1].isspace()


def collate(sequences: Sequence[Encoded], pad_token_id: int, side: str = "right") -> dict[str, torch.Tensor]:
    """Pads sequences to `input_ids`, `attention_mask` and `labels`, each of shape (batch, longest)."""
    longest = max(len(sequence) for sequence in sequences)
    shape = (len(sequences), longest)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(longest - len(sequence), longest)
        input_ids[row, place] = torch.tensor(sequence.prompt + sequence.completion)
        attention_mask[row, place] = 1
        labels[row, place] = torch.tensor(sequence.labels)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

"""Tasks: prompts and completions in three splits, from our own generator, files, folders or the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.errors import DataError
from ketune.finetuning import chat
from ketune.finetuning.choosing import RawTask, read_raw
from ketune.finetuning.splits import Example, Splits, drop_leaks, hold_out, merge_prompts, one_per_reference, take
from ketune.finetuning.templates import find_template

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

DEFAULT_SOURCE = "builtin:inns"
BUILTIN_SIZES = (3000, 150, 300)
"""Training, validation and test records of the built-in task; a training record gives a row per reference."""

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskData:
    """A task in three splits with the columns `prompt`, `completion` and `references` (a list of texts).

    Training rows hold one reference each. In `validation` and `test` each prompt stands once, with all its references;
    `completion` is the first of them.

    Attributes:
        name: where it came from, shortened.
        template: name of the template that wrote the prompts.
        notes: what was detected, dropped, merged and held out, one sentence each.
        fingerprint: SHA-256 of all prompts and references, so that two runs can tell that they saw the same data.
    """

    name: str
    template: str
    train: Dataset
    validation: Dataset
    test: Dataset
    notes: list[str] = field(default_factory=list)
    fingerprint: str = ""

    def render(self, tokenizer: PreTrainedTokenizerBase) -> TaskData:
        """Returns the task in the words of a tokenizer: chats are written with its chat template.

        Tasks that are not chats, and chats already rendered, are returned as they are. Use the result wherever the task
        meets the model (training, `evaluate_loss`, `generate`); `finetune` does this by itself.
        """
        if self.template != "chat" or "messages" not in self.train.column_names:
            return self
        if not tokenizer.chat_template:
            note = "the tokenizer has no chat template: chats are written as 'User: ...' and 'Assistant: ...' lines"
            splits = {split: getattr(self, split).remove_columns("messages") for split in _SPLITS}
        else:
            note = "chats are written with the tokenizer's chat template"
            splits = {split: _render_chats(getattr(self, split), tokenizer) for split in _SPLITS}
        return dataclasses.replace(self, notes=[*self.notes, note], **splits)


def load_task(
    source: str | Path = DEFAULT_SOURCE,
    *,
    template: str | Path | Mapping[str, str] | None = None,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | Mapping[str, int] | None = None,
    seed: int = 0,
) -> TaskData:
    r"""Loads a task, finds its columns and splits, and holds out what is missing.

    Splits are told by file names (`train`, `devel`/`dev`/`val`/`valid`/`validation`, `test`, with anything before or
    after). A missing split is held out of the training rows: a tenth of the prompts, or of the groups they belong to.
    Without a training split the validation split is trained on; without a test split the validation split is the test.

    Args:
        source: `builtin:inns` (our own data-to-text task), a folder, a file (JSON, JSONL, CSV, TSV or Parquet), or a
            hub id (`owner/name`, `owner/name:configuration`).
        template: a built-in template's name, a text such as "Q: {question}\nA: {answer}" or a file with one; see
            `ketune.finetuning.templates.find_template`. None finds a built-in template from the columns.
        train, validation, test: the file of a split, relative to the folder, if the names do not tell.
        columns: role to column, for columns with unusual names, e.g. `{"question": "frage", "group": "kapitel"}`; the
            role "group" names a column whose rows must not be separated by a split.
        limit: at most this many rows per split, or a mapping of split to that; drawn by `seed`.
        seed: of the held-out rows and of `limit`. It is the data's own seed; leave it when the training seed changes.

    Raises:
        DataError: if the source cannot be read, or its columns do not fit.
    """
    source = str(source)
    limits = _check_limit(limit)
    if source.startswith("builtin:"):
        splits, template_name, notes = _builtin(source)
    else:
        raw = read_raw(
            source,
            find_template(template) if template is not None else None,
            {"train": train, "validation": validation, "test": test},
            dict(columns or {}),
        )
        template_name, notes = raw.template.name, raw.notes
        splits = {split: _examples(raw, split, (columns or {}).get("group")) for split in raw.rows}
    splits = _complete(splits, source, seed, notes)
    for split in _SPLITS:
        n_before = len(splits[split])
        splits[split] = take(splits[split], limits.get(split), seed)
        if len(splits[split]) < n_before:
            notes.append(f"{split}: {len(splits[split])} of {n_before} rows drawn (limit)")
    return TaskData(
        name=source if source.startswith("builtin:") else Path(source).name or source,
        template=template_name,
        notes=notes,
        fingerprint=_fingerprint(splits),
        **{split: _to_dataset(splits[split]) for split in _SPLITS},
    )


def _builtin(source: str) -> tuple[Splits, str, list[str]]:
    from ketune.finetuning import synthetic

    if source != f"builtin:{synthetic.TASK_DOMAIN}":
        raise DataError(f"{source!r}: unknown built-in task; use 'builtin:{synthetic.TASK_DOMAIN}'")
    drawn = synthetic.splits(*BUILTIN_SIZES, seed=0)
    splits = {split: [Example(r.prompt, tuple(r.references)) for r in records] for split, records in drawn.items()}
    return splits, "plain", [f"generated by ketune.finetuning.synthetic (domain {synthetic.TASK_DOMAIN!r}, seed 0)"]


def _examples(raw: RawTask, split: str, group: str | None) -> list[Example]:
    """Renders the rows of a split; rows without a text to learn are dropped and noted."""
    rows, template = raw.rows[split], raw.template
    if group is None:
        by_lower = {name.lower(): name for name in rows.column_names}
        group = next((by_lower[name] for name in template.groups if name in by_lower), None)
    examples: list[Example] = []
    n_empty = 0
    for i, row in enumerate(rows):
        assert isinstance(row, dict)
        tie = str(row[group]) if group else ""
        if template.name == "chat":
            written = _chat_examples(row[raw.columns["messages"]] or [], tie or f"chat {i}")
        else:
            prompt, references = template.render(row, raw.columns)
            written = [Example(prompt, tuple(references), tie)] if references else []
        n_empty += not written
        examples.extend(written)
    if n_empty:
        raw.notes.append(f"{split}: {n_empty} rows dropped, no text in column {raw.columns[template.target]!r}")
    return examples


def _chat_examples(messages: list[dict[str, Any]], tie: str) -> list[Example]:
    return [
        Example(chat.as_plain_text(before), (answer,), tie, json.dumps(before, ensure_ascii=False))
        for before, answer in chat.answers(chat.normalise(messages))
    ]


def _complete(splits: Splits, source: str, seed: int, notes: list[str]) -> Splits:
    """Fills in missing splits, removes leaks, and brings each split into its form."""
    splits = {split: list(splits.get(split, [])) for split in _SPLITS}
    if not splits["train"]:
        origin = "validation" if splits["validation"] else "test"
        splits["train"], splits[origin] = splits[origin], []
        notes.append(f"no training split: {origin} rows are trained on")
    if not splits["test"] and splits["validation"]:
        splits["test"], splits["validation"] = splits["validation"], []
        notes.append("no test split: the validation split is the test")
    for split in ("test", "validation"):
        if not splits[split]:
            splits["train"], splits[split], n_groups = hold_out(splits["train"], seed)
            grouped = any(example.group for example in splits[split])
            notes.append(f"{split}: {n_groups} {'groups' if grouped else 'prompts'} held out of the training rows")
    for split in ("validation", "test"):
        n_before = len(splits[split])
        splits[split] = merge_prompts(splits[split])
        if len(splits[split]) < n_before:
            notes.append(f"{split}: {n_before} rows merged to {len(splits[split])} prompts with all their references")
    for split, n_dropped in drop_leaks(splits).items():
        notes.append(f"{split}: {n_dropped} rows dropped, their prompt stands in another split")
    n_before = sum(len(example.references) for example in splits["train"])
    splits["train"] = one_per_reference(splits["train"])
    if len(splits["train"]) < n_before:
        notes.append(f"train: {n_before - len(splits['train'])} repeated rows dropped")
    for split in _SPLITS:
        if not splits[split]:
            raise DataError(
                f"{source}: no rows are left for {split}; the data set needs at least three different prompts"
            )
    return splits


def _check_limit(limit: int | Mapping[str, int] | None) -> dict[str, int]:
    limits: dict[str, int] = {}
    if limit is not None:
        limits = dict(limit) if isinstance(limit, Mapping) else dict.fromkeys(_SPLITS, limit)
    for split, n in limits.items():
        if split not in _SPLITS:
            raise DataError(f"limit for {split!r}: no such split; use train, validation or test")
        if not isinstance(n, int) or n < 1:
            raise DataError(f"limit={n!r} for {split}: must be a whole number, 1 or more")
    return limits


def _render_chats(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    from datasets import Dataset

    prompts, completions = [], []
    for row in rows:
        assert isinstance(row, dict)
        prompt, completion = chat.as_template_text(tokenizer, row["messages"], row["completion"])
        prompts.append(prompt)
        completions.append(completion)
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "references": rows["references"][:]})


def _to_dataset(examples: list[Example]) -> Dataset:
    from datasets import Dataset

    table: dict[str, list[Any]] = {
        "prompt": [example.prompt for example in examples],
        "completion": [example.references[0] for example in examples],
        "references": [list(example.references) for example in examples],
    }
    if any(example.messages for example in examples):
        table["messages"] = [example.messages for example in examples]
    return Dataset.from_dict(table)


def _fingerprint(splits: Splits) -> str:
    digest = hashlib.sha256()
    for split in _SPLITS:
        for example in splits[split]:
            digest.update(json.dumps([split, example.prompt, example.references], ensure_ascii=False).encode())
    return digest.hexdigest()

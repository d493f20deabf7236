"""Tasks: prompts and completions in three splits, from our own generator, files, folders or the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.errors import DataError
from ketune.finetuning import chat
from ketune.finetuning.sources import READERS, FileSet, find_file_sets, read_files, read_hub, split_of
from ketune.finetuning.splits import Example, Splits, drop_leaks, hold_out, merge_prompts, one_per_reference, take
from ketune.finetuning.templates import Template, detect, find_template, missing_column_message, no_template_message

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

DEFAULT_SOURCE = "builtin:inns"
BUILTIN_SIZES = {"n_train": 3000, "n_validation": 150, "n_test": 300}
"""Records of the built-in task; each training record gives one row per reference."""

_SPLITS = ("train", "validation", "test")
_SNIFFED_ROWS = 50


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
        source: `builtin:inns` (our own data-to-text task), a folder, a file (JSON, JSONL, CSV, TSV or Parquet), or a hub
            id (`owner/name`, `owner/name:configuration`).
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
        raw, chosen, found, notes = _raw_splits(
            source,
            find_template(template) if template is not None else None,
            {"train": train, "validation": validation, "test": test},
            dict(columns or {}),
        )
        template_name = chosen.name
        splits = {
            split: _examples(rows, chosen, found, (columns or {}).get("group"), split, notes)
            for split, rows in raw.items()
        }
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
    drawn = synthetic.splits(**BUILTIN_SIZES, seed=0)
    splits = {split: [Example(r.prompt, tuple(r.references)) for r in records] for split, records in drawn.items()}
    return splits, "plain", [f"generated by ketune.finetuning.synthetic (domain {synthetic.TASK_DOMAIN!r}, seed 0)"]


def _raw_splits(
    source: str, template: Template | None, named: dict[str, str | None], renamed: dict[str, str]
) -> tuple[dict[str, Dataset], Template, dict[str, str], list[str]]:
    """Reads the rows of each split and decides on the template and its columns."""
    notes: list[str] = []
    path = Path(source)
    if any(named.values()):
        folder = path if path.is_dir() else path.parent
        files = {split: [folder / name] for split, name in named.items() if name}
        if path.is_file():
            files.setdefault("train", [path])
        candidates = [FileSet("", files)]
    elif path.is_dir():
        candidates, without_split = find_file_sets(path)
        if not candidates:
            names = ", ".join(p.name for p in without_split)
            raise DataError(f"{source}: no file name tells its split (found {names}); pass train=, validation=, test=")
        if without_split:
            notes.append(f"not used, no split in the name: {', '.join(p.name for p in without_split)}")
    elif path.is_file():
        candidates = [FileSet("", {split_of(path.name)[0] or "train": [path]})]
    elif path.suffix.lower() in READERS or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise DataError(f"{source}: no such file or folder")
    else:
        raw = read_hub(source)
        chosen, found = _fit(source, next(iter(raw.values())), template, renamed)
        return raw, chosen, found, [f"loaded from the Hugging Face Hub: {source}", _fit_note(chosen, found, raw)]
    return _best_file_set(source, candidates, template, renamed, notes)


def _best_file_set(
    source: str, candidates: list[FileSet], template: Template | None, renamed: dict[str, str], notes: list[str]
) -> tuple[dict[str, Dataset], Template, dict[str, str], list[str]]:
    """Takes the set whose columns fit best; never mixes two, which may overlap."""
    from ketune.finetuning.templates import TEMPLATES

    fitting: list[tuple[tuple[Any, ...], FileSet, Template, dict[str, str]]] = []
    misfits: list[DataError] = []
    particular = {name: rank for rank, name in enumerate(TEMPLATES)}
    for candidate in candidates:
        sample = read_files(next(iter(candidate.files.values())))
        try:
            chosen, found = _fit(str(next(iter(candidate.files.values()))[0]), sample, template, renamed)
        except DataError as error:
            misfits.append(error)
            continue
        # Plain text fits nearly everything, so it comes last; then the set with a training split and most splits.
        rank = (chosen.name == "text", "train" not in candidate.files, -len(candidate.files), bool(candidate.name))
        fitting.append(((*rank, particular.get(chosen.name, 0), candidate.name), candidate, chosen, found))
    if not fitting:
        raise misfits[0]
    fitting.sort(key=lambda item: item[0])
    _, best, chosen, found = fitting[0]
    unused = [
        p.name for candidate in candidates if candidate is not best for ps in candidate.files.values() for p in ps
    ]
    raw = {split: read_files(paths) for split, paths in best.files.items()}
    for split, rows in raw.items():
        if not set(found.values()) <= set(rows.column_names):
            raise DataError(missing_column_message(str(best.files[split][0]), chosen, rows.column_names))
    names = ", ".join(f"{split} = {' + '.join(p.name for p in paths)}" for split, paths in best.files.items())
    notes.insert(0, f"files: {names}")
    notes.insert(1, _fit_note(chosen, found, raw))
    if unused:
        notes.append(
            f"not used, another set of files that may overlap with this one: {', '.join(unused)}; "
            "pass train=, validation=, test= to choose other files"
        )
    return raw, chosen, found, notes


def _fit(
    source: str, rows: Dataset, template: Template | None, renamed: dict[str, str]
) -> tuple[Template, dict[str, str]]:
    for role, column in renamed.items():
        if column not in rows.column_names:
            raise DataError(
                f"{source}: columns={{{role!r}: {column!r}}}: no such column; found {', '.join(map(repr, rows.column_names))}"
            )
    if template is not None:
        found = template.columns_in(rows.column_names, renamed)
        if found is None:
            raise DataError(missing_column_message(source, template, rows.column_names))
        return template, found
    first = [rows[i] for i in range(min(_SNIFFED_ROWS, len(rows)))]
    fit = detect(rows.column_names, first, renamed)
    if fit is None:
        raise DataError(no_template_message(source, rows.column_names))
    return fit


def _fit_note(template: Template, found: dict[str, str], raw: dict[str, Dataset]) -> str:
    used = ", ".join(dict.fromkeys(found.values()))
    unused = [name for name in next(iter(raw.values())).column_names if name not in found.values()]
    return f"template {template.name!r} on the columns {used}" + (f"; not used: {', '.join(unused)}" if unused else "")


def _examples(
    rows: Dataset, template: Template, found: dict[str, str], group: str | None, split: str, notes: list[str]
) -> list[Example]:
    """Renders the rows of a split; rows without a text to learn are dropped and noted."""
    if group is None:
        by_lower = {name.lower(): name for name in rows.column_names}
        group = next((by_lower[name] for name in template.groups if name in by_lower), None)
    write: Callable[[dict[str, Any], str], list[Example]]
    if template.name == "chat":

        def write(row: dict[str, Any], tie: str) -> list[Example]:
            turns = chat.answers(chat.normalise(row[found["messages"]] or []))
            return [
                Example(chat.as_plain_text(before), (answer,), tie, json.dumps(before, ensure_ascii=False))
                for before, answer in turns
            ]
    else:

        def write(row: dict[str, Any], tie: str) -> list[Example]:
            prompt, references = template.render(row, found)
            return [Example(prompt, tuple(references), tie)] if references else []

    examples: list[Example] = []
    n_empty = 0
    for i, row in enumerate(rows):
        assert isinstance(row, dict)
        tie = str(row[group]) if group else (f"chat {i}" if template.name == "chat" else "")
        written = write(row, tie)
        n_empty += not written
        examples.extend(written)
    if n_empty:
        notes.append(f"{split}: {n_empty} rows dropped, nothing to learn in column {found[template.target]!r}")
    return examples


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
    limits = dict(limit) if isinstance(limit, Mapping) else dict.fromkeys(_SPLITS, limit) if limit is not None else {}
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

"""Which files and which template: reads the rows of each split and decides how they become prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ketune.errors import DataError
from ketune.finetuning.sources import READERS, FileSet, find_file_sets, read_files, read_hub, split_of
from ketune.finetuning.templates import TEMPLATES, Template, detect, missing_column_message, no_template_message

if TYPE_CHECKING:
    from datasets import Dataset


_SNIFFED_ROWS = 50
"""Rows that a template looks at before it says whether it suits them."""


@dataclass(frozen=True)
class RawTask:
    """Rows before they are rendered.

    Attributes:
        rows: split to its rows.
        template: what will render them.
        columns: the template's roles and the columns that fill them.
        notes: what was chosen and what was left.
    """

    rows: dict[str, Dataset]
    template: Template
    columns: dict[str, str]
    notes: list[str] = field(default_factory=list)


def read_raw(source: str, template: Template | None, named: dict[str, str | None], renamed: dict[str, str]) -> RawTask:
    """Reads the rows of each split and decides on the template and its columns.

    Args:
        source: a folder, a file or a hub id.
        template: the user's; None to find a built-in one.
        named: split to a file that the user named, relative to the folder.
        renamed: role to column, as the user named them.

    Raises:
        DataError: if nothing is there, or nothing fits.
    """
    path = Path(source).expanduser()
    if any(named.values()):
        folder = path if path.is_dir() else path.parent
        files = {split: [folder / name] for split, name in named.items() if name}
        if path.is_file():
            files.setdefault("train", [path])
        return _best_file_set([FileSet("", files)], template, renamed)
    if path.is_dir():
        candidates, without_split = find_file_sets(path)
        unused = ", ".join(p.name for p in without_split)
        if not candidates:
            raise DataError(f"{source}: no file name tells its split (found {unused}); pass train=, validation=, test=")
        task = _best_file_set(candidates, template, renamed)
        if without_split:
            task.notes.append(f"not used, no split in the name: {unused}")
        return task
    if path.is_file():
        return _best_file_set([FileSet("", {split_of(path.name)[0] or "train": [path]})], template, renamed)
    if path.suffix.lower() in READERS or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise DataError(f"{source}: no such file or folder")
    rows = read_hub(source)
    chosen, columns = _fit(source, next(iter(rows.values())), template, renamed)
    return RawTask(
        rows, chosen, columns, [f"loaded from the Hugging Face Hub: {source}", _fit_note(chosen, columns, rows)]
    )


def _best_file_set(candidates: list[FileSet], template: Template | None, renamed: dict[str, str]) -> RawTask:
    """Takes the set whose columns fit best; never mixes two, which may overlap."""
    fitting: list[tuple[FileSet, Template, dict[str, str]]] = []
    misfits: list[DataError] = []
    for candidate in candidates:
        first = next(iter(candidate.files.values()))
        try:
            fitting.append((candidate, *_fit(str(first[0]), read_files(first), template, renamed)))
        except DataError as error:
            misfits.append(error)
    if not fitting:
        raise misfits[0]
    particular = {name: rank for rank, name in enumerate(TEMPLATES)}

    def rank(fit: tuple[FileSet, Template, dict[str, str]]) -> tuple[object, ...]:
        files, chosen, _ = fit
        # Plain text fits nearly everything, so it comes last; then the set with a training split and the most splits.
        is_text = chosen.name == "text"
        return (is_text, "train" not in files.files, -len(files.files), particular.get(chosen.name, 0), files.name)

    best, chosen, columns = min(fitting, key=rank)
    rows = {split: read_files(paths) for split, paths in best.files.items()}
    for split, table in rows.items():
        if not set(columns.values()) <= set(table.column_names):
            raise DataError(missing_column_message(str(best.files[split][0]), chosen, table.column_names))
    names = ", ".join(f"{split} = {' + '.join(p.name for p in paths)}" for split, paths in best.files.items())
    notes = [f"files: {names}", _fit_note(chosen, columns, rows)]
    unused = [
        path.name for other in candidates if other is not best for paths in other.files.values() for path in paths
    ]
    if unused:
        notes.append(
            f"not used, another set of files that may overlap with this one: {', '.join(unused)}; "
            "pass train=, validation=, test= to choose other files"
        )
    return RawTask(rows, chosen, columns, notes)


def _fit(
    source: str, rows: Dataset, template: Template | None, renamed: dict[str, str]
) -> tuple[Template, dict[str, str]]:
    """Returns the template for a table and the column of each of its roles."""
    names = rows.column_names
    for role, column in renamed.items():
        if column not in names:
            found = ", ".join(map(repr, names))
            raise DataError(f"{source}: columns={{{role!r}: {column!r}}}: no such column; found {found}")
    if template is not None:
        columns = template.columns_in(names, renamed)
        if columns is None:
            raise DataError(missing_column_message(source, template, names))
        return template, columns
    fit = detect(names, [rows[i] for i in range(min(_SNIFFED_ROWS, len(rows)))], renamed)
    if fit is None:
        raise DataError(no_template_message(source, names))
    return fit


def _fit_note(template: Template, columns: dict[str, str], rows: dict[str, Dataset]) -> str:
    used = ", ".join(dict.fromkeys(columns.values()))
    unused = [name for name in next(iter(rows.values())).column_names if name not in columns.values()]
    return f"template {template.name!r} on the columns {used}" + (f"; not used: {', '.join(unused)}" if unused else "")

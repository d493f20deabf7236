"""Prompt templates: how a row of a data set becomes a prompt and the texts that may follow it.

A built-in template knows the columns it needs under each of their usual names, so that the template of a data set can
be found from its columns alone. A user's own template is a text with the names of columns in braces.
"""

from __future__ import annotations

import difflib
import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ketune.errors import DataError

Row = Mapping[str, Any]
ANSWER_MARK = "####"
"""What stands before the final number in GSM8K's answers."""

_ALPACA = "Below is an instruction that describes a task"
_ALPACA_WITH_INPUT = (
    _ALPACA + ", paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ALPACA_WITHOUT_INPUT = (
    _ALPACA + ". Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Template:
    """Turns rows into prompts and references.

    Attributes:
        name: what the user calls it.
        required: roles and the column names under which each is known, in order of preference.
        target: the role, one of `required`, whose column holds the text (or the list of texts) to be learned.
        prompt: writes the prompt from a dictionary of role to text; the target is not in it.
        optional: roles that may be missing; their text is then "".
        groups: columns that tie rows together, so that none of them is split over training and held-out rows.
        verbatim: leave blanks and line breaks around the cells as they are; otherwise they are trimmed.
        accepts: looks at the target texts of the first rows; False if the template does not suit them.
    """

    name: str
    required: Mapping[str, Sequence[str]]
    target: str
    prompt: Callable[[dict[str, str]], str]
    optional: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: Sequence[str] = ()
    verbatim: bool = False
    accepts: Callable[[list[str]], bool] = lambda texts: True

    def columns_in(self, available: Sequence[str], renamed: Mapping[str, str] | None = None) -> dict[str, str] | None:
        """Finds the column of each role; None if a required one is missing.

        Args:
            available: the columns of the data set; case does not matter.
            renamed: role to column, the user's word, which goes before the usual names.
        """
        renamed = renamed or {}
        by_lower = {name.lower(): name for name in available}
        found: dict[str, str] = {}
        for role, aliases in {**self.required, **self.optional}.items():
            wanted = [renamed[role]] if role in renamed else list(aliases)
            column = next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)
            if column is not None:
                found[role] = column
            elif role in self.required:
                return None
        return found

    def render(self, row: Row, columns: Mapping[str, str]) -> tuple[str, list[str]]:
        """Returns the prompt and the distinct, non-empty references of one row.

        References come without outer blanks; a blank that the data has before a completion goes to the prompt's end.
        """
        texts = dict.fromkeys(self.optional, "")
        for role, column in columns.items():
            if role != self.target:
                texts[role] = _raw_text(row[column]) if self.verbatim else as_text(row[column])
        prompt, target = self.prompt(texts), row[columns[self.target]]
        if self.verbatim and isinstance(target, str) and target[:1] in (" ", "\n") and not prompt[-1:].isspace():
            prompt += target[0]
        return prompt, as_references(target)


def as_text(value: Any) -> str:
    """A cell as it stands in a prompt: lists are joined by "; ", nothing is the empty text."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "; ".join(as_text(item) for item in value)
    return str(value).strip()


def _raw_text(value: Any) -> str:
    return "" if value is None else str(value)


def as_references(value: Any) -> list[str]:
    """A target cell as the list of its distinct, non-empty texts, in their order."""
    items = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(text for text in (as_text(item) for item in items) if text))


def _alpaca(texts: dict[str, str]) -> str:
    return (_ALPACA_WITH_INPUT if texts["input"] else _ALPACA_WITHOUT_INPUT).format(**texts)


def _qa(texts: dict[str, str]) -> str:
    context = texts["context"] + "\n" if texts["context"] else ""
    return f"{context}Question: {texts['question']}\nAnswer: "


def _has_answer_mark(texts: list[str]) -> bool:
    return bool(texts) and all(ANSWER_MARK in text for text in texts)


_REFERENCES = ("refs", "references", "ref", "reference", "human_reference", "texts", "lexs", "target", "targets")

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        # Chat prompts are written by the model's own tokenizer; `ketune.finetuning.chat` does that.
        Template("chat", {"messages": ("messages", "conversations")}, "messages", lambda texts: ""),
        Template(
            "triples",
            {"triples": ("triples", "modifiedtripleset", "input_triples"), "references": _REFERENCES + ("text",)},
            "references",
            lambda texts: f"{texts['triples']}\nText: ",
        ),
        Template(
            "e2e",
            {"mr": ("mr", "meaning_representation"), "ref": _REFERENCES},
            "ref",
            lambda texts: f"{texts['mr']}\nText: ",
        ),
        Template(
            "alpaca",
            {"instruction": ("instruction",), "output": ("output", "response")},
            "output",
            _alpaca,
            optional={"input": ("input", "context")},
        ),
        Template(
            "math",
            {"question": ("question", "problem"), "answer": ("answer", "solution")},
            "answer",
            lambda texts: f"Question: {texts['question']}\nAnswer: ",
            accepts=_has_answer_mark,
        ),
        Template(
            "qa",
            {"question": ("question", "query"), "answer": ("answer", "answers")},
            "answer",
            _qa,
            optional={"context": ("section", "context", "passage", "story")},
            groups=("story", "story_name", "document", "title"),
        ),
        Template(
            "plain",
            {"prompt": ("prompt",), "completion": ("completion", "response", "references", "target", "targets")},
            "completion",
            lambda texts: texts["prompt"],
            verbatim=True,
        ),
        Template(
            "summary",
            {
                "source": ("source", "article", "document", "dialogue", "abstract"),
                "target": ("target", "targets", "summary", "summaries", "highlights"),
            },
            "target",
            lambda texts: f"{texts['source']}\nSummary: ",
        ),
        Template("text", {"text": ("text", "content")}, "text", lambda texts: ""),
    )
}
"""Built-in templates, the most particular first: the first one that fits is taken."""


def detect(
    columns: Sequence[str], first_rows: Sequence[Row], renamed: Mapping[str, str] | None = None
) -> tuple[Template, dict[str, str]] | None:
    """Finds the first built-in template that fits; returns it with the column of each role, or None."""
    for template in TEMPLATES.values():
        found = template.columns_in(columns, renamed)
        if found is None:
            continue
        if template.accepts([text for row in first_rows for text in as_references(row[found[template.target]])]):
            return template, found
    return None


def custom_template(text: str, completion: str | None = None) -> Template:
    r"""Makes a template from a text with columns in braces, such as "Q: {question}\nA: {answer}".

    Args:
        text: the prompt; without `completion`, the text up to the last column, which is then what is learned.
            A backslash followed by n or t stands for a line break or a tab, as shells pass it.
        completion: one column in braces, e.g. "{answer}".

    Raises:
        DataError: if there is no column in braces, or the completion is not exactly one.
    """
    text = text.replace("\\n", "\n").replace("\\t", "\t")
    if completion is None:
        fields = _fields(text)
        if not fields:
            raise DataError(
                f"template {text!r}: names no column in braces; write for example 'Q: {{question}}\\nA: {{answer}}'"
            )
        target = fields[-1]
        prompt, _, after = text.rpartition("{" + target + "}")
        if after.strip():
            raise DataError(
                f"template {text!r}: text after the last column {{{target}}} would never be learned; drop it"
            )
    else:
        fields = _fields(completion)
        if len(fields) != 1 or completion.strip() != "{" + fields[0] + "}":
            raise DataError(
                f"completion template {completion!r}: must be exactly one column in braces, as '{{answer}}'"
            )
        target, prompt = fields[0], text
    inputs = _fields(prompt)
    if target in inputs:
        raise DataError(f"template {text!r}: the column {target!r} to be learned must not stand in the prompt as well")
    return Template(
        "custom",
        {name: (name,) for name in [*inputs, target]},
        target,
        lambda texts: prompt.format(**texts),
        groups=TEMPLATES["qa"].groups,
    )


def find_template(template: str | Path | Mapping[str, str]) -> Template:
    r"""Returns the template that a user means.

    Args:
        template: the name of a built-in one; a text such as "Q: {question}\nA: {answer}"; a file with such a text; or
            `{"prompt": ..., "completion": ...}`, as a mapping, as JSON or in a file that ends in `.json`.

    Raises:
        DataError: if it is none of these.
    """
    if isinstance(template, Mapping):
        unknown = set(template) - {"prompt", "completion"}
        if unknown or "prompt" not in template or "completion" not in template:
            raise DataError(f"template {dict(template)!r}: needs exactly the keys 'prompt' and 'completion'")
        return custom_template(template["prompt"], template["completion"])
    text = str(template)
    if text in TEMPLATES:
        return TEMPLATES[text]
    if "{" not in text:
        path = Path(text)
        if not path.is_file():
            near = difflib.get_close_matches(text, TEMPLATES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"template {text!r}: neither a built-in template ({', '.join(TEMPLATES)}), nor a file, nor a text with "
                f"columns in braces{hint}"
            )
        text = path.read_text(encoding="utf-8").rstrip("\n")
    if text.lstrip().startswith('{"'):
        try:
            return find_template(json.loads(text))
        except json.JSONDecodeError as error:
            raise DataError(f"template {text!r}: not valid JSON ({error})") from None
    return custom_template(text)


def no_template_message(source: str, columns: Sequence[str]) -> str:
    """One line for a data set whose columns fit no template: what was found and what to pass."""
    known = sorted({alias for t in TEMPLATES.values() for names in t.required.values() for alias in names})
    near = [
        f"{column!r} looks like {match[0]!r}"
        for column in columns
        if column not in known and (match := difflib.get_close_matches(column, known, n=1, cutoff=0.75))
    ]
    hint = f" ({'; '.join(near)}: rename it, or pass columns={{role: column}})" if near else ""
    first, last = (columns[0], columns[-1]) if len(columns) > 1 else ("question", "answer")
    return (
        f"{source}: no built-in template fits the columns {', '.join(map(repr, columns))}{hint}; pass a template such "
        f"as '{{{first}}}\\n{{{last}}}', whose last column is what is learned"
    )


def missing_column_message(source: str, template: Template, columns: Sequence[str]) -> str:
    """One line for a data set that lacks a column of the template the user asked for."""
    lower = {column.lower() for column in columns}
    missing = [role for role, names in template.required.items() if not lower & {name.lower() for name in names}]
    hints = []
    for role in missing:
        near = difflib.get_close_matches(role, columns, n=1)
        hints.append(f"{role!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return (
        f"{source}: template {template.name!r} needs the column {' and '.join(hints) or 'named in columns='}; found "
        f"{', '.join(map(repr, columns))}"
    )


def _fields(text: str) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name]
    except ValueError as error:
        raise DataError(f"template {text!r}: {error}; write {{{{ and }}}} for braces that are not columns") from None

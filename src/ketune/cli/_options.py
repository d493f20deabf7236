"""Options that several commands share, and the reading of their values. Nothing here imports torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Annotated

import typer

from ketune.errors import KetuneError

MODEL = "builtin:base"
DATA = "builtin:inns"


class OptionError(KetuneError, ValueError):
    """A value on the command line that cannot be read."""


# ------------------------------------------------------------------------------------------------- shared options

_DATA_PANEL, _TRAINING_PANEL, _METHOD_PANEL = "Data", "Training", "Method"

ModelOption = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="A model folder, a hub id, or builtin:base.")
]
BaseOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="The base model, if it is not where the adapter says it was."),
]
DataOption = Annotated[
    str,
    typer.Option("--data", "-d", metavar="DATA", help="A data folder or file, a hub id, or builtin:inns."),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|TEXT",
        help=r"How a row becomes a prompt and an answer: a built-in template or text such as "
        r"'Q: {question}\nA: {answer}'. Found from the columns if left out.",
        rich_help_panel=_DATA_PANEL,
    ),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="ROLE=NAME",
        help="A column with an unusual name, e.g. question=frage. Repeat for more.",
        rich_help_panel=_DATA_PANEL,
    ),
]
TrainFileOption = Annotated[
    str | None,
    typer.Option(
        "--train", metavar="FILE", help="Training rows, if file names do not tell.", rich_help_panel=_DATA_PANEL
    ),
]
ValidationFileOption = Annotated[
    str | None,
    typer.Option("--validation", metavar="FILE", help="Validation rows, likewise.", rich_help_panel=_DATA_PANEL),
]
TestFileOption = Annotated[
    str | None, typer.Option("--test", metavar="FILE", help="Test rows, likewise.", rich_help_panel=_DATA_PANEL)
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Optimiser steps.", rich_help_panel=_TRAINING_PANEL)
]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Sequences per step.", rich_help_panel=_TRAINING_PANEL)
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option("--max-length", metavar="N", help="Longest sequence in tokens.", rich_help_panel=_TRAINING_PANEL),
]
TrainingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--training",
        metavar="NAME=VALUE",
        help="Any other field of TrainingParams, e.g. lr_scheduler=cosine. Repeat for more.",
        rich_help_panel=_TRAINING_PANEL,
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Trainable parameters that a method may have: 0.1% of the model, or a count such as 5000, 12k, 1.5M.",
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Rank, prefix length or readouts, by method.", rich_help_panel=_METHOD_PANEL),
]
PresetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A ready-made configuration, e.g. published.", rich_help_panel=_METHOD_PANEL),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the method's config, e.g. n_layers=2 or target_modules=q_proj,v_proj. Repeat for more.",
        rich_help_panel=_METHOD_PANEL,
    ),
]
ControlOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Run a quantum method as a control: frozen, classical or none.",
        rich_help_panel=_METHOD_PANEL,
    ),
]
BitsOption = Annotated[
    str | None,
    typer.Option(
        metavar="BITS",
        help="Of weights, activations, keys and values, for --quantization: w4a4kv4, w4a16, w2a16g128 (in groups).",
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the model run code of its own. Read that code first.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else there.")]


# --------------------------------------------------------------------------------------------- reading of values


def expand(text: str) -> str:
    """A path with its `~` spelled out (the shell leaves it in --model=~/x); any other text as it is."""
    return os.path.expanduser(text) if text.startswith("~") else text


def expand_optional(text: str | None) -> str | None:
    """`expand`, for an option that may be left out."""
    return None if text is None else expand(text)


def one_model(argument: str | None, option: str) -> str:
    """The model of a command that takes it as an argument and as --model.

    Raises:
        OptionError: when both are given.
    """
    if argument is not None and option != MODEL:
        raise OptionError(f"the model is named twice, {argument!r} and --model {option!r}; name it once")
    return argument or option


def split_list(option: str, text: str) -> tuple[str, ...]:
    """The parts of "full,lora,qaa".

    Raises:
        OptionError: when there are none.
    """
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise OptionError(f"{option} {text!r}: name at least one, with commas between them")
    return parts


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "3" (the first three: 0, 1, 2), from "5," (only seed 5) or from "0,1,2".

    Raises:
        OptionError: for anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = f"--seeds {text!r}: pass how many (3), or the seeds themselves (0,1,2; 5, for only seed 5)"
    try:
        if len(parts) > 1:
            return tuple(int(part) for part in parts if part)
        count = int(parts[0])
    except ValueError:
        raise OptionError(wrong) from None
    if not 1 <= count <= 1000:
        raise OptionError(wrong)
    return tuple(range(count))


def quantizations(names: str | None, bits: str | None) -> tuple[str, ...]:
    """Ways to quantise from "none,roste" and "w4a4kv4,w4a16": each way with all bits, unless it brings its own.

    Raises:
        OptionError: for bits without a way to quantise.
    """
    if names is None:
        if bits is not None:
            raise OptionError(f"--bits {bits!r}: name how to quantise too, e.g. --quantization roste")
        return ()
    found = []
    for name in split_list("--quantization", names):
        own = ":" in name or name in ("none", "nf4", "int8")
        found += [name] if own or bits is None else [f"{name}:{one}" for one in split_list("--bits", bits)]
    return tuple(found)


def parse_rank(text: str | None) -> int | float | None:
    """A rank from "16", or the share to keep from "0.99"; what is allowed is the conversion's to check.

    Raises:
        OptionError: for anything else.
    """
    for kind in (int, float):
        try:
            return None if text is None else kind(text)
        except ValueError:
            continue
    raise OptionError(f"--rank {text!r}: pass a whole number such as 16, or a share such as 0.99")


def parse_numbers(option: str, text: str, kind: type[int] | type[float]) -> tuple[int | float, ...]:
    """Numbers from "0,0.01" or "100,1000".

    Raises:
        OptionError: for anything else, or a number below 0.
    """
    try:
        found = tuple(kind(part) for part in split_list(option, text))
    except ValueError:
        raise OptionError(f"{option} {text!r}: pass numbers with commas between them") from None
    if any(not 0 <= number < float("inf") for number in found):
        raise OptionError(f"{option} {text!r}: no number may be below 0")
    return found


def parse_pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    """Names and values of "name=value" texts.

    Raises:
        OptionError: for a text without "=", or a name given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise OptionError(f"{option} {text!r}: write name=value")
        if name.strip() in pairs:
            raise OptionError(f"{option} {text!r}: {name.strip()!r} is given twice")
        pairs[name.strip()] = value.strip()
    return pairs


def parse_rates(option: str, texts: Iterable[str] | None) -> dict[str, float]:
    """Learning rates by method from "lora=1e-3" texts.

    Raises:
        OptionError: for a rate that is no number; the comparison checks the rest.
    """
    rates = {}
    for name, value in parse_pairs(option, texts).items():
        try:
            rates[name] = float(value)
        except ValueError:
            raise OptionError(f"{option} '{name}={value}': the rate must be a number such as 1e-3") from None
    return rates


def read_prompts(lines: Iterable[str]) -> list[str]:
    """One prompt from each line that is not blank: the line itself, or the field "prompt" of a JSON object.

    Raises:
        OptionError: when there is none.
    """
    prompts = [_prompt_of(line.rstrip("\r\n")) for line in lines if line.strip()]
    if not prompts:
        raise OptionError("no prompt: pass --prompt TEXT, or one prompt per line on standard input")
    return prompts


def _prompt_of(line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return line
    return row["prompt"] if isinstance(row, dict) and isinstance(row.get("prompt"), str) else line


def ending(path: str) -> str:
    """ "png" of "circuit.PNG"; "png" too when there is none."""
    return os.path.splitext(path)[1].lstrip(".").lower() or "png"


def write_file(path: str, content: str | bytes | None) -> None:
    """Write a file beside its place and rename it.

    Raises:
        OptionError: when it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content or b""
    staged = f"{path}.tmp{os.getpid()}"
    try:
        with open(staged, "wb") as file:
            file.write(data)
        os.replace(staged, path)
    except OSError as error:
        raise OptionError(f"--out {path!r}: cannot be written ({error.strerror})") from error


def default_folder(model: str, data: str) -> str:
    """Where a comparison goes if nobody says: "runs/base-inns" for builtin:base and builtin:inns."""
    return os.path.join("runs", f"{_short(model)}-{_short(data)}")


def _short(name: str) -> str:
    if name.startswith("builtin:"):
        return name.removeprefix("builtin:")
    stem = os.path.basename(os.path.abspath(name)).split(":")[0]
    for ending in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"):
        stem = stem.removesuffix(ending)
    return stem or "model"


def given(**values: object) -> dict[str, object]:
    """The options that were given, by name."""
    return {name: value for name, value in values.items() if value is not None}

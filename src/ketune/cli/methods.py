"""List the methods, with the exact number of parameters that each would train on a model.

The model's config is enough: a folder, a config.json, a hub id or builtin:base. No weights are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.adapters import Method

EXAMPLES = (
    "ketune methods",
    "ketune methods --model ./my-model/config.json --budget 0.1%",
    "ketune methods --model ./my-model --method qaa --set ansatz=ry_ring --set up_bias=false",
    "ketune methods --model ./my-model --method lora --size 8 --set target_modules=q_proj,v_proj --json",
)


def run(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="A model folder, a config.json, a hub id, or builtin:base."
        ),
    ] = options.MODEL,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this method, with the options below.")
    ] = None,
    budget: options.BudgetOption = None,
    size: options.SizeOption = None,
    preset: options.PresetOption = None,
    settings: options.SetOption = None,
    control: options.ControlOption = None,
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from ketune.adapters.summary import summarize_methods

    with output.libraries_quiet():
        summary = summarize_methods(
            options.expand(model),
            method=method,
            size=size,
            budget=budget,
            preset=preset,
            settings=settings or (),
            control=control,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        output.print_json(summary.to_dict())
        return
    console = output.results()
    budget_words = "" if summary.budget is None else f", budget {summary.budget:,}"
    head = f"{summary.model} ({summary.model_type}, {summary.n_parameters:,} parameters{budget_words})"
    output.say(head, to=console, style="bold")
    table = output.plain_table("Method", "Size", "Controls", "Trainable", "Share", "Learning rate", numbers=3)
    for row in summary.methods:
        name = row.method.name if row.preset is None else f"{row.method.name} --preset {row.preset}"
        table.add_row(
            name,
            "–" if row.problem is not None else _size(row.method, row.size),
            ", ".join(row.method.controls) or "–",
            "–" if row.count is None else f"{row.count:,}",
            output.share(row.share),
            f"{row.method.learning_rate:g}",
        )
    output.say(to=console)
    console.print(table)
    output.say(to=console)
    for row in summary.methods:
        if row.problem is not None:
            output.say(f"{row.method.name}: {row.problem}", to=console, style="yellow")
    entries = dict.fromkeys(row.method for row in summary.methods)
    width = 2 + max(len(entry.name) for entry in entries)
    for entry in entries:
        output.say(f"{entry.name:<{width}}{entry.title}: {entry.summary}", to=console)
        output.say(f"{'':<{width}}{entry.citation}", to=console, style="dim")


def _size(method: Method, size: int | None) -> str:
    if not method.size_name:
        return "all weights" if method.configure is None else "one size"
    return f"{method.size_name} {size}" if size is not None else f"{method.size_name}: {method.unsized}"

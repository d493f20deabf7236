"""Score a model, with or without an adapter, on a data set.

Loss, perplexity and bits per byte of the answers in the data; BLEU, ROUGE and exact match of answers that it writes.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

EXAMPLES = (
    "ketune evaluate --adapter runs/qaa --data ./my-data",
    "ketune evaluate --model ./my-model --data ./my-data --n-generate 0",
    "ketune evaluate --adapter runs/qaa --split validation --limit 100 --json",
)


def run(
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", metavar="DIR", help="What `ketune finetune --out` wrote, or any PEFT adapter."),
    ] = None,
    model: options.BaseOption = None,
    data: options.DataOption = options.DATA,
    split: Annotated[str, typer.Option(metavar="NAME", help="test, validation or train.")] = "test",
    limit: Annotated[int | None, typer.Option(metavar="N", help="At most so many rows.")] = None,
    n_generate: Annotated[int, typer.Option(metavar="N", help="Prompts to answer and score; 0 for none.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Length of an answer.")] = 64,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Sequences at once.")] = 16,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Longest sequence in tokens.")] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="Answers to show.")] = 0,
    bertscore_model: Annotated[str | None, typer.Option(metavar="MODEL", help="An encoder; adds BERTScore.")] = None,
    template: options.TemplateOption = None,
    column: options.ColumnOption = None,
    train: options.TrainFileOption = None,
    validation: options.ValidationFileOption = None,
    test: options.TestFileOption = None,
    dtype: options.DtypeOption = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    columns = options.parse_pairs("--column", column) or None

    from ketune.finetuning.evaluation import evaluate_saved

    with output.working("loading and scoring"), output.libraries_quiet():
        found = evaluate_saved(
            options.expand_optional(adapter),
            options.expand_optional(model),
            options.expand(data),
            split=split,
            limit=limit,
            n_generate=n_generate,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            max_length=max_length,
            n_samples=samples,
            bertscore_model=options.expand_optional(bertscore_model),
            data_options={
                "template": template,
                "columns": columns,
                "train": train,
                "validation": validation,
                "test": test,
            },
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        output.print_json(found.to_dict())
        return

    from ketune.cli._tables import print_samples, print_scores

    for note in found.notes:
        output.say(note, to=output.messages(), style="dim")
    output.say(f"{found.model} on {found.data}, {found.split} split", style="bold")
    print_scores(found.scores, {"rows": found.n_rows, "answers": found.n_generated})
    print_samples(found.samples)

"""Let a model continue prompts: those on the command line, or one for each line of standard input.

A line is a prompt as it is, or a JSON object with a field "prompt", such as a row of a data set in JSONL. Prompts must
read exactly as in training.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

EXAMPLES = (
    "ketune generate --adapter runs/qaa --prompt 'name: The Blue Anchor | food: pies' --max-new-tokens 40",
    "ketune generate --adapter runs/qaa --temperature 0.8 --seed 1 < prompts.txt",
    "ketune generate --model ./my-model --prompt 'Once upon a time' --json",
)


def run(
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", metavar="DIR", help="What `ketune finetune --out` wrote, or any PEFT adapter."),
    ] = None,
    model: options.BaseOption = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Repeat for more. Standard input is read if left out."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Length of a text.")] = 64,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="0 takes the most probable token each time; above 0 draws.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="X", help="Draw from the most probable tokens up to this share.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the draw.")] = 0,
    dtype: options.DtypeOption = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    prompts = list(prompt) if prompt else _read_prompts()

    from ketune.finetuning.trained import generate_saved

    with output.working("writing"), output.libraries_quiet():
        texts = generate_saved(
            options.expand_optional(adapter),
            options.expand_optional(model),
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        output.print_json([{"prompt": before, "text": text} for before, text in zip(prompts, texts)])
        return
    for text in texts:
        output.verbatim(text)


def _read_prompts() -> list[str]:
    if sys.stdin.isatty():
        output.say("one prompt per line; end with Ctrl-D", to=output.messages(), style="dim")
    return options.read_prompts(sys.stdin)

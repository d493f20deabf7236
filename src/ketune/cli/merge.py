"""Fold an adapter into its base model, and write a model that transformers loads without PEFT or Ketune.

Only adapters that are a change of weights can be merged: LoRA, SoRA, QAA with readout=amplitudes. The others say why
not. With --prune a SoRA adapter becomes a plain LoRA adapter without the ranks that its gate switched off.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

EXAMPLES = (
    "ketune merge --adapter runs/lora --out merged",
    "ketune merge --adapter runs/lora --model ./my-model --dtype bfloat16 --out merged",
    "ketune merge --adapter runs/sora --prune --out runs/sora-as-lora",
)


def run(
    adapter: Annotated[
        str,
        typer.Option("--adapter", "-a", metavar="DIR", help="What `ketune finetune --out` wrote, or any PEFT adapter."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")],
    model: options.BaseOption = None,
    prune: Annotated[bool, typer.Option("--prune", help="SoRA only: write a plain LoRA adapter instead.")] = False,
    dtype: options.DtypeOption = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from ketune.finetuning.merging import merge, prune_to_lora

    source, target, base = options.expand(adapter), options.expand(out), options.expand_optional(model)
    with output.working("pruning" if prune else "merging"), output.libraries_quiet():
        if prune:
            done = prune_to_lora(source, target, base, trust_remote_code=trust_remote_code)
        else:
            done = merge(source, target, base, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if as_json:
        output.print_json(done.to_dict())
        return
    kind = "LoRA adapter" if prune else "model"
    output.say(f"{done.method} -> {kind} with {done.n_parameters:,} parameters, {output.size(done.n_bytes)}")
    if done.ranks is not None:
        least, most = min(done.ranks.values()), max(done.ranks.values())
        output.say(f"ranks left: {least} to {most} over {len(done.ranks)} layers", style="dim")
    output.say(f"saved: {done.folder}", style="bold")

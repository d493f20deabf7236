"""Memory of ZeroQAT's training step beside inference and beside back-propagation, at the same batch.

A Llama of 60 million random weights is quantised, and each line below runs in a process of its own:

- inference: the loss of a batch without gradients,
- ZeroQAT: a step of `zeroth_order`,
- straight-through: a step of AdamW with straight-through gradients,

on three forms of the model: `whole` (full-precision masters of all linear layers, rounded in each forward pass),
`light` (masters of query and value projections, packed codes for the rest) and `codes` (what is deployed; inference
only). A figure is the highest resident memory from when the model stands until the last step ends, less what the
process held before it made the model (interpreter and libraries). On CUDA it is the highest memory that tensors took.
The aim is ZeroQAT within 15 % of inference in the same form.

    python benchmarks/zeroqat_memory.py
    python benchmarks/zeroqat_memory.py --bits w2a16g128 --device cuda --width 2048 --layers 16
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FORMS = {"whole": ("inference", "ZeroQAT", "straight-through"), "light": ("inference", "ZeroQAT", "straight-through")}
FORMS |= {"codes": ("inference",)}
AIM = 1.15
MIB = 2**20
# Large tensors always come from the system and go back to it: what is resident is what is in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--probes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", nargs=2, metavar=("FORM", "ACTIVITY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options, *options.worker)))
        return
    results: dict[str, Any] = {}
    print(f"{options.bits}, batch {options.batch} x {options.length}, {options.device}; MiB\n")
    print(f"{'form':8}{'activity':18}{'model':>9}{'peak':>9}{'of inference':>14}")
    for form, activities in FORMS.items():
        for activity in activities:
            found = ask(form, activity)
            results[f"{form}, {activity}"] = found
            ratio = found["peak"] / results[f"{form}, inference"]["peak"]
            note = ""
            if activity == "ZeroQAT":
                note = "   within 15 %" if ratio <= AIM else "   ABOVE 15 %"
            print(f"{form:8}{activity:18}{found['model']:9.0f}{found['peak']:9.0f}{ratio:14.3f}{note}", flush=True)
    print(f"\n{results['codes, inference']['n_parameters']:,} parameters")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def ask(form: str, activity: str) -> dict[str, float]:
    """One line of the table, from a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", form, activity]
    done = subprocess.run(command, env={**os.environ, **ALLOCATOR}, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, form: str, activity: str) -> dict[str, float]:
    """Runs one activity on one form of the model; MiB beyond what the process held before it made the model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ketune.quantization import QuantizeConfig, quantize_
    from ketune.quantization.zeroqat import ZeroQATConfig, prepare_zeroqat_, zeroth_order

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    meter = Meter(options.device)
    config = LlamaConfig(
        hidden_size=options.width,
        intermediate_size=8 * options.width // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        vocab_size=2048,
        max_position_embeddings=options.length,
    )
    model: Any = LlamaForCausalLM(config).to(options.device).eval()
    n_parameters = model.num_parameters()
    # Without the first stage, whose memory is another matter and is given back.
    prepare_zeroqat_(model, ZeroQATConfig(options.bits, epochs=0, lightweight=form == "light"))
    if form == "codes":
        quantize_(model, QuantizeConfig(options.bits, step="convert"))
    ids = torch.randint(0, 2048, (options.batch, options.length), device=options.device)

    def loss() -> torch.Tensor:
        return model(ids, labels=ids, use_cache=False).loss

    resident = meter.start()
    if activity == "inference":
        with torch.no_grad():
            for _ in range(options.steps):
                loss()
    elif activity == "ZeroQAT":
        optimizer = zeroth_order(model, n_probes=options.probes)
        for _ in range(options.steps):
            optimizer.step(loss)
    else:
        adamw = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        for _ in range(options.steps):
            adamw.zero_grad()
            loss().backward()
            adamw.step()
    return {"model": resident, "peak": meter.stop(), "n_parameters": n_parameters}


class Meter:
    """Memory beyond what there was when this was made, in MiB."""

    def __init__(self, device: str) -> None:
        import torch

        self.cuda = torch.cuda if device.startswith("cuda") else None
        self.before = 0.0 if self.cuda else resident("VmRSS")

    def start(self) -> float:
        """What is held now; from here on the highest value counts."""
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
            return self.cuda.memory_allocated() / MIB
        # 5 sets the highest resident memory to the present one (proc(5)).
        Path("/proc/self/clear_refs").write_text("5")
        return resident("VmRSS") - self.before

    def stop(self) -> float:
        """The highest value since `start`."""
        return self.cuda.max_memory_allocated() / MIB if self.cuda else resident("VmHWM") - self.before


def resident(key: str) -> float:
    """A line of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}; this benchmark needs Linux")


if __name__ == "__main__":
    main()

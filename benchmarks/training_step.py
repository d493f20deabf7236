"""What one training step costs with each adapter, beside LoRA, in one run.

Two comparisons, printed apart because they answer different questions:

1. The whole step (forward, loss, backward, AdamW) of a language model with adapters on its query and value
   projections, at the same batch for all. This is what a user waits for.
2. The adapter alone: forward and backward of one update on a batch of activations, without the model around it. Here
   QAA stands beside LoRA, and beside the same QAA update written with PennyLane's `default.qubit` under torch. Adapter
   alone is the setting in which the authors of QAA report 8.9 ms against 0.006 ms for a sample's forward pass
   (arXiv 2609.37134; another machine, batch 32, 4 qubits).

Before anything is timed, all adapted models must equal the base model exactly (they start at zero) and the PennyLane
update must give our values and gradients to 1e-5. Turns are taken in rotation, so that a busy machine slows all alike;
figures are medians.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --model gpt2 --batch 4 --length 512 --threads 8
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pennylane as qml
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import ketune
from ketune import QAAConfig, SoraConfig
from ketune.assets.names import BUNDLED_MODEL, resolve_model

SHARED_MODEL = Path(__file__).parents[2] / "shared" / "data" / "model-gpt-neo-tinystories-3m"
CONFIGS: dict[str, Callable[[], PeftConfig]] = {
    "LoRA r=8": lambda: LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16),
    "SoRA r=8": lambda: SoraConfig(task_type="CAUSAL_LM", r=8),
    "QAA published": lambda: QAAConfig.preset("published", task_type="CAUSAL_LM"),
    "QAA recommended": lambda: QAAConfig.preset("recommended", task_type="CAUSAL_LM"),
    "QAA amplitudes": lambda: QAAConfig(task_type="CAUSAL_LM", readout="amplitudes"),
    "QAA classical control": lambda: QAAConfig(task_type="CAUSAL_LM", control="classical"),
}


def rotate(calls: dict[str, Callable[[], None]], turns: int, wall: bool) -> dict[str, float]:
    """Median seconds of each call, taken in rotation after one warm-up turn."""
    clock = time.perf_counter if wall else time.process_time
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seen[name].append(clock() - start)
    return {name: median(values) for name, values in seen.items()}


def model_steps(
    place: str, batch: int, length: int, device: str
) -> tuple[dict[str, Callable[[], None]], dict[str, int]]:
    """One training step per adapter, after checking that each model still equals the base."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).to(device).eval()
    ids = torch.randint(0, base.config.vocab_size, (batch, length), device=device)
    with torch.no_grad():
        expected = base(ids).logits
    steps: dict[str, Callable[[], None]] = {}
    counts: dict[str, int] = {}
    for name, make in CONFIGS.items():
        torch.manual_seed(0)
        fresh: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).to(device)
        model: Any = get_peft_model(fresh, make()).eval()
        with torch.no_grad():
            assert torch.equal(model(ids).logits, expected), f"{name} does not start as the base model"
        model.train()
        trainable = [p for p in model.parameters() if p.requires_grad]
        counts[name] = sum(p.numel() for p in trainable)
        optimizer = torch.optim.AdamW(trainable, lr=1e-3)

        def step(model: Any = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        steps[name] = step
    return steps, counts


class PennyLaneQAA(nn.Module):
    """The published QAA update with PennyLane under torch: RY on each wire, a ring of CNOTs, Pauli-Z, a linear map."""

    def __init__(self, width: int, angles: Tensor, up: Tensor) -> None:
        super().__init__()
        self.angles, self.up = nn.Parameter(angles.clone()), nn.Parameter(up.clone())
        n = (width - 1).bit_length()

        @qml.qnode(qml.device("default.qubit", wires=n), interface="torch", diff_method="backprop")
        def circuit(x: Tensor, angles: Tensor) -> list[object]:
            qml.AmplitudeEmbedding(x, wires=range(n), pad_with=0.0, normalize=True)
            for wire in range(n):
                qml.RY(angles[wire], wires=wire)
            for wire in range(n):
                qml.CNOT(wires=[wire, (wire + 1) % n])
            return [qml.expval(qml.PauliZ(wire)) for wire in range(n)]

        self.circuit = circuit

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stack(self.circuit(x, self.angles), -1)
        return z.to(x.dtype) @ self.up.T


def adapter_calls(width: int, tokens: int) -> dict[str, Callable[[], None]]:
    """Forward and backward of one update, after checking that PennyLane's agrees with ours."""
    torch.manual_seed(0)
    ours: Any = QAAConfig.preset("published", up_bias=False).make_update(width, width)
    nn.init.normal_(ours.up)
    theirs = PennyLaneQAA(width, ours.features.angles.detach(), ours.up.detach())
    lora: Any = nn.Sequential(nn.Linear(width, 8, bias=False), nn.Linear(8, width, bias=False))
    recommended: Any = QAAConfig.preset("recommended").make_update(width, width)
    nn.init.normal_(recommended.up)
    x, weight = torch.randn(tokens, width), torch.randn(tokens, width)

    def call(module: nn.Module) -> Tensor:
        features = x.clone().requires_grad_()
        module.zero_grad()
        (module(features) * weight).sum().backward()
        assert features.grad is not None
        return features.grad

    assert torch.allclose(ours(x), theirs(x), atol=1e-5), "the two QAA updates differ"
    assert torch.allclose(call(ours), call(theirs), atol=1e-4), "the two QAA gradients differ"
    scale = theirs.angles.grad.abs().max()  # pyright: ignore[reportOptionalMemberAccess]
    assert torch.allclose(ours.features.angles.grad, theirs.angles.grad, atol=1e-5 * float(scale))
    modules = {"LoRA r=8": lora, "QAA published": ours, "QAA recommended": recommended, "QAA in PennyLane": theirs}
    return {name: (lambda module=module: (call(module), None)[1]) for name, module in modules.items()}


def table(title: str, seconds: dict[str, float], counts: dict[str, int] | None = None) -> None:
    """Print milliseconds and the ratio to LoRA."""
    print(f"\n{title}\n")
    print(f"{'':24}{'ms':>10}{'x LoRA':>9}" + (f"{'trainable':>12}" if counts else ""))
    reference = next(iter(seconds.values()))
    for name, value in seconds.items():
        line = f"{name:24}{1e3 * value:10.1f}{value / reference:9.2f}"
        print(line + (f"{counts[name]:12,}" if counts else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = str(SHARED_MODEL) if SHARED_MODEL.exists() else BUNDLED_MODEL
    parser.add_argument("--model", default=default, help="hub id or folder (default: GPT-Neo 3M where it is at hand)")
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence")
    parser.add_argument("--turns", type=int, default=7, help="timed turns of each")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; with one, CPU time is what is measured")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/training_step.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wall = options.threads > 1 or device == "cuda"
    place = resolve_model(options.model)
    unit = "wall time" if wall else "CPU time"

    steps, counts = model_steps(place, options.batch, options.length, device)
    whole = rotate(steps, options.turns, wall)
    tokens = options.batch * options.length
    table(f"One training step of {place}, {options.batch} x {options.length} tokens, q and v ({unit})", whole, counts)
    width = AutoModelForCausalLM.from_pretrained(place).config.hidden_size
    alone = rotate(adapter_calls(width, tokens), options.turns, wall)
    table(f"One adapter alone, {tokens} activations of width {width}, forward and backward ({unit})", alone)

    options.json.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {options.threads} thread(s), {device}",
        "versions": {"torch": torch.__version__, "ketune": ketune.__version__, "pennylane": qml.version()},
        "measured": unit,
        "step_seconds": whole,
        "adapter_seconds": alone,
        "trainable": counts,
    }
    staged = options.json.with_suffix(".tmp")
    staged.write_text(json.dumps(record, indent=2))
    staged.replace(options.json)
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()

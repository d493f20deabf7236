"""What one training step costs with each adapter, beside LoRA, in one run.

Three comparisons, printed apart because they answer different questions:

1. The whole step (forward, loss, backward, AdamW) of a language model with adapters on its query and value
   projections, at the same batch for all. This is what a user waits for.
2. The same on a Llama of width 1024 and 8 layers with random weights, where a circuit has 10 wires.
3. The adapter alone: forward and backward of one update on a batch of activations, without the model around it. Here
   QAA stands beside LoRA, and beside the same QAA update written with PennyLane's `default.qubit` under torch. Adapter
   alone is the setting in which the authors of QAA report 8.9 ms against 0.006 ms for a sample's forward pass
   (arXiv 2609.37134; another machine, batch 32, 4 qubits). Beside the time stand the bytes that autograd keeps for the
   backward pass beyond the input and the weights, and the memory a pass takes at its highest point.

Before anything is timed, all adapted models must equal the base model exactly (they start at zero) and the PennyLane
update must give our values and gradients to 1e-5. Turns are taken in rotation, so that a busy machine slows all alike;
figures are medians.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --model gpt2 --batch 4 --length 512 --threads 8
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import pennylane as qml
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import ketune
from ketune import (
    CompassConfig,
    PreQuantConfig,
    QAAConfig,
    QPAConfig,
    QTHAConfig,
    QuantaConfig,
    QuantumPeftConfig,
    QuicConfig,
    SoraConfig,
)
from ketune.assets.names import BUNDLED_MODEL, resolve_model

SHARED_MODEL = Path(__file__).parents[2] / "shared" / "data" / "model-gpt-neo-tinystories-3m"
CONFIGS: dict[str, Callable[[], PeftConfig]] = {
    "LoRA r=8": lambda: LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16),
    "SoRA r=8": lambda: SoraConfig(task_type="CAUSAL_LM", r=8),
    "QuanTA four axes": lambda: QuantaConfig(task_type="CAUSAL_LM"),
    "QuanTA 2048 a layer": lambda: QuantaConfig(task_type="CAUSAL_LM", max_parameters=2048),
    "QAA published": lambda: QAAConfig.preset("published", task_type="CAUSAL_LM"),
    "QAA recommended": lambda: QAAConfig.preset("recommended", task_type="CAUSAL_LM"),
    "QAA amplitudes": lambda: QAAConfig(task_type="CAUSAL_LM", readout="amplitudes"),
    "QTHA": lambda: QTHAConfig(task_type="CAUSAL_LM"),
    "QTHA two layers": lambda: QTHAConfig(task_type="CAUSAL_LM", n_qlayers=2),
    "QTHA AB": lambda: QTHAConfig(task_type="CAUSAL_LM", architecture="AB"),
    "QTHA A": lambda: QTHAConfig(task_type="CAUSAL_LM", architecture="A"),
    "QTHA classical control": lambda: QTHAConfig(task_type="CAUSAL_LM", control="classical"),
    "QPA recommended": lambda: QPAConfig(task_type="CAUSAL_LM"),
    "QPA published": lambda: QPAConfig.preset("published", task_type="CAUSAL_LM"),
    "QAA classical control": lambda: QAAConfig(task_type="CAUSAL_LM", control="classical"),
    "Quantum-PEFT": lambda: QuantumPeftConfig(task_type="CAUSAL_LM"),
    "Quantum-PEFT 20 terms": lambda: QuantumPeftConfig(task_type="CAUSAL_LM", n_terms=20),
    "Quantum-PEFT Cayley": lambda: QuantumPeftConfig(task_type="CAUSAL_LM", form="cayley"),
    "QuIC 1,2": lambda: QuicConfig(task_type="CAUSAL_LM"),
    "QuIC 1,2,3": lambda: QuicConfig(task_type="CAUSAL_LM", orders=[1, 2, 3]),
    "QuIC 4 chained": lambda: QuicConfig(task_type="CAUSAL_LM", n_chained=4),
    "PreQuant 0.5 %": lambda: PreQuantConfig(task_type="CAUSAL_LM"),
    "Compass": lambda: CompassConfig(task_type="CAUSAL_LM"),
    "Compass with circuits": lambda: CompassConfig(task_type="CAUSAL_LM", n_layers=1),
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


def random_llama() -> Any:
    """A Llama of width 1024 with 8 layers, the same random weights each time."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=2048, max_position_embeddings=512))


def model_steps(
    load: Callable[[], Any], names: list[str], batch: int, length: int, device: str
) -> tuple[dict[str, Callable[[], None]], dict[str, int]]:
    """One training step per adapter, after checking that each model still equals the base."""
    torch.manual_seed(0)
    base = load().to(device).eval()
    ids = torch.randint(0, base.config.vocab_size, (batch, length), device=device)
    with torch.no_grad():
        expected = base(ids).logits
    steps: dict[str, Callable[[], None]] = {}
    counts: dict[str, int] = {}
    for name in names:
        torch.manual_seed(0)
        model: Any = get_peft_model(load().to(device), CONFIGS[name]()).eval()
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


def peak_bytes(call: Callable[[], object]) -> int:
    """Memory at the highest point of a call beyond what was held before; 0 where it cannot be read."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # pages that malloc keeps would hide the peak
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS:")
        call()
        return max(0, _resident("VmHWM:") - before)
    except OSError:
        return 0


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def kept_bytes(module: nn.Module, features: Tensor) -> int:
    """Bytes that autograd keeps from the forward to the backward pass beyond the input and the weights."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(features.clone().requires_grad_().mul(1.0))
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    sizes = [size for pointer, size in seen.items() if pointer not in known]
    return sum(sizes) - features.nbytes  # the input of the update, which the layer beside it keeps anyway


def adapter_modules(width: int, tokens: int) -> tuple[dict[str, nn.Module], Callable[[nn.Module], Tensor], Tensor]:
    """Updates, their forward and backward pass, and its input, after checking that PennyLane's agrees with ours."""
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
    assert torch.allclose(ours.features.turns.offset.grad, theirs.angles.grad, atol=1e-5 * float(scale))
    modules = {"LoRA r=8": lora, "QAA published": ours, "QAA recommended": recommended, "QAA in PennyLane": theirs}
    return modules, call, x


def table(title: str, seconds: dict[str, float], **columns: dict[str, int]) -> None:
    """Print milliseconds, the ratio to LoRA, and more columns of whole numbers."""
    print(f"\n{title}\n")
    print(f"{'':24}{'ms':>10}{'x LoRA':>9}" + "".join(f"{name.replace('_', ' '):>14}" for name in columns))
    reference = next(iter(seconds.values()))
    for name, value in seconds.items():
        line = f"{name:24}{1e3 * value:10.1f}{value / reference:9.2f}"
        print(line + "".join(f"{column[name]:14,}" for column in columns.values()))


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

    tokens = options.batch * options.length

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)

    steps, counts = model_steps(load, list(CONFIGS), options.batch, options.length, device)
    whole = rotate(steps, options.turns, wall)
    title = f"One training step of {place}, {options.batch} x {options.length} tokens, q and v ({unit})"
    table(title, whole, trainable=counts)
    names = ["LoRA r=8", "QuanTA four axes", "QAA published", "QAA recommended", "Quantum-PEFT", "Quantum-PEFT Cayley"]
    names += ["QuIC 1,2", "QuIC 1,2,3"]
    names += ["QTHA", "QTHA AB"]
    steps, wide_counts = model_steps(random_llama, names, 4, options.length, device)
    wide = rotate(steps, options.turns, wall)
    title = f"One training step of a Llama of width 1024, 8 layers, 4 x {options.length} tokens, q and v ({unit})"
    table(title, wide, trainable=wide_counts)
    del steps
    alone: dict[str, dict[str, float]] = {}
    memory: dict[str, dict[str, dict[str, int]]] = {}
    for width in (load().config.hidden_size, 1024):
        modules, call, x = adapter_modules(width, tokens)
        alone[str(width)] = rotate(
            {name: (lambda m=module, call=call: (call(m), None)[1]) for name, module in modules.items()},
            options.turns,
            wall,
        )
        kept = {name: kept_bytes(module, x) // 1024 for name, module in modules.items()}
        peak = {name: peak_bytes(lambda m=module, call=call: call(m)) // 1024 for name, module in modules.items()}
        memory[str(width)] = {"kept_kib": kept, "peak_kib": peak}
        title = f"One adapter alone, {tokens} activations of width {width}, forward and backward ({unit})"
        table(title, alone[str(width)], kept_KiB=kept, peak_KiB=peak)

    options.json.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {options.threads} thread(s), {device}",
        "versions": {"torch": torch.__version__, "ketune": ketune.__version__, "pennylane": qml.version()},
        "measured": unit,
        "step_seconds": whole,
        "wide_step_seconds": wide,
        "adapter_seconds": alone,
        "adapter_memory": memory,
        "trainable": counts,
    }
    staged = options.json.with_suffix(".tmp")
    staged.write_text(json.dumps(record, indent=2))
    staged.replace(options.json)
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()

"""Training through fake quantisers: Ketune's step beside torchao's QAT and beside full precision.

One pass is forward and backward, of a single wide layer and of a small Llama, with weights of 4 bits per output channel
and activations of 4 or 8 bits per token. Four ways, which take turns:

- `torchao`: `quantize_(model, QATConfig(...))`, weights symmetric (its asymmetric ones come out wrong by default);
- `ours, as torchao`: the same numbers, with the gradient masked where a value was clipped. Its step is the largest
  value over 7.5, ours over 7, so ours gets a clip of 14/15;
- `ours`: as RoSTE trains, asymmetric without a mask, the default;
- `full precision`: the same model without quantisers.

Before anything is timed, activations must agree with torchao's to the last bit, and weights but for one value in each
row, the largest: at 7.5 steps it lies between two codes, and rounding errors decide. Outputs and gradients must agree
as far as one value in a row lets them. Beside the time of the layer stands what autograd keeps from forward to backward
beyond input and weight. Figures are medians; ratios are to torchao, and the aim is 1.1 at most.

    python benchmarks/quantized_step.py
    python benchmarks/quantized_step.py --width 4096 --turns 20
    python benchmarks/quantized_step.py --device cuda --dtype bfloat16 --width 4096 --batch 16
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchao
from torch import Tensor, nn
from torchao.quantization import quantize_ as torchao_quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
from transformers import LlamaConfig, LlamaForCausalLM

import ketune
from ketune.quantization import QuantizationScheme, TensorScheme, fake_quantize
from ketune.quantization.prepare import QuantizeConfig, prepare_
from training_step import kept_bytes, rotate

TORCHAO, SAME, OURS, FULL = "torchao", "ours, as torchao", "ours", "full precision"
KINDS = {4: torch.int4, 8: torch.int8}


def same_scheme(activations: int) -> QuantizationScheme:
    """The scheme that gives torchao's numbers."""
    return QuantizationScheme(
        TensorScheme(4, symmetric=True, clip=14 / 15, masked=True),
        TensorScheme(activations, includes_zero=True, masked=True),
    )


def with_torchao(model: nn.Module, activations: int) -> None:
    """Give all linear layers but the head torchao's fake quantisers."""
    config = QATConfig(
        activation_config=IntxFakeQuantizeConfig(KINDS[activations], "per_token", is_symmetric=False),
        weight_config=IntxFakeQuantizeConfig(torch.int4, "per_channel", is_symmetric=True),
        step="prepare",
    )
    wanted = lambda module, name: isinstance(module, nn.Linear) and name != "lm_head"  # noqa: E731
    torchao_quantize_(model, config, filter_fn=wanted)


def ways(make: Callable[[], nn.Module], activations: int) -> dict[str, nn.Module]:
    """The same model four times."""
    models = {name: make() for name in (TORCHAO, SAME, OURS, FULL)}
    with_torchao(models[TORCHAO], activations)
    for name, scheme in ((SAME, same_scheme(activations)), (OURS, QuantizationScheme.parse(f"w4a{activations}"))):
        prepare_(models[name], QuantizeConfig(scheme))
    return models


def layer(width: int, device: str, dtype: torch.dtype) -> nn.Module:
    """A wide layer, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width, bias=False)).to(device, dtype)


def llama(device: str, dtype: torch.dtype) -> nn.Module:
    """A Llama of width 384 with 4 layers, the same random weights each time."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 6}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=512, max_position_embeddings=512)).to(device, dtype).train()


def check(models: dict[str, nn.Module], x: Tensor, activations: int) -> None:
    """Ours, as torchao, computes what torchao does."""
    module: Any = models[TORCHAO][0]  # pyright: ignore[reportIndexIssue]
    scheme, weight = same_scheme(activations), module.weight.detach()
    theirs, ours = module.activation_fake_quantizer(x), fake_quantize(x, scheme.activations)
    assert torch.equal(ours, theirs), "activations differ"
    theirs, ours = module.weight_fake_quantizer(weight), fake_quantize(weight, scheme.weights)
    differing = (ours - theirs).abs() > weight.abs().amax(1, keepdim=True) / 15
    assert differing.sum() <= len(weight), f"{int(differing.sum())} codes of the weight differ"
    found = {}
    cotangent = torch.randn_like(x)
    for name in (TORCHAO, SAME, OURS, FULL):
        features = x.clone().requires_grad_()
        y = models[name](features)
        found[name] = y.detach(), *torch.autograd.grad(y, (features, *models[name].parameters()), cotangent)
    for what, mine, other in zip(("outputs", "input gradients", "weight gradients"), found[SAME], found[TORCHAO]):
        error = float((mine - other).norm() / other.norm())
        assert error < len(weight) ** -0.5, f"{what} differ by {error:.1e}"
    for name in (TORCHAO, SAME, OURS):  # and all of them are quantised
        error = float((found[name][0] - found[FULL][0]).norm() / found[FULL][0].norm())
        assert 0.02 < error < 0.5, f"{name} is {error:.1e} from full precision"


def step_of_layer(model: nn.Module, x: Tensor, cotangent: Tensor) -> None:
    """One pass of a layer whose input has a gradient too, as between other layers."""
    model.zero_grad()
    model(x.detach().requires_grad_()).backward(cotangent)


def step_of_model(model: Any, ids: Tensor) -> None:
    """One pass of a language model."""
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()


def show(title: str, seconds: dict[str, float], kept: dict[str, int] | None = None) -> None:
    """A table; ratios are to torchao."""
    print(f"\n{title}\n\n{'':20}{'ms':>10}{'to torchao':>13}" + ("" if kept is None else f"{'kept MiB':>12}"))
    for name, spent in seconds.items():
        memory = "" if kept is None else f"{kept[name] / 2**20:12.1f}"
        print(f"{name:20}{1e3 * spent:10.2f}{spent / seconds[TORCHAO]:13.2f}{memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activations", type=int, nargs="+", default=[4, 8], choices=list(KINDS), help="bits")
    parser.add_argument("--width", type=int, default=2048, help="of the single layer")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a sequence")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1, help="with one, CPU time is what is measured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/quantized_step.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, dtype = options.device, getattr(torch, options.dtype)
    wall = options.threads > 1 or device != "cpu"
    unit = "wall time" if wall else "CPU time"
    tokens = options.batch * options.length
    torch.manual_seed(2)
    x, cotangent = (torch.randn(tokens, options.width).to(device, dtype) for _ in range(2))
    ids = torch.randint(0, 512, (options.batch, options.length), device=device)
    records = []
    for bits in options.activations:
        layers = ways(lambda: layer(options.width, device, dtype), bits)
        check(layers, x, bits)
        kept = {name: kept_bytes(module, x) for name, module in layers.items()}
        calls = {name: (lambda m=m: step_of_layer(m, x, cotangent)) for name, m in layers.items()}
        alone = rotate(calls, options.turns, wall)
        show(f"W4A{bits}, a layer {options.width} x {options.width}, {tokens} tokens ({unit})", alone, kept)
        del layers, calls
        models = ways(lambda: llama(device, dtype), bits)
        calls = {name: (lambda m=m: step_of_model(m, ids)) for name, m in models.items()}
        whole = rotate(calls, options.turns, wall)
        show(f"W4A{bits}, a Llama of width 384 and 4 layers, {tokens} tokens ({unit})", whole)
        del models, calls
        records.append({"activations": bits, "layer_seconds": alone, "layer_kept_bytes": kept, "llama_seconds": whole})
    options.json.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {options.threads} thread(s), {device}, {options.dtype}",
        "versions": {"torch": torch.__version__, "torchao": torchao.__version__, "ketune": ketune.__version__},
        "measured": unit,
        "width": options.width,
        "tokens": tokens,
        "steps": records,
    }
    staged = options.json.with_suffix(".tmp")
    staged.write_text(json.dumps(record, indent=2))
    staged.replace(options.json)
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()

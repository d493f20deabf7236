"""What bfloat16 leaves of a small update, for every method and every way in which a model gets there.

An update of a thousandth of the weight is what training often ends with, and a quarter of bfloat16's step. No sum in
bfloat16 holds it, merged or not; what can be asked is that it gets there whole. So by definition here:

1. the update as it is added, in the forward pass and as a matrix to merge, lies within 2 % (Frobenius norm) of a
   float64 evaluation of the parameters as they were trained, in float32;
2. that sum is rounded once: the output is round(base output + update) and the merged weight round(weight + matrix), bit
   for bit;
3. taking the merge apart restores the weight bit for bit.
"""

import copy
import math
from functools import lru_cache

import pytest
import torch
from peft import PeftModel, get_peft_model
from tests.adapters.test_base import CONFIGS
from torch import nn

from ketune import CompassConfig, QAAConfig, QPAConfig, QTHAConfig, QuantumPeftConfig, QuicConfig
from ketune.adapters import AdapterLayer

IN, OUT, SIZE, LOSS = 200, 120, 1e-3, 0.02
# Circuits deep enough that the errors of their angles would add up to more than is allowed.
DEEP = {
    "qaa deep": lambda **kw: QAAConfig(n_layers=24, **kw),
    "qaa deep amplitudes": lambda **kw: QAAConfig(n_layers=24, readout="amplitudes", **kw),
    "qaa deep frozen": lambda **kw: QAAConfig(n_layers=24, control="frozen", **kw),
    "qaa deep classical": lambda **kw: QAAConfig(n_layers=24, control="classical", **kw),
    "qtha deep": lambda **kw: QTHAConfig(n_qlayers=4, **kw),
    "compass deep": lambda **kw: CompassConfig(n_layers=6, **kw),
    "quantum_peft deep": lambda **kw: QuantumPeftConfig(n_layers=8, **kw),
    "quic deep": lambda **kw: QuicConfig(n_chained=6, **kw),
    "qpa deep": lambda **kw: QPAConfig(chunk=32, n_layers=12, **kw),
}
ALL = {**CONFIGS, **DEEP}
TARGET = {"target_modules": ["0"]}


def base(dtype=torch.bfloat16):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT))
    return model.bfloat16().to(dtype)  # float32 and float64 hold the values that bfloat16 has


def layer_of(model):
    return next(module for module in model.modules() if isinstance(module, AdapterLayer))


def inputs():
    return torch.randn(64, IN, generator=torch.Generator().manual_seed(1)).bfloat16()


@torch.no_grad()
def change(model, x):
    """The update beside the layer as it is added to the base's output, and that output."""
    layer = layer_of(model)
    output = layer.base_layer(x)
    return layer._delta("default", x, output), output


@lru_cache
@torch.no_grad()
def trained(kind):
    """An adapter in float32 on a float32 model, after moves that make an update of a thousandth of the output."""
    model = get_peft_model(base(torch.float32), ALL[kind](**TARGET))
    free = [p for p in model.parameters() if p.requires_grad]
    start, moves = [p.clone() for p in free], [torch.randn_like(p) for p in free]
    low, high = -30.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        for parameter, value, move in zip(free, start, moves):
            parameter.copy_(value + math.exp(middle) * move)
        delta, output = change(model, inputs().float())
        low, high = (middle, high) if delta.norm() < SIZE * output.norm() else (low, middle)
    delta, output = change(model, inputs().float())
    assert float(delta.norm() / output.norm()) == pytest.approx(SIZE, rel=0.05)
    return model


def copied(kind, model, **options):
    ours = get_peft_model(base(), ALL[kind](**TARGET), **options)
    values = {name: p for name, p in model.state_dict().items() if "base_layer" not in name}
    ours.load_state_dict(values, strict=False)
    return ours


def loaded(model, folder, **options):
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(base(), folder, **options)


WAYS = {
    "get_peft_model": lambda kind, model, folder: copied(kind, model),
    "get_peft_model, autocast off": lambda kind, model, folder: copied(kind, model, autocast_adapter_dtype=False),
    "from_pretrained": lambda kind, model, folder: loaded(model, folder),
    "low_cpu_mem_usage": lambda kind, model, folder: loaded(model, folder, low_cpu_mem_usage=True),
    "autocast off": lambda kind, model, folder: loaded(model, folder, autocast_adapter_dtype=False),
    "to bfloat16": lambda kind, model, folder: copy.deepcopy(model).to(torch.bfloat16),
}


def loss(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ALL)
def test_a_small_update_loses_under_two_percent(kind, way, tmp_path):
    model = trained(kind)
    exact = copy.deepcopy(model).double()
    ours = WAYS[way](kind, model, tmp_path)
    layer, x = layer_of(ours), inputs()
    delta, output = change(ours, x)
    assert loss(delta, change(exact, x.double())[0]) < LOSS
    assert torch.equal(ours(x), (output.float() + delta.float()).bfloat16())
    if layer.update_of("default").why_not_mergeable:
        return
    before, matrix = layer.base_layer.weight.clone(), layer.get_delta_weight("default")
    assert loss(matrix, layer_of(exact).get_delta_weight("default")) < LOSS
    ours.merge_adapter()
    assert torch.equal(layer.base_layer.weight, (before.float() + matrix.float()).bfloat16())
    ours.unmerge_adapter()
    assert torch.equal(layer.base_layer.weight, before)

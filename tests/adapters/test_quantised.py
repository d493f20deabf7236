"""Adapters on quantised bases: training, and merging that comes apart again."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn

from ketune import QAAConfig, QTHAConfig, QuantumPeftConfig, QuicConfig, SoraConfig

bnb = pytest.importorskip("bitsandbytes", reason="needs the extra 'quantization'", exc_type=ImportError)
pytestmark = pytest.mark.slow

MAKERS = {
    "nf4": lambda i, o: bnb.nn.Linear4bit(
        i, o, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=False
    ),
    "int8": lambda i, o: bnb.nn.Linear8bitLt(i, o, has_fp16_weights=False),
}
CONFIGS = {
    "sora": lambda: SoraConfig(target_modules=["0"], r=2, alpha=0.2, init_weights=False),
    "amplitudes": lambda: QAAConfig(target_modules=["0"], readout="amplitudes", scale=0.05, init_weights=False),
    "quantum_peft": lambda: QuantumPeftConfig(target_modules=["0"], init_weights=False),
    "quic": lambda: QuicConfig(target_modules=["0"], init_weights=False),
    "qtha": lambda: QTHAConfig(target_modules=["0"], init_weights=False),
    "qtha ab": lambda: QTHAConfig(target_modules=["0"], architecture="AB", alpha=0.1, init_weights=False),
    "pauli_z": lambda: QAAConfig(target_modules=["0"], init_weights=False),
}


def quantised(kind):
    torch.manual_seed(0)
    model = nn.Sequential(MAKERS[kind](64, 64))
    model.load_state_dict(nn.Sequential(nn.Linear(64, 64)).state_dict())
    return model.to("cpu")


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("config", CONFIGS)
def test_an_adapter_trains_beside_a_quantised_layer(kind, config):
    model = get_peft_model(quantised(kind), CONFIGS[config]())
    x = torch.randn(5, 64)
    with model.disable_adapter():
        base = model(x)
    assert not torch.allclose(model(x), base, atol=1e-3)
    model(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("config", ["sora", "amplitudes", "quantum_peft", "quic", "qtha ab"])
def test_merging_into_a_quantised_layer_is_near_and_comes_apart_again(kind, config):
    model = get_peft_model(quantised(kind), CONFIGS[config]())
    x = torch.randn(5, 64)
    layer = model.base_model.model[0]
    with torch.no_grad():
        before, apart = copy.deepcopy(layer.get_base_weight()), model(x)
        model.merge_adapter()
        merged = model(x)
        model.unmerge_adapter()
        after = layer.get_base_weight()
    # Merging requantises, so it is as near as the quantiser's step; taking apart gives the old codes.
    assert (merged - apart).norm() < 0.2 * apart.norm()
    assert torch.equal(after, before)

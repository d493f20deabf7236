"""Adapters on quantised bases: training, and merging that comes apart again, for every method and every quantiser.

The quantisers are the real packages, on the CPU: those of the extra `quantization`, and for GPTQ and AWQ, whose
declared requirements ask for another torch, `pip install --no-deps gptqmodel logbar device-smi tokenicer pypcre defuser
threadpoolctl optimum`.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from tests.adapters.test_base import CONFIGS, MERGEABLE
from torch import nn

pytestmark = pytest.mark.slow

WIDTH = 64


def needed(module):
    return pytest.importorskip(module, reason=f"needs {module}, see the head of this file", exc_type=ImportError)


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH))


def nf4():
    bnb = needed("bitsandbytes")
    layer = bnb.nn.Linear4bit(WIDTH, WIDTH, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=False)
    model = nn.Sequential(layer)
    model.load_state_dict(plain().state_dict())
    return model.to("cpu")


def int8():
    bnb = needed("bitsandbytes")
    model = nn.Sequential(bnb.nn.Linear8bitLt(WIDTH, WIDTH, has_fp16_weights=False))
    model.load_state_dict(plain().state_dict())
    return model.to("cpu")


def hqq():
    quantize = needed("hqq.core.quantize")
    settings = quantize.BaseQuantizeConfig(nbits=4, group_size=32)
    return nn.Sequential(
        quantize.HQQLinear(plain()[0], settings, compute_dtype=torch.float32, device="cpu", del_orig=False)
    )


def torchao():
    quantization = needed("torchao.quantization")
    from transformers import TorchAoConfig

    settings = quantization.Int8WeightOnlyConfig()
    model = plain()
    quantization.quantize_(model, settings)
    # Where transformers keeps it, and where PEFT looks for the way to quantise again.
    model.hf_quantizer = SimpleNamespace(quantization_config=TorchAoConfig(quant_type=settings))
    return model


def by_groups(weight, group_size=32, bits=4):
    """Scales and zeros (out, groups) of an asymmetric grid."""
    groups = weight.reshape(len(weight), -1, group_size)
    low, high = groups.amin(-1), groups.amax(-1)
    scales = (high - low) / (2**bits - 1)
    return scales, (-low / scales).round()


def gptq():
    qlinear = needed("gptqmodel.nn_modules.qlinear.torch")
    source = plain()[0]
    layer = qlinear.TorchLinear(
        bits=4, group_size=32, sym=False, desc_act=False, in_features=WIDTH, out_features=WIDTH, bias=True
    )
    layer.pack_original(source, *by_groups(source.weight.data), torch.arange(WIDTH, dtype=torch.int32) // 32)
    layer.post_init()
    return nn.Sequential(layer)


def awq():
    qlinear = needed("gptqmodel.nn_modules.qlinear.torch_awq")
    source = plain()[0]
    layer = qlinear.AwqTorchLinear(
        bits=4, group_size=32, sym=False, desc_act=False, in_features=WIDTH, out_features=WIDTH, bias=True
    )
    layer.pack(source, *by_groups(source.weight.data))
    layer.post_init()
    return nn.Sequential(layer)


MERGING = {"nf4": nf4, "int8": int8, "hqq": hqq, "torchao": torchao}
FORWARD_ONLY = {"gptq": gptq, "awq": awq}
NEEDS_WEIGHT = ("qpa dora", "prequant")
MAKERS = {**MERGING, **FORWARD_ONLY}


def adapted(maker, kind):
    return get_peft_model(MAKERS[maker](), CONFIGS[kind](target_modules=["0"], init_weights=False))


def rows(maker):
    return torch.randn(5, WIDTH, dtype=torch.float16 if maker in FORWARD_ONLY else torch.float32)


@pytest.mark.parametrize("maker", MAKERS)
def test_the_quantised_layers_are_near_the_plain_one(maker):
    """Otherwise the other tests would be about layers that do nothing."""
    x = rows(maker)
    found, exact = MAKERS[maker]()(x).float(), plain()(x.float())
    assert (found - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_trains_beside_a_quantised_layer(maker, kind):
    if kind.startswith(NEEDS_WEIGHT) and maker in FORWARD_ONLY:
        with pytest.raises(TypeError, match="cannot hand out its weight"):
            adapted(maker, kind)(rows(maker))
        return
    model, x = adapted(maker, kind), rows(maker)
    with model.disable_adapter():
        base = model(x)
    assert not torch.allclose(model(x), base, atol=1e-3)
    assert model(x).dtype == base.dtype
    model(x).float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("maker", MERGING)
@pytest.mark.parametrize("kind", MERGEABLE)
def test_merging_into_a_quantised_layer_is_near_and_comes_apart_again(maker, kind):
    model, x = adapted(maker, kind), rows(maker)
    layer = model.base_model.model[0]
    with torch.no_grad():
        with model.disable_adapter():
            base = model(x)
        before, apart = copy.deepcopy(layer.get_base_weight()), model(x)
        model.merge_adapter()
        merged = model(x)
        model.unmerge_adapter()
        # Merging requantises, so it is as near as the quantiser's step.
        assert (merged - apart).norm() < 0.2 * apart.norm()
        assert torch.equal(layer.get_base_weight(), before)
        assert torch.equal(model(x), apart)
        with model.disable_adapter():
            assert torch.equal(model(x), base)


@pytest.mark.parametrize("maker", FORWARD_ONLY)
@pytest.mark.parametrize("kind", MERGEABLE)
def test_layers_that_cannot_be_quantised_again_refuse_to_merge_and_go_on(maker, kind):
    if kind.startswith("prequant"):
        with pytest.raises(TypeError, match="cannot hand out its weight"):
            adapted(maker, kind)
        return
    model = adapted(maker, kind)
    if kind == "qpa dora":
        with pytest.raises(TypeError, match=r"not supported for (gptq|awq) layers"):
            model.merge_adapter()
        return
    before = model(rows(maker))
    with pytest.raises(TypeError, match=r"not supported for (gptq|awq) layers"):
        model.merge_adapter()
    assert not model.base_model.model[0].merged
    assert torch.isfinite(before).all()

import copy

import pytest
import torch
from tests.quantization.models import LAYOUTS, make_model, tokens

from ketune.quantization import QuantizationError, QuantizationScheme, QuantizeConfig, QuantizedLinear, quantize_
from ketune.quantization.gptq import convert_gptq_, gptq


@pytest.mark.parametrize("bits", ["w2a16", "w3a16g16", "w4a16"])
def test_outputs_are_nearer_than_by_rounding(bits):
    layer = QuantizedLinear(32, 24, False, scheme=QuantizationScheme.parse(bits))
    x = torch.randn(256, 32) @ torch.randn(32, 32)  # inputs that hang together
    found = gptq(layer.weight.detach(), x.T @ x, layer)
    errors = [
        ((weight - layer.weight) @ x.T).norm().item() for weight in (found.dequantize(), layer.effective_weight())
    ]
    assert errors[0] < 0.8 * errors[1]
    lowest, highest = found.scheme.bounds
    assert lowest <= found.codes.min()
    assert found.codes.max() <= highest


def test_inputs_that_do_not_hang_together_are_rounded():
    layer = QuantizedLinear(16, 8, False, scheme=QuantizationScheme.parse("w4a16"))
    found = gptq(layer.weight.detach(), torch.eye(16), layer)
    assert torch.equal(found.codes, layer.quantized_weight().codes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_whole_models_come_nearer_to_full_precision(name):
    model, x = make_model(name), tokens(8, 24)
    plain = model(x).logits
    quantize_(model, QuantizeConfig("w3a16"))
    rounded = model(x).logits
    converted = convert_gptq_(copy.deepcopy(model), [{"input_ids": x}])
    assert (converted(x).logits - plain).norm() < (rounded - plain).norm()


def test_it_wants_a_prepared_model_and_prompts():
    with pytest.raises(QuantizationError, match="fake-quantised weights"):
        convert_gptq_(make_model("llama"), [{"input_ids": tokens()}])
    with pytest.raises(QuantizationError, match="at least one batch"):
        convert_gptq_(quantize_(make_model("llama"), QuantizeConfig("w4a16")), [])

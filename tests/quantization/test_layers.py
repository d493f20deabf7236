import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ketune.quantization import (
    CodedLinear,
    QuantizationError,
    QuantizationScheme,
    QuantizedLinear,
    fake_quantize,
)
from ketune.quantization.hadamard import Rotation

BITS = ["w4a4", "w3a16", "w2a8g8", "w8a16", "w1a4"]


def rotated_layers(bits):
    scheme = QuantizationScheme.parse(bits)
    plain = QuantizedLinear(16, 12, scheme=scheme)
    online = QuantizedLinear(16, 12, scheme=scheme)
    online.input_rotation = Rotation(16)
    value = QuantizedLinear(16, 12, scheme=scheme)
    value.output_rotation = Rotation(12, block=4)
    output = QuantizedLinear(16, 12, scheme=scheme)
    output.input_rotation, output.rotates_input = Rotation(16, block=4), False
    return {"plain": plain, "online": online, "value": value, "output": output}


def test_it_multiplies_quantised_inputs_with_quantised_weights():
    scheme = QuantizationScheme.parse("w4a4")
    layer, x = QuantizedLinear(16, 12, scheme=scheme), torch.randn(3, 16)
    expected = fake_quantize(x, scheme.activations) @ fake_quantize(layer.weight, scheme.weights).T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_without_quantisers_rotations_change_nothing():
    x = torch.randn(5, 16)
    for name, layer in rotated_layers("w16a16").items():
        plain = x @ layer.weight.T + layer.bias
        given = Rotation(16, block=4)(x) if name == "output" else x
        got = Rotation(12, block=4).inverse(layer(given)) if name == "value" else layer(given)
        torch.testing.assert_close(got, plain, atol=1e-5, rtol=0)


def test_without_quantisers_gradients_are_those_of_the_plain_layer():
    layer = rotated_layers("w16a16")["online"]
    plain = nn.Linear(16, 12)
    plain.load_state_dict(layer.state_dict())
    x, cotangent = torch.randn(5, 16), torch.randn(5, 12)
    layer(x).backward(cotangent)
    plain(x).backward(cotangent)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, atol=1e-5, rtol=0)


def test_the_gradient_comes_through_the_rotation():
    # Section 2.1 of the specification: the weight's gradient is that of the rotated product, rotated back.
    layer = rotated_layers("w4a4")["online"]
    x, cotangent = torch.randn(5, 16), torch.randn(5, 12)
    layer(x).backward(cotangent)
    rotation = layer.input_rotation.matrix()
    seen = fake_quantize(x @ rotation, layer.input_quantizer.scheme)
    torch.testing.assert_close(layer.weight.grad, cotangent.T @ seen @ rotation.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_give_what_training_saw_to_the_last_bit(bits, symmetric):
    if symmetric and bits == "w1a4":
        pytest.skip("one bit has no symmetric step")
    x = torch.randn(2, 3, 16)
    scheme = QuantizationScheme.parse(bits, symmetric=symmetric)
    for layer in (*rotated_layers(bits).values(), QuantizedLinear(16, 12, False, scheme=scheme)):
        coded = CodedLinear.from_quantized(layer)
        assert torch.equal(coded(x), layer(x))
        assert torch.equal(coded.weight, layer.effective_weight())
        # Where inputs are rotated the weight is turned back, which rounds it.
        torch.testing.assert_close(coded.to_quantized()(x), layer(x), atol=1e-5, rtol=0)


def test_codes_take_the_bits_that_they_are_named_for():
    coded = CodedLinear.from_quantized(QuantizedLinear(64, 32, False, scheme=QuantizationScheme.parse("w3a16")))
    assert coded.codes.numel() == 32 * 64 * 3 // 8
    assert sum(t.numel() * t.element_size() for t in coded.state_dict().values()) == 32 * 64 * 3 // 8 + 32 * (4 + 4)


def test_another_dtype_never_rounds_the_steps():
    layer = QuantizedLinear(16, 12, scheme=QuantizationScheme.parse("w4a16"))
    coded = CodedLinear.from_quantized(layer).to(torch.bfloat16)
    assert coded.scale.dtype == torch.float32
    assert torch.equal(coded.dequantize(), layer.effective_weight().to(torch.bfloat16))
    assert coded(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert torch.equal(coded.float().dequantize(), layer.effective_weight())


def test_conv1d_is_taken_over_the_other_way_round():
    conv, x = Conv1D(12, 16), torch.randn(3, 16)
    layer = QuantizedLinear.from_linear(conv, QuantizationScheme())
    torch.testing.assert_close(layer(x), conv(x))


def test_pefts_adapters_stand_beside_codes_and_cannot_be_merged_into_them():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    quantised = QuantizedLinear.from_linear(model[0], QuantizationScheme.parse("w4a8"))
    model[0] = CodedLinear.from_quantized(quantised)
    x = torch.randn(3, 16)
    before, codes = model(x), model[0].codes.clone()
    adapted = get_peft_model(model, LoraConfig(target_modules=["0"], init_lora_weights=False))
    after = adapted(x)
    assert not torch.equal(after, before)
    after.sum().backward()
    assert adapted.base_model.model[0].lora_A["default"].weight.grad is not None
    with pytest.raises(QuantizationError, match="dequantize_"):
        adapted.merge_adapter()
    assert torch.equal(adapted.base_model.model[0].base_layer.codes, codes)


def test_a_scheme_without_weights_has_no_codes():
    with pytest.raises(QuantizationError, match="no codes"):
        CodedLinear(4, 4, scheme=QuantizationScheme.parse("w16a4"))

"""Outliers that stay in full precision beside the codes."""

import copy

import pytest
import torch
from tests.quantization.models import make_model, tokens
from transformers import AutoModelForCausalLM

from ketune.quantization import (
    CodedLinear,
    QuantizationError,
    QuantizationScheme,
    QuantizeConfig,
    QuantizedLinear,
    dequantize_,
    fake_quantize,
    quantize_,
    search_ranges_,
)
from ketune.quantization import outliers as module
from ketune.quantization.outliers import count_outliers, find_outliers

SHARE = 0.02


def heavy_tailed(*shape):
    return torch.distributions.StudentT(3.0).sample(shape)


def coded_layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, CodedLinear)}


def converted(name="llama", dtype=torch.float32, **fields):
    model = make_model(name)
    for parameter in model.parameters():  # not rotary frequencies, as when transformers loads a model
        parameter.data = parameter.data.to(dtype)
    plain = copy.deepcopy(model)
    config = QuantizeConfig(**{"scheme": "w3a16", "step": "convert", "outliers": SHARE, **fields})
    return plain, quantize_(model, config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_share_of_each_weight_stays_as_it_was_and_the_rest_is_what_codes_stand_for(name, dtype):
    plain, model = converted(name, dtype)
    _, without = converted(name, dtype, outliers=0.0)
    without = {key: layer.dequantize() for key, layer in coded_layers(without).items()}
    layers = coded_layers(model)
    assert layers
    for key, layer in layers.items():
        exact = plain.get_submodule(key).weight
        exact = exact if exact.shape == layer.dequantize().shape and name != "gpt2" else exact.T
        index = layer.outlier_index
        assert index.dtype == torch.int32
        assert len(index.unique()) == len(index) == round(SHARE * exact.numel())
        assert layer.outlier_value.dtype == dtype
        mask = torch.zeros(exact.numel(), dtype=torch.bool)
        mask[index.long()] = True
        mask = mask.view(exact.shape)
        weight = layer.dequantize()
        assert torch.equal(weight[mask], exact[mask])
        assert torch.equal(layer.weight, weight)
        if name != "gpt2":  # whose weights are drawn anew by each call
            assert torch.equal(layer.dequantize_codes()[~mask], weight[~mask])
        error = (layer.dequantize_codes().float() - exact.float()).abs()
        assert error[mask].min() >= error[~mask].max()
    assert without.keys() == layers.keys()


def test_the_weight_is_that_of_the_quantiser_with_outliers_put_back():
    layer = QuantizedLinear(40, 24, scheme=QuantizationScheme.parse("w4a16"))
    with torch.no_grad():
        layer.weight.copy_(heavy_tailed(24, 40))
    expected = fake_quantize(layer.weight.detach(), layer.weight_quantizer.scheme)
    places = (layer.weight - expected).abs().flatten().topk(10).indices
    expected.view(-1)[places] = layer.weight.detach().flatten()[places]
    coded = CodedLinear.from_quantized(layer, 10)
    assert torch.equal(coded.dequantize(), expected)
    x = torch.randn(5, 40)
    assert torch.equal(coded(x), torch.nn.functional.linear(x, expected, layer.bias))


@pytest.mark.parametrize(
    ("share", "entries", "count"), [(0.005, 1000, 5), (0.005, 40, 1), (1.0, 7, 7), (0.02, 576, 12)]
)
def test_the_count_is_the_share_rounded_and_at_least_one(share, entries, count):
    assert count_outliers(share, entries) == count


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [3, 4])
def test_by_error_leaves_less_error_than_by_magnitude_on_a_heavy_tailed_weight(bits, symmetric):
    """For orientation: on another matrix, at 4 bits, 0.243 became 0.192 (error) and 0.195 (magnitude)."""
    scheme = QuantizationScheme.parse(f"w{bits}a16", symmetric=symmetric)
    layer = QuantizedLinear(512, 512, False, scheme=scheme)
    with torch.no_grad():
        layer.weight.copy_(heavy_tailed(512, 512))
    layer.requires_grad_(False)
    search_ranges_(layer)
    count = count_outliers(0.005, 512 * 512)

    def error(*args):
        coded = CodedLinear.from_quantized(layer, *args)
        return float((coded.dequantize() - layer.weight).norm() / layer.weight.norm())

    none, by_error, by_magnitude = error(), error(count, "error"), error(count, "magnitude")
    assert by_error < by_magnitude < none
    assert by_error < 0.93 * none


@pytest.mark.parametrize("name", ["llama", "gpt_neo", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_is_the_same_to_the_bit(name, dtype, tmp_path):
    plain, model = converted(name, dtype, range="mse")
    ids = tokens()
    expected = model(ids).logits
    assert not torch.equal(expected, plain(ids).logits)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert torch.equal(loaded(ids).logits, expected)
    state = model.state_dict()
    assert {key: (t.dtype, t.shape) for key, t in loaded.state_dict().items()} == {
        key: (t.dtype, t.shape) for key, t in state.items()
    }
    assert all(torch.equal(t, state[key]) for key, t in loaded.state_dict().items())


def test_a_float32_model_loaded_in_bfloat16_rounds_its_outliers_and_no_step(tmp_path):
    _, model = converted()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for (_, ours), (_, theirs) in zip(coded_layers(model).items(), coded_layers(loaded).items()):
        assert torch.equal(theirs.scale, ours.scale)
        assert torch.equal(theirs.dequantize(), ours.dequantize().bfloat16())
    moved = copy.deepcopy(model).bfloat16()
    for ours, theirs in zip(coded_layers(moved).values(), coded_layers(loaded).values()):
        assert torch.equal(ours.dequantize(), theirs.dequantize())


def test_outliers_are_counted_in_the_size_of_the_model():
    """Four bytes for a place and the bytes of a value."""
    plain, model = converted()
    kept = sum(len(layer.outlier_index) for layer in coded_layers(model).values())
    _, without = converted(outliers=0.0)
    assert kept == sum(round(SHARE * plain.get_submodule(name).weight.numel()) for name in coded_layers(model))
    assert model.get_memory_footprint() - without.get_memory_footprint() == 8 * kept


def test_dequantising_keeps_them():
    _, model = converted()
    before = model(ids := tokens()).logits
    assert torch.equal(dequantize_(model)(ids).logits, before)


def test_a_weight_is_taken_over_where_only_outliers_differ():
    _, model = converted()
    layer = next(iter(coded_layers(model).values()))
    weight, kept = layer.dequantize(), layer.outlier_value.clone()
    weight.view(-1)[layer.outlier_index.long()] += 1
    layer.set_weight(weight)
    assert torch.equal(layer.dequantize(), weight)
    other = weight.clone()
    inside = next(i for i in range(weight.numel()) if i not in layer.outlier_index.tolist())
    other.view(-1)[inside] += 1
    with pytest.raises(QuantizationError, match="packed codes, which cannot be changed"):
        layer.set_weight(other)
    assert torch.equal(layer.outlier_value, kept + 1)
    without = next(iter(coded_layers(converted(outliers=0.0)[1]).values()))
    before = without.dequantize()
    without.weight = before.clone()
    with pytest.raises(QuantizationError, match="packed codes, which cannot be changed"):
        without.weight = before + 1
    assert torch.equal(without.dequantize(), before)


def test_an_unknown_rule_and_a_weight_too_large_for_its_places_are_refused(monkeypatch):
    with pytest.raises(QuantizationError, match="outlier_rule='size': choose one of 'error', 'magnitude'"):
        find_outliers(torch.randn(3, 4), 2, "size")
    monkeypatch.setattr(module, "MOST_WEIGHTS", 11)
    with pytest.raises(QuantizationError, match=r"a weight may have 11 entries; leave this layer out"):
        find_outliers(torch.randn(3, 4), 2, "magnitude")

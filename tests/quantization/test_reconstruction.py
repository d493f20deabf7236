"""Block reconstruction: it lowers the blocks' errors and the model's, and changes nothing without quantisers."""

import pytest
import torch
from tests.quantization.models import LAYOUTS, make_model, tokens

from ketune.quantization import QuantizationError, QuantizeConfig, QuantizedLinear, quantize_
from ketune.quantization.fake_quantize import quantizers_off
from ketune.quantization.layouts import layout_of
from ketune.quantization.reconstruction import reconstruct_
from ketune.quantization.shifted_norm import shifted_norms


def with_outliers(name, **more):
    """A model with a few channels far larger than the others, which is what smoothing is for."""
    model = make_model(name, **more)
    with torch.no_grad():
        for place in layout_of(model).norms[:-1]:
            norm = model.get_submodule(place.norm)
            norm.weight[::8] *= 8
            for reader in place.readers:
                model.get_submodule(reader).weight[:, ::8] /= 8
    return model


def quantized(name, scheme="w4a4", **more):
    return quantize_(with_outliers(name, **more), QuantizeConfig(scheme))


def batches(count=4):
    return [tokens(2, 12) for _ in range(count)]


def distance(model, expected, ids):
    with torch.no_grad():
        return float((model(ids).logits - expected).square().mean() / expected.square().mean())


@pytest.mark.parametrize("name", LAYOUTS)
def test_errors_of_blocks_and_model_fall_and_the_exact_function_stays(name):
    model, data, held_out = quantized(name), batches(), tokens(4, 12)
    with torch.no_grad(), quantizers_off(model):
        expected = model(held_out).logits
    rounded = distance(model, expected, held_out)
    errors = reconstruct_(model, data, epochs=6)
    assert [error.name for error in errors] == [block.name for block in layout_of(model).blocks]
    assert all(error.after < 0.8 * error.before for error in errors), errors
    assert distance(model, expected, held_out) < 0.8 * rounded
    with torch.no_grad(), quantizers_off(model):
        torch.testing.assert_close(model(held_out).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("w2a16g16", {"smoothing": False}),
        ("w4a4", {"clipping": False}),
        ("w4a4", {"shift": False}),
        ("w4a4kv4", {}),
    ],
)
def test_each_part_alone_helps(scheme, options):
    model = quantized("llama", scheme)
    errors = reconstruct_(model, batches(), epochs=6, **options)
    assert all(error.after < 0.95 * error.before for error in errors), errors
    clips = [m.weight_quantizer.clipping for m in model.modules() if isinstance(m, QuantizedLinear)]
    assert all((clip is not None) == options.get("clipping", True) for clip in clips)
    has_shift = options.get("smoothing", True) and options.get("shift", True)
    assert bool(shifted_norms(model)) == has_shift
    assert (model.model.layers[0].self_attn.q_proj.bias is not None) == has_shift


def test_errors_are_those_of_the_blocks_on_what_they_get():
    """The first block gets exact inputs; its error before learning is that of rounding to nearest."""
    model, data = quantized("llama"), batches(2)
    block = model.model.layers[0]
    expected = []
    for ids in data:
        inputs = {}
        handle = block.register_forward_pre_hook(lambda _, a, k: inputs.update(a=a, k=k), with_kwargs=True)  # noqa: B023
        with torch.no_grad():
            model(ids, use_cache=False)
            handle.remove()
            rounded = block(*inputs["a"], **inputs["k"])
            with quantizers_off(model):
                exact = block(*inputs["a"], **inputs["k"])
        expected.append(float((rounded - exact).square().mean() / exact.square().mean()))
    errors = reconstruct_(model, data, epochs=1)
    assert errors[0].before == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_padding_does_not_count():
    results = []
    for padding in (5, 63):
        torch.manual_seed(0)
        model, ids = quantized("llama"), tokens(2, 12)
        ids[1, 7:] = padding
        mask = torch.ones_like(ids)
        mask[1, 7:] = 0
        results.append(reconstruct_(model, [{"input_ids": ids, "attention_mask": mask}], epochs=2))
    assert results[0] == results[1]


def test_a_block_that_learns_nothing_better_stays_as_it_was():
    model, ids = quantized("llama"), tokens()
    with torch.no_grad():
        before = model(ids).logits
    errors = reconstruct_(model, batches(), smoothing=False, epochs=3, clipping_lr=50.0)
    assert all(error.after == error.before for error in errors)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, before)


def test_modes_and_requires_grad_are_put_back():
    model = quantized("llama").train()
    frozen = model.model.layers[1].mlp.up_proj.weight.requires_grad_(False)
    reconstruct_(model, batches(1), epochs=1)
    assert model.model.layers[0].training
    assert not frozen.requires_grad
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.weight.requires_grad
    assert layer.bias.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_reconstructed_is_refused():
    with pytest.raises(QuantizationError, match="has no fake quantisers"):
        reconstruct_(make_model("llama"), batches())
    with pytest.raises(QuantizationError, match="at least one batch"):
        reconstruct_(quantized("llama"), [])
    with pytest.raises(QuantizationError, match=r"bfloat16.* load them in float32"):
        reconstruct_(quantized("llama").bfloat16(), batches())

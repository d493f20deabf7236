"""Smoothing changes no function: on every layout, with any scale and shift, trained or folded."""

import pytest
import torch
from tests.quantization.models import LAYOUTS, make_model, tokens
from torch.func import functional_call

from ketune.quantization import QuantizationError, QuantizeConfig, quantize_
from ketune.quantization.hadamard import Rotation
from ketune.quantization.layouts import layout_of
from ketune.quantization.shifted_norm import ShiftedRMSNorm, shift_norm_, shifted_norms
from ketune.quantization.smoothing import BlockSmoothing, Smoothing, rotary_width


def prepared(name):
    """A model with fake quantisers, switched off."""
    model = quantize_(make_model(name), QuantizeConfig("w4a4"))
    for module in model.modules():
        if hasattr(module, "enabled"):
            module.enabled = False
    return model


def smoothings(model, **options):
    blocks = layout_of(model).blocks
    return [BlockSmoothing(model, block, rotary=rotary_width(model), **options) for block in blocks]


def randomise(smoothing):
    with torch.no_grad():
        for parameter in smoothing.parameters():
            parameter.copy_(torch.randn_like(parameter))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("has_shift", [True, False])
def test_any_scales_and_shifts_leave_the_function_unchanged(name, has_shift):
    model, ids = prepared(name), tokens()
    with torch.no_grad():
        expected = model(ids).logits
        before = {key: value.clone() for key, value in model.state_dict().items()}
        found = smoothings(model, has_shift=has_shift)
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-6)  # the new biases are zero
        for smoothing in found:
            randomise(smoothing)
            swapped = functional_call(model, smoothing(), (ids,)).logits
            torch.testing.assert_close(swapped, expected, rtol=1e-5, atol=1e-5)
        for smoothing in found:
            smoothing.fold()
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    linear = layout_of(model).blocks[0].value.linear
    assert not torch.allclose(model.get_parameter(f"{linear}.weight"), before[f"{linear}.weight"], atol=0.1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_of_the_four_places_changes_weights_and_nothing_else(name):
    model, ids = prepared(name), tokens()
    expected = model(ids).logits.detach()
    smoothing = smoothings(model)[1]
    touched = {}
    for place in ("attention", "mlp", "values", "keys"):
        randomise(getattr(smoothing, place))
        tensors = smoothing()
        touched[place] = {n for n, t in tensors.items() if not torch.allclose(t, model.get_parameter(n), atol=1e-5)}
        torch.testing.assert_close(functional_call(model, tensors, (ids,)).logits, expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for parameter in getattr(smoothing, place).parameters():
                parameter.zero_()
    block = smoothing.layout
    assert {f"{n}.weight" for n in block.norms[0].readers} <= touched["attention"]
    assert f"{block.norms[0].norm}.bias" in touched["attention"]
    assert {f"{n}.weight" for n in block.norms[1].readers} <= touched["mlp"]
    assert touched["values"] == {f"{n}.{k}" for n in (block.value.linear, block.output) for k in ("weight", "bias")}
    assert {f"{n}.weight" for n in (block.query.linear, block.key.linear)} <= touched["keys"]
    assert f"{block.output}.weight" not in touched["keys"]


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_keys_scales_are_shared_by_the_channels_that_turn_together(name):
    """NeoX turns a quarter of each head, so that a part of the channels has scales of its own."""
    model = prepared(name)
    smoothing = smoothings(model)[0]
    head_dim, rotary = smoothing.layout.key.head_dim, rotary_width(model)
    assert rotary == {"llama": head_dim, "gpt_neox": head_dim // 4}[name]
    assert smoothing.keys.log_scale.numel() == smoothing.layout.key.n_heads * (head_dim - rotary // 2)


def test_the_start_takes_the_range_of_activations_and_the_size_of_weights():
    smoothing = Smoothing(3)
    low, high = torch.tensor([-1.0, 1.0, 0.0]), torch.tensor([1.0, 9.0, 0.0])
    smoothing.start(low, high, torch.tensor([4.0, 1.0, 1.0]), exponent=0.5)
    torch.testing.assert_close(smoothing.shift.detach(), torch.tensor([0.0, 5.0, 0.0]))
    expected = torch.tensor([(1 / 4) ** 0.5, 4**0.5, 1e-5**0.5])
    torch.testing.assert_close(smoothing.log_scale.detach().exp(), expected)
    no_shift = Smoothing(3, has_shift=False)
    no_shift.start(low, high, torch.ones(3), exponent=1.0)
    torch.testing.assert_close(no_shift.log_scale.detach().exp(), torch.tensor([1.0, 9.0, 1e-5]))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_start_evens_out_what_the_quantisers_see(name):
    """With exponent 1, the inputs of query, up and output layers span [-1, 1] in each channel (or in each group)."""
    model, ids = prepared(name), tokens(4, 12)
    smoothing = smoothings(model)[0]
    block = smoothing.layout
    names = [place.readers[0] for place in block.norms] + [block.output]
    ranges = input_ranges(model, names, ids)
    smoothing.start(ranges, exponent=1.0)
    smoothing.fold()
    after = input_ranges(model, names, ids)
    for name in names[:2]:
        torch.testing.assert_close(after[name][0], -torch.ones_like(after[name][0]), atol=1e-3, rtol=0)
        torch.testing.assert_close(after[name][1], torch.ones_like(after[name][1]), atol=1e-3, rtol=0)
    low, high = (x.view(block.value.n_heads, -1, block.value.head_dim) for x in after[block.output])
    torch.testing.assert_close(low.amin(1), -torch.ones_like(low[:, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(high.amax(1), torch.ones_like(low[:, 0]), atol=1e-3, rtol=0)


def input_ranges(model, names, ids):
    found = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found.__setitem__(name, args[0].flatten(0, -2).aminmax(dim=0))
        )
        for name in names
    ]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return {name: (low, high) for name, (low, high) in found.items()}


def test_gradients_reach_every_scale_and_shift():
    model, ids = prepared("llama"), tokens()
    for module in model.modules():
        if hasattr(module, "enabled"):
            module.enabled = True
    smoothing = smoothings(model)[0]
    functional_call(model, smoothing(), (ids,)).logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in smoothing.parameters())


def test_a_shifted_norm_is_the_norm_it_replaces():
    model = make_model("llama")
    norm, x = model.model.layers[0].input_layernorm, torch.randn(2, 3, 32, dtype=torch.bfloat16)
    expected = norm(x.float())
    shift_norm_(model, "model.layers.0.input_layernorm")
    shifted = model.model.layers[0].input_layernorm
    assert isinstance(shifted, ShiftedRMSNorm)
    assert shifted.weight is norm.weight
    torch.testing.assert_close(shifted(x.float()), expected)
    assert shifted(x).dtype == torch.bfloat16
    shift_norm_(model, "model.layers.0.input_layernorm")
    assert model.model.layers[0].input_layernorm is shifted
    assert shifted_norms(model) == ["model.layers.0.input_layernorm"]


def test_what_cannot_be_smoothed_is_refused():
    model = make_model("llama")
    with pytest.raises(QuantizationError, match="q_proj is a Linear: smoothing wants"):
        smoothings(model)
    rotated = prepared("llama")
    rotated.model.layers[0].self_attn.o_proj.input_rotation = Rotation(32)
    with pytest.raises(QuantizationError, match="o_proj is rotated"):
        smoothings(rotated)
    with pytest.raises(QuantizationError, match="without a gain"):
        shift_norm_(torch.nn.ModuleDict({"norm": torch.nn.RMSNorm(4, elementwise_affine=False)}), "norm")

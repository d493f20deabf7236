"""R2, R3 and R4: the function stays the same without quantisers, and each place turns what it says."""

import copy

import pytest
import torch
from tests.quantization.models import LAYOUTS, make_model, tokens
from transformers import AutoModelForCausalLM

from ketune.quantization import FakeQuantizer, QuantizationError, QuantizeConfig, quantize_
from ketune.quantization.attention import kv_quantizers
from ketune.quantization.hadamard import Rotation
from ketune.quantization.layouts import layout_of
from ketune.quantization.rotations import (
    KINDS,
    RowRotation,
    rotate_residual,
    rotation_places,
    rotations_of,
    set_rotations,
)

EVERYWHERE = {kind: [0, 1] for kind in KINDS}


def make_prepared_model(name, enabled=True, scheme="w4a4kv4"):
    model = quantize_(make_model(name, initializer_range=0.2), QuantizeConfig(scheme))
    for module in model.modules():
        if isinstance(module, FakeQuantizer):
            module.enabled = enabled
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("chosen", [{"R2": [0, 1]}, {"R3": [1]}, {"R4": [0]}, {"R2": [1], "R4": [1]}, EVERYWHERE])
@pytest.mark.parametrize("name", LAYOUTS)
def test_without_quantisers_the_function_stays_the_same_and_with_them_it_does_not(name, chosen):
    model, ids = make_prepared_model(name, enabled=False), tokens()
    before = logits(model, ids)
    set_rotations(model, chosen)
    assert rotations_of(model) == {"R2": [], "R3": [], "R4": []} | chosen
    assert torch.allclose(logits(model, ids), before, atol=1e-5)
    quantised = make_prepared_model(name)
    quantised.load_state_dict(model.state_dict())
    without = logits(quantised, ids)
    set_rotations(quantised, chosen)
    assert (logits(quantised, ids) - without).abs().max() > 1e-3
    set_rotations(quantised, {})
    assert torch.equal(logits(quantised, ids), without)
    assert rotations_of(quantised) == {"R2": [], "R3": [], "R4": []}


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_of_the_masters_are_those_of_the_plain_model(name):
    model, ids = make_prepared_model(name, enabled=False).double(), tokens()
    model(ids, labels=ids).loss.backward()
    plain = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    set_rotations(model, EVERYWHERE)
    model(ids, labels=ids).loss.backward()
    for key, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, plain[key], atol=1e-6), key


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_of_it_is_saved_and_loaded_to_the_last_bit(name, tmp_path):
    model = make_model(name, initializer_range=0.2)
    rotate_residual(model, seed=7)
    quantize_(model, QuantizeConfig("w4a4kv4"))
    set_rotations(model, {"R2": [0, 1], "R3": [1], "R4": [0]})
    ids = tokens()
    prepared = logits(model, ids)
    quantize_(model, QuantizeConfig("w4a4kv4", step="convert"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(model, ids), prepared)
    assert torch.equal(logits(loaded, ids), prepared)


@pytest.mark.parametrize("name", LAYOUTS)
def test_r2_turns_the_values_and_nothing_else_of_their_projection(name):
    model = make_prepared_model(name, enabled=False)
    block = layout_of(model).blocks[1]
    heads, linear = block.value, model.get_submodule(block.value.linear)
    before = linear.weight.detach().clone()
    set_rotations(model, {"R2": [1]})
    turned = linear.rotated_weight()
    rows = heads.rows() if heads.rows() is not None else torch.arange(heads.width)
    per_head = before[rows].unflatten(0, (heads.n_heads, heads.head_dim))
    matrix = Rotation(heads.head_dim).matrix()
    expected = torch.einsum("hdi,de->hei", per_head, matrix).flatten(0, 1)
    assert torch.allclose(turned[rows], expected, atol=1e-6)
    others = [row for row in range(len(before)) if row not in set(rows.tolist())]
    assert torch.equal(turned[others], before[others])
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_kind_turns_what_its_quantiser_sees(name):
    model, ids = make_prepared_model(name), tokens()
    seen = {}
    layout = layout_of(model)

    def record(quantizer, key):
        quantizer.register_forward_hook(lambda m, args, y: seen.update({key: args[0].detach()}))

    record(model.get_submodule(layout.blocks[0].output).input_quantizer, "R2")
    record(dict(kv_quantizers(model))[layout.blocks[0].attention].key_quantizer, "R3")
    record(model.get_submodule(layout.blocks[0].down).input_quantizer, "R4")
    for module in model.modules():
        if isinstance(module, FakeQuantizer):
            module.enabled = False
    logits(model, ids)
    plain = dict(seen)
    set_rotations(model, {kind: [0] for kind in KINDS})
    logits(model, ids)
    for place in rotation_places(model)[:3]:
        assert torch.allclose(seen[place.kind], place.rotation()(plain[place.kind]), atol=1e-5), place.kind


def test_places_say_why_they_cannot_be_turned_and_nothing_is_set_then():
    model = make_model("llama")
    quantize_(model, QuantizeConfig("w4a16", modules=["down_proj", "o_proj"]))
    places = {place.kind: place for place in rotation_places(model)[:3]}
    assert "v_proj is a Linear" in places["R2"].why_not(model)
    assert "does not quantise keys" in places["R3"].why_not(model)
    assert places["R4"].why_not(model) is None
    with pytest.raises(QuantizationError, match=r"R3 in block 1: model\.layers\.1\.self_attn does not quantise"):
        set_rotations(model, {"R4": [0], "R3": [1]})
    assert rotations_of(model) == {"R2": [], "R3": [], "R4": []}
    set_rotations(model, {"R4": [0]})
    assert rotations_of(model) == {"R2": [], "R3": [], "R4": [0]}
    with pytest.raises(QuantizationError, match=r"R5 in block 0.*R2, R3, R4 and blocks from 0 to 1"):
        set_rotations(model, {"R5": [0]})
    with pytest.raises(QuantizationError, match="R4 in block 2"):
        set_rotations(model, {"R4": [2]})


def test_a_rotation_of_rows_is_that_of_a_submatrix():
    rows = torch.tensor([5, 0, 3, 8])
    rotation = RowRotation(Rotation(4, signs_seed=1), rows)
    x = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    matrix = torch.eye(9, dtype=torch.float64)
    matrix[rows[:, None], rows] = Rotation(4, signs_seed=1).matrix(torch.float64)
    assert torch.allclose(rotation(x), x @ matrix, atol=1e-12)
    assert torch.allclose(rotation.inverse(rotation(x)), x, atol=1e-12)
    assert torch.autograd.gradcheck(rotation, x)
    assert not rotation.state_dict()
    assert rotation(x.to("meta")).is_meta
    assert torch.equal(copy.deepcopy(rotation)(x), rotation(x))
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        RowRotation(Rotation(4), rows[:3])

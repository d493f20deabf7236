import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.quantization.models import LAYOUTS, make_model, tokens
from transformers import AutoModelForCausalLM

from ketune.quantization import QuantizationError, QuantizeConfig, dequantize_, fake_quantize, quantize_
from ketune.quantization.errors_of_rotations import NORMS, keys_of, measure_errors
from ketune.quantization.fake_quantize import FakeQuantizer
from ketune.quantization.prepare import prepare_
from ketune.quantization.roste import RosteConfig, choose_rotations_, prepare_roste_
from ketune.quantization.rotations import rotation_places


def prompts(n=2, length=12):
    x = tokens(n, length)
    mask = torch.ones_like(x)
    mask[0, -3:] = 0
    return [{"input_ids": x, "attention_mask": mask}]


def outlying(name):
    """A model some of whose weights have columns that stand out, as in trained models: there rotations pay."""
    model = make_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and len(parameter) < 64:
                parameter[:, :2] *= 20
    return model


def switch_off(model):
    for module in model.modules():
        if isinstance(module, FakeQuantizer):
            module.enabled = False
    return model


@pytest.mark.parametrize("rotations", ["adaptive", "always", "never"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_with_quantisers_off_the_function_stays_the_same(name, rotations):
    model, batches = make_model(name), prompts()
    plain = model(**batches[0]).logits
    prepare_roste_(model, RosteConfig(rotations=rotations), batches)
    torch.testing.assert_close(switch_off(model)(**batches[0]).logits, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [make_model, outlying])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_chosen_error_is_never_above_either_fixed_choice(name, make, norm):
    report = prepare_roste_(make(name), RosteConfig(norm=norm), prompts())
    assert report.error <= min(report.error_never, report.error_always)
    of_blocks = [choice for choice in report.choices if choice.kind != "R1"]
    assert len(of_blocks) == 6
    assert all(choice.chosen == (choice.rotated < choice.plain) for choice in of_blocks)
    saved = sum(choice.plain - choice.rotated for choice in of_blocks if choice.chosen)
    assert report.error == pytest.approx(report.error_never - saved, rel=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_measured_errors_are_those_of_the_model_that_results(name):
    # Set every rotation, and quantise what then arrives at each quantiser: the same numbers, without the shortcut.
    model, batches = make_model(name), prompts()
    prepare_(model, QuantizeConfig("w4a4kv4", quantize_queries=True))
    places = rotation_places(model)
    expected = measure_errors(model, places, batches)
    for place in places:
        place.set(model)
    got = measure_errors(model, [], batches).plain
    turned = {key for place in places for key in keys_of(place)}
    for key, error in got.items():
        layer = model.get_submodule(key[0])
        if key[1] == "input" and getattr(layer, "rotates_input", False) and layer.input_rotation is not None:
            continue  # R4: the hook sees the input before the layer turns it
        if key[1] in ("query", "key"):
            continue  # R3: likewise
        want = expected.rotated[key] if key in turned else expected.plain[key]
        assert error == pytest.approx(want, rel=1e-4), key


def test_errors_are_what_the_norms_say():
    model, batches = make_model("llama"), prompts()
    prepare_(model, QuantizeConfig("w4a4"))
    layer = model.model.layers[0].mlp.down_proj
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    switch_off(model)(**batches[0])
    handle.remove()
    for quantizer in model.modules():
        if isinstance(quantizer, FakeQuantizer):
            quantizer.enabled = True
    x = seen[0][batches[0]["attention_mask"].bool()]
    error = (fake_quantize(x, layer.input_quantizer.scheme) - x).square()
    name = "model.layers.0.mlp.down_proj"
    for norm, value in (
        ("relative", error.sum() / x.square().sum()),
        ("frobenius", error.sum() / 2),
        ("mean", error.mean()),
    ):
        errors = measure_errors(model, [], batches, norm).plain
        assert errors[name, "input"] == pytest.approx(value.item(), rel=1e-4)
    weight = layer.weight.detach()
    error = (fake_quantize(weight, layer.weight_quantizer.scheme) - weight).square()
    assert measure_errors(model, [], batches, "frobenius").plain[name, "weight"] == pytest.approx(
        error.sum().item(), rel=1e-4
    )


def test_padding_does_not_count():
    model, (batch,) = make_model("llama"), prompts()
    prepare_(model, QuantizeConfig("w4a4kv4"))
    longer = {
        "input_ids": torch.cat([batch["input_ids"], tokens(2, 4)], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros(2, 4, dtype=torch.long)], 1),
    }
    places = rotation_places(model)
    one, other = measure_errors(model, places, [batch]), measure_errors(model, places, [longer])
    for key, error in one.plain.items():
        assert other.plain[key] == pytest.approx(error, rel=1e-4)


def test_columns_that_stand_out_call_for_rotations():
    report = prepare_roste_(outlying("llama"), RosteConfig(residual=False), prompts())
    by_kind = {kind: [c.chosen for c in report.choices if c.kind == kind] for kind in ("R2", "R4")}
    assert all(by_kind["R4"])
    assert report.error < report.error_never


@pytest.mark.parametrize("name", LAYOUTS)
def test_trained_rotated_models_are_exported_and_loaded_bit_by_bit(name, tmp_path):
    model, batches = outlying(name), prompts()
    prepare_roste_(model, RosteConfig(rotations="always"), batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = model(**batches[0], labels=batches[0]["input_ids"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = model(**batches[0]).logits
    quantize_(model, QuantizeConfig("w4a4kv4", step="convert")).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batches[0]).logits, trained)


@pytest.mark.parametrize("bits", ["w16a8kv8", "w4a8"])
def test_adapters_merge_into_what_rotated_codes_stand_for(bits, tmp_path):
    model, batches = outlying("llama"), prompts()
    prepare_roste_(model, RosteConfig(bits, rotations="always"), batches)
    prepared = model(**batches[0]).logits
    quantize_(model, QuantizeConfig(bits, step="convert")).save_pretrained(tmp_path)
    loaded = dequantize_(AutoModelForCausalLM.from_pretrained(tmp_path))
    torch.testing.assert_close(loaded(**batches[0]).logits, prepared, atol=1e-3, rtol=1e-3)
    targets = ["q_proj", "down_proj", "o_proj"]
    adapted = get_peft_model(loaded, LoraConfig(target_modules=targets, init_lora_weights=False)).eval()
    # The same update in another way: on the plain basis of the layer's own input.
    layer = adapted.base_model.model.model.layers[0].mlp.down_proj
    x = torch.randn(3, layer.in_features)
    base = layer.get_base_layer()
    expected = base.forward_with(x, layer.get_delta_weight("default"))
    layer.merge()
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    weight = base.input_rotation.inverse(base.quantize_input(x))  # what the weight meets, without the rotation
    torch.testing.assert_close(expected, weight @ base.weight.T, atol=1e-4, rtol=1e-3)


def test_rotations_can_be_chosen_anew_while_training():
    model, batches, config = outlying("llama"), prompts(), RosteConfig(residual=True)
    first = prepare_roste_(model, config, batches)
    again = choose_rotations_(model, config, batches)
    assert [c.chosen for c in again.choices] == [c.chosen for c in first.choices if c.kind != "R1"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    plain = switch_off(copy.deepcopy(model))(**batches[0]).logits
    choose_rotations_(model, config, batches)
    torch.testing.assert_close(switch_off(model)(**batches[0]).logits, plain, atol=1e-4, rtol=1e-4)


def test_kinds_that_a_scheme_has_no_use_for_are_left_out():
    report = prepare_roste_(make_model("llama"), RosteConfig("w4a8", residual=False), prompts())
    assert {choice.kind for choice in report.choices} == {"R2", "R4"}
    report = prepare_roste_(make_model("llama"), RosteConfig("w4a8", residual=False, kinds=("R4",)), prompts())
    assert {choice.kind for choice in report.choices} == {"R4"}


def test_wrong_settings_say_what_is_right():
    with pytest.raises(QuantizationError, match="'adaptive', 'always', 'never'"):
        RosteConfig(rotations="sometimes")
    with pytest.raises(QuantizationError, match="'R2', 'R3', 'R4'"):
        RosteConfig(kinds=("R5",))
    with pytest.raises(QuantizationError, match="pass True or False"):
        RosteConfig(rotations="never", residual="auto")
    with pytest.raises(QuantizationError, match="prompts"):
        prepare_roste_(make_model("llama"), RosteConfig())
    with pytest.raises(QuantizationError, match="gpt2"):
        prepare_roste_(make_model("gpt2"), RosteConfig(), prompts())


def test_any_model_trains_straight_through_without_rotations():
    assert not prepare_roste_(make_model("gpt2"), RosteConfig(rotations="never")).choices

"""Fused norms and the rotated residual stream: the same function, and models that are saved and loaded."""

import copy
from pathlib import Path

import pytest
import torch
from tests.quantization.models import CONFIGS, LAYOUTS, make_model, tokens
from torch import nn
from transformers import AutoModelForCausalLM

from ketune.quantization import QuantizationError, QuantizeConfig, quantize_
from ketune.quantization.layouts import layout_of
from ketune.quantization.norm_fusing import fuse_norms, fuse_structure, has_fused_norms
from ketune.quantization.rotations import rotate_residual

DATA = Path(__file__).parents[3] / "shared" / "data"
BIASES = {"llama": {"attention_bias": True, "mlp_bias": True}}


def make_wide_model(name, **more):
    """Weights large enough for logits of order one, so that a tolerance of 1e-5 says something."""
    return make_model(name, initializer_range=0.2, **more)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_function_stays_the_same(name, tied, biases):
    model = make_wide_model(name, tie_word_embeddings=tied, **(BIASES.get(name, {}) if biases else {}))
    ids = tokens()
    before = logits(model, ids)
    assert before.std() > 0.3
    exact = copy.deepcopy(model).double()
    expected = logits(exact, ids)
    assert not has_fused_norms(model)
    fuse_norms(model)
    assert has_fused_norms(model)
    assert torch.allclose(logits(model, ids), before, atol=1e-5)
    rotate_residual(model, seed=3)
    assert has_fused_norms(model)
    assert torch.allclose(logits(model, ids), before, atol=1e-5)
    rotate_residual(fuse_norms(exact), seed=3)
    # weights and activations are exact to 1e-16, and what is left is the float32 of RMS norms
    assert torch.allclose(logits(exact, ids), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["gpt_neox"])
def test_without_a_parallel_residual_and_without_biases_too(name):
    model = make_wide_model(name, use_parallel_residual=False, attention_bias=False)
    ids = tokens()
    before = logits(model, ids)
    rotate_residual(model)
    assert torch.allclose(logits(model, ids), before, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["model-gpt-neo-tinystories-3m", "model-llama-stories-260k", "model-llama-stories-char105"]
)
def test_trained_models_keep_their_function(name):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there")
    model = AutoModelForCausalLM.from_pretrained(DATA / name).eval()
    ids = torch.randint(3, 100, (2, 64))
    before = logits(model, ids)
    rotate_residual(model, seed=1)
    after = logits(model, ids)
    assert (after - before).abs().max() < 1e-5 * before.abs().max()


@pytest.mark.parametrize("name", LAYOUTS)
def test_hidden_states_are_turned_and_lose_their_mean(name):
    model = make_wide_model(name)
    ids = tokens()
    before = model(ids, output_hidden_states=True).hidden_states[:-1]  # the last one is after the norm
    turn = rotate_residual(model, seed=2)
    after = model(ids, output_hidden_states=True).hidden_states[:-1]
    centred = name.startswith("gpt")
    for old, new in zip(before, after, strict=True):
        expected = turn(old - old.mean(-1, keepdim=True) if centred else old)
        assert torch.allclose(new, expected, atol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_second_time_changes_nothing(name):
    model = fuse_norms(make_wide_model(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fuse_norms(model)
    for key, value in model.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-7), key


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_fused_model_is_loaded_into_its_structure(name, tied, tmp_path):
    model = rotate_residual_of(make_wide_model(name, tie_word_embeddings=tied))
    ids = tokens()
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(model.config)
    fuse_structure(empty)
    assert {key: value.shape for key, value in empty.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    fresh = fuse_structure(AutoModelForCausalLM.from_config(CONFIGS[name](tie_word_embeddings=tied))).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits(fresh, ids), logits(model, ids))
    if name in ("llama", "qwen2"):  # such a model is one of transformers' own
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert not loaded.config.tie_word_embeddings
        assert loaded.lm_head.weight is not loaded.get_input_embeddings().weight
        assert torch.equal(logits(loaded, ids), logits(model, ids))


@pytest.mark.parametrize("name", LAYOUTS)
def test_embeddings_stay_apart_when_transformers_ties_again(name):
    model = rotate_residual_of(make_wide_model(name, tie_word_embeddings=True))
    before = logits(model, ids := tokens())
    model.tie_weights()
    model.init_weights()  # what some trainers call; ties too, and starts nothing that is there anew
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert torch.equal(logits(model, ids), before)
    model.train()
    assert model.get_output_embeddings().weight.requires_grad


@pytest.mark.parametrize("name", LAYOUTS)
def test_layers_with_fake_quantisers_are_fused_as_well(name):
    model = make_wide_model(name)
    ids = tokens()
    plain = logits(rotate_residual_of(copy.deepcopy(model)), ids)
    quantize_(model, QuantizeConfig("w4a4"))
    for module in model.modules():
        if hasattr(module, "enabled"):
            module.enabled = False
    assert torch.allclose(logits(rotate_residual_of(model), ids), plain, atol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_converted_models_keep_fused_norms_when_saved(name, tmp_path):
    model = rotate_residual_of(make_wide_model(name, tie_word_embeddings=True))
    quantize_(model, QuantizeConfig("w4a8kv4", step="convert"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert has_fused_norms(loaded)
    ids = tokens()
    assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_bfloat16_is_rounded_once():
    model = make_wide_model("gpt_neox").bfloat16()
    exact = rotate_residual_of(copy.deepcopy(model).double())
    rotated = rotate_residual_of(model)
    assert {value.dtype for value in rotated.state_dict().values()} == {torch.bfloat16}
    # fusing and R1 are a rounding each
    for (key, ours), theirs in zip(rotated.state_dict().items(), exact.state_dict().values(), strict=True):
        assert (ours - theirs).abs().max() < 2 * 2**-8 * theirs.abs().max() + 1e-6, key


def test_norms_of_a_fused_layernorm_model_hold_nothing():
    model = fuse_norms(make_wide_model("gpt_neo"))
    norms = [model.get_submodule(place.norm) for place in layout_of(model).norms]
    assert {type(norm) for norm in norms} == {nn.RMSNorm}
    assert not any(norm.state_dict() for norm in norms)
    assert not any(norm.training for norm in norms)


def test_codes_cannot_be_fused():
    model = quantize_(make_model("llama"), QuantizeConfig("w4a16", step="convert"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(QuantizationError, match="CodedLinear without a weight to change"):
        rotate_residual(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_models_without_a_layout_have_no_fused_norms():
    assert not has_fused_norms(make_model("gpt2"))
    with pytest.raises(QuantizationError, match="gpt2"):
        fuse_norms(make_model("gpt2"))


def rotate_residual_of(model):
    rotate_residual(model, seed=4)
    return model

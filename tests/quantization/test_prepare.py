import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.quantization.models import CONFIGS, make_model, tokens
from transformers import AutoModelForCausalLM

from ketune.quantization import (
    CodedLinear,
    QuantizationError,
    QuantizeConfig,
    QuantizedLinear,
    dequantize_,
    quantize_,
)


@pytest.mark.parametrize("bits", ["w4a4kv4", "w3a16", "w2a8kv4g16", "w16a8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_prepared_converted_and_loaded_models_give_the_same_to_the_last_bit(name, bits, tmp_path):
    model, x = make_model(name), tokens()
    plain = model(x).logits
    prepared = quantize_(model, QuantizeConfig(bits))(x).logits
    assert not torch.equal(prepared, plain)
    converted = quantize_(model, QuantizeConfig(bits, step="convert"))
    assert torch.equal(converted(x).logits, prepared)
    converted.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(x).logits, prepared)
    assert torch.equal(dequantize_(loaded)(x).logits, prepared)


def test_a_saved_model_loads_in_half_precision_with_exact_steps(tmp_path):
    model = quantize_(make_model("llama"), QuantizeConfig("w4a16", step="convert"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(loaded.get_submodule(name).scale, model.get_submodule(name).scale)
    assert loaded.get_submodule(name).weight.dtype == torch.bfloat16


def test_adapters_train_on_a_loaded_model_and_its_codes_stay(tmp_path):
    quantize_(make_model("llama"), QuantizeConfig("w4a8", step="convert")).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    codes = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    x = tokens()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(10):
        loss = adapted(x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    unloaded = adapted.unload().state_dict()
    assert all(torch.equal(unloaded[name], tensor) for name, tensor in codes.items())


@pytest.mark.parametrize("name", CONFIGS)
def test_training_reaches_every_weight_and_lowers_the_loss(name):
    model, x = quantize_(make_model(name), QuantizeConfig("w4a4kv4")).train(), tokens(4, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = model(x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim == 2 and len(p) < 64)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cache_holds_what_a_whole_pass_attends_to(name):
    # Keys and values are quantised for each token alone, so that token by token is the same as all at once.
    model, x = quantize_(make_model(name), QuantizeConfig("w16a16kv3")), tokens(1, 8)
    whole = model(x).logits
    assert not torch.allclose(whole, make_model(name)(x).logits)
    cache, steps = None, []
    for token in x.split(1, dim=1):
        out = model(token, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=2e-5, rtol=0)


def test_keys_are_quantised_after_their_rotary_embedding():
    model, x = make_model("llama"), tokens(1, 6)
    quantize_(model, QuantizeConfig("w16a16kv4"))
    attention, seen = model.model.layers[0].self_attn, {}
    attention.kv_quantizer.register_forward_hook(lambda module, given, made: seen.update(given=given, made=made))
    model(x)
    _, key, value = seen["given"]
    for before, after in zip((key, value), seen["made"][1:]):
        assert before.shape == (1, 2, 6, 8)
        assert all(len(row.unique()) <= 16 for row in after.detach().reshape(-1, 8))
        assert not torch.equal(before, after)
    hidden = model.model.layers[0].input_layernorm(model.model.embed_tokens(x))
    projected = attention.k_proj(hidden).view(1, 6, 2, 8).transpose(1, 2)
    torch.testing.assert_close(key[:, :, 0], projected[:, :, 0])  # the first position is not turned
    assert not torch.allclose(key[:, :, 3], projected[:, :, 3], atol=1e-3)


def test_the_head_stays_unless_it_is_named():
    model = quantize_(make_model("llama", tie_word_embeddings=False), QuantizeConfig("w4a16"))
    assert not isinstance(model.lm_head, QuantizedLinear)
    model = quantize_(make_model("llama", tie_word_embeddings=False), QuantizeConfig("w4a16", modules=["lm_head"]))
    assert [n for n, m in model.named_modules() if isinstance(m, QuantizedLinear)] == ["lm_head"]


def test_modules_are_named_by_suffixes_or_by_a_regular_expression():
    for modules in (["q_proj", "mlp.up_proj"], r".*(q_proj|mlp\.up_proj)"):
        model = quantize_(make_model("llama"), QuantizeConfig("w4a16", modules=modules))
        found = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
        assert found == {"q_proj", "up_proj"}


def test_groups_that_do_not_fit_are_refused_before_anything_changes():
    model = make_model("llama")
    with pytest.raises(QuantizationError, match=r"down_proj.*48"):
        quantize_(model, QuantizeConfig("w4a16g32"))
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())


def test_what_cannot_be_done_is_refused_with_what_can():
    with pytest.raises(QuantizationError, match="'prepare', 'convert'"):
        QuantizeConfig("w4a16", step="convret")
    with pytest.raises(QuantizationError, match="no linear layer"):
        quantize_(make_model("llama"), QuantizeConfig("w4a16", modules=["c_attn"]))
    prepared = quantize_(make_model("llama"), QuantizeConfig("w4a16"))
    with pytest.raises(QuantizationError, match="already"):
        quantize_(prepared, QuantizeConfig("w4a16"))
    with pytest.raises(QuantizationError, match="w4a16, not for w2a16"):
        quantize_(prepared, QuantizeConfig("w2a16", step="convert"))
    adapted = get_peft_model(make_model("llama"), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(QuantizationError, match="adapters"):
        quantize_(adapted, QuantizeConfig("w4a16"))


def test_converting_makes_codes_of_everything_that_was_prepared():
    model = quantize_(make_model("gpt2"), QuantizeConfig("w4a16", step="convert"))
    assert sum(isinstance(m, CodedLinear) for m in model.modules()) == 8
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())

"""Layouts against the models they describe."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.quantization.models import CONFIGS, LAYOUTS, make_model, tokens
from torch import nn
from transformers import AutoModelForSequenceClassification

from ketune.quantization import QuantizationError, QuantizeConfig, quantize_
from ketune.quantization.layouts import layout_of


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_parameter_of_the_model_has_one_place(name):
    model = make_model(name)
    layout = layout_of(model)
    linears = (*layout.readers, *layout.writers)
    assert len(set(linears)) == len(linears)
    assert set(linears) == {n for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {place.norm for place in layout.norms} == {n for n, m in model.named_modules() if "Norm" in type(m).__name__}
    assert set(layout.embeddings) == {n for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    for module in linears:
        linear = model.get_submodule(module)
        assert (linear.in_features if module in layout.readers else linear.out_features) == layout.width


@pytest.mark.parametrize("name", LAYOUTS)
def test_readers_read_what_their_norm_gives(name):
    model = make_model(name)
    given, read = {}, {}
    for place in layout_of(model).norms:
        model.get_submodule(place.norm).register_forward_hook(lambda m, a, y, n=place.norm: given.update({n: y}))
        for reader in place.readers:
            model.get_submodule(reader).register_forward_pre_hook(lambda m, a, n=reader: read.update({n: a[0]}))
    model(tokens())
    for place in layout_of(model).norms:
        for reader in place.readers:
            assert torch.equal(read[reader], given[place.norm])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_rows_of_values_are_those_that_reach_the_cache(name):
    model = make_model(name)
    for number, block in enumerate(layout_of(model).blocks):
        for heads, part in ((block.key, "keys"), (block.value, "values")):
            linear, seen = model.get_submodule(heads.linear), {}
            hook = linear.register_forward_hook(lambda m, a, y, seen=seen: seen.update(y=y))
            cached = getattr(model(tokens(1, 1), use_cache=True).past_key_values.layers[number], part)
            hook.remove()
            rows = heads.rows()
            assert (rows is None) == (name != "gpt_neox")
            mine = seen["y"][0, 0] if rows is None else seen["y"][0, 0, rows]
            assert mine.shape == (heads.width,)
            # the first token is at position 0, which rotary embeddings leave alone
            assert torch.allclose(mine, cached[0, :, 0].flatten(), atol=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_outlives_the_replacement_of_layers(name):
    model = make_model(name)
    before = layout_of(model)
    quantize_(model, QuantizeConfig("w4a4"))
    assert layout_of(model) == before


def test_models_without_a_layout_are_refused_with_what_is_known():
    with pytest.raises(QuantizationError, match=r"gpt2.*llama, qwen2, gpt_neox, gpt_neo"):
        layout_of(make_model("gpt2"))
    with pytest.raises(QuantizationError, match="LlamaForSequenceClassification: no lm_head"):
        layout_of(AutoModelForSequenceClassification.from_config(CONFIGS["llama"]()))
    with pytest.raises(QuantizationError, match="without adapters"):
        layout_of(get_peft_model(make_model("llama"), LoraConfig(target_modules=["q_proj"])))
    adapted = get_peft_model(make_model("llama"), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(QuantizationError, match=r"self_attn\.q_proj is a Linear.*merge adapters"):
        layout_of(adapted.get_base_model())

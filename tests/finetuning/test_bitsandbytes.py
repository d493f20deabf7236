"""Bases that bitsandbytes quantises while they are loaded, on the CPU: right weights, gradients and merges."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from tests.adapters.test_base import CONFIGS
from tests.finetuning.tiny import write_jsonl
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from ketune.adapters.cpu_packing import is_packed
from ketune.errors import ModelError
from ketune.finetuning import TrainingParams, finetune, load_base
from ketune.finetuning.adapting import adapt
from ketune.finetuning.merging import merge, merge_into_base
from ketune.finetuning.quantizing import QuantizedTraining
from ketune.finetuning.trained import load_trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit linear:UserWarning"),  # of PEFT: it rounds
]
bnb = pytest.importorskip("bitsandbytes", exc_type=ImportError)
packs = pytest.mark.skipif(
    not bnb.functional.has_avx512bf16(), reason="this CPU has no AVX512-BF16, so bitsandbytes repacks nothing"
)
TOKENS = torch.arange(60).view(2, 30)


def logits(model, grad=False):
    with torch.set_grad_enabled(grad):
        return model(TOKENS).logits


def error(found, exact):
    return float((found - exact).detach().norm() / exact.detach().norm())


def lora():
    return LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False, r=4)


def test_nf4_weights_are_as_near_as_nf4_should_be_whatever_the_width():
    """The bundled model has rows of 160 and 448 values, of which only the latter are whole blocks of 64."""
    base, _ = load_base("builtin:base")
    loaded, _ = load_base("builtin:base", quantization="nf4")
    blocks = set()
    for name, layer in loaded.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            assert 0.05 < error(weight, base.get_submodule(name).weight) < 0.1
            blocks.add((layer.in_features, layer.weight.blocksize))
    assert blocks == {(160, 32), (448, 64)}
    assert not isinstance(loaded.lm_head, bnb.nn.Linear4bit)
    assert error(logits(loaded), logits(base)) < 0.1


def test_a_base_of_bitsandbytes_is_saved_and_loaded_with_its_blocks(tmp_path, tokenizer):
    loaded, tokenizer = load_base("builtin:base", quantization="nf4")
    expected = logits(loaded)
    loaded.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_base(tmp_path)
    assert again.model.layers[0].self_attn.q_proj.weight.blocksize == 32
    assert error(logits(again), expected) < 2**-7


@pytest.fixture
def uneven(tmp_path, tokenizer):
    """A model with rows that no blocks fill."""
    config = LlamaConfig(
        hidden_size=80, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=320
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "uneven")
    tokenizer.save_pretrained(tmp_path / "uneven")
    return tmp_path / "uneven"


def test_rows_that_no_blocks_fill_are_refused_and_take_int8(uneven, tmp_path):
    with pytest.raises(ModelError, match=r"q_proj: has rows of 80 values, no whole blocks of 32.*int8"):
        load_base(uneven, quantization="nf4")
    assert error(logits(load_base(uneven, quantization="int8")[0]), logits(load_base(uneven)[0])) < 0.1
    # Quantised by somebody else, on a device that can.
    quantised = AutoModelForCausalLM.from_pretrained(
        uneven, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={"": "cpu"}
    )
    quantised.save_pretrained(tmp_path / "quantised")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "quantised" / name).write_bytes((uneven / name).read_bytes())
    with pytest.raises(ModelError, match="whole blocks of 64"):
        load_base(tmp_path / "quantised")


@packs
@pytest.mark.parametrize("kind", ["lora", "sora", "qpa dora"])
def test_merging_after_an_evaluation_costs_no_more_than_quantising_the_sum(kind):
    def merged(evaluated: bool) -> float:
        torch.manual_seed(0)
        base, _ = load_base("builtin:base", quantization="nf4")
        config = lora() if kind == "lora" else CONFIGS[kind](target_modules=["q_proj", "down_proj"], init_weights=False)
        model = adapt(base, config).eval()
        apart = logits(model, grad=True).detach()  # gradients in the inputs of most layers, so these are not packed
        if evaluated:
            assert error(logits(model), apart) < 0.03
            assert sum(map(is_packed, base.modules())) > 9
        return error(logits(merge_into_base(model)), apart)

    assert merged(True) == pytest.approx(merged(False), abs=0.02)
    assert merged(True) < 0.2


@packs
@pytest.mark.parametrize("kind", ["lora", "sora"])
def test_training_goes_on_after_an_evaluation_as_if_there_had_been_none(kind):
    def gradients(evaluated: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        base, _ = load_base("builtin:base", quantization="nf4")
        config = lora() if kind == "lora" else CONFIGS[kind](target_modules=["q_proj", "down_proj"], init_weights=False)
        model = adapt(base, config)
        if evaluated:
            logits(model.eval())
        model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    before, after = gradients(False), gradients(True)
    assert len(before) > 12
    for name, gradient in before.items():
        assert error(after[name], gradient) < 0.05, name


def test_a_trained_adapter_is_loaded_evaluated_and_merged(tmp_path):
    rows = [{"prompt": f"a fox and {n}:", "completion": f" {n} owls"} for n in range(24)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    params = TrainingParams(max_steps=6, batch_size=4, eval_steps=2, save_steps=0, learning_rate=1e-2)
    run = finetune(
        "builtin:base",
        str(data),
        LoraConfig(target_modules=["q_proj", "down_proj"], r=4),
        output_dir=tmp_path / "run",
        params=params,
        quantization=QuantizedTraining("nf4"),
        progress=False,
    )
    losses = [record["eval_loss"] for record in run.history if "eval_loss" in record]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    adapted, _ = load_trained(tmp_path / "run")
    expected = logits(adapted)
    merge(tmp_path / "run", tmp_path / "merged")
    assert error(logits(load_base(tmp_path / "merged")[0]), expected) < 0.15

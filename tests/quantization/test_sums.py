import copy

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.quantization.models import make_model, tokens

import ketune
from ketune.quantization import QuantizationError, QuantizeConfig, quantize_
from ketune.quantization.sums import ADDITIVE, has_quantized_sums, quantize_sums_

# PEFT's ShiRA builds sparse tensors without saying whether they are to be checked.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
Q = {"target_modules": ["q_proj", "v_proj"]}
ONE = {"target_modules": ["q_proj"]}
CONFIGS = {
    "lora": lambda: LoraConfig(**Q),
    "rslora": lambda: LoraConfig(use_rslora=True, **Q),
    "adalora": lambda: peft.AdaLoraConfig(total_step=10, **Q),
    "loha": lambda: peft.LoHaConfig(**Q),
    "lokr": lambda: peft.LoKrConfig(**Q),
    "vera": lambda: peft.VeraConfig(**ONE),
    "randlora": lambda: peft.RandLoraConfig(r=2, **ONE),
    "shira": lambda: peft.ShiraConfig(r=2, **Q),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=10, **Q),
    "waveft": lambda: peft.WaveFTConfig(n_frequency=10, **Q),
    "unilora": lambda: peft.UniLoraConfig(**Q),
    "tinylora": lambda: peft.TinyLoraConfig(**Q),
    "quanta": lambda: ketune.QuantaConfig(**Q),
    "sora": lambda: ketune.SoraConfig(**Q),
    "qpa": lambda: ketune.QPAConfig(**Q),
    "quic": lambda: ketune.QuicConfig(**Q),
    "quantum_peft": lambda: ketune.QuantumPeftConfig(**Q),
    "compass": lambda: ketune.CompassConfig(frame="random", **Q),
    "qaa, amplitudes": lambda: ketune.QAAConfig(readout="amplitudes", **Q),
}


def adapted(name, bits="w4a4kv4"):
    model = get_peft_model(quantize_(make_model("llama"), QuantizeConfig(bits)), CONFIGS[name]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_every_method_of_pefts_that_is_let_in_is_tested():
    assert set(ADDITIVE) <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_and_unmerged_models_agree(name):
    model, x = adapted(name), tokens()
    quantize_sums_(model)
    assert has_quantized_sums(model)
    beside = model(x).logits
    merged = copy.deepcopy(model).merge_and_unload()(x).logits
    assert torch.equal(merged, beside)
    model.merge_adapter()
    assert torch.equal(model(x).logits, beside)
    model.unmerge_adapter()
    torch.testing.assert_close(model(x).logits, beside, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["lora", "quanta"])
def test_beside_the_quantised_layer_they_do_not(name):
    model, x = adapted(name), tokens()
    beside = model(x).logits
    assert not torch.allclose(model.merge_and_unload()(x).logits, beside, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_reach_what_trains_and_nothing_else(name):
    model, x = quantize_sums_(adapted(name)), tokens()
    model(x, labels=x).loss.backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == parameter.requires_grad


def test_what_was_merged_is_what_gets_codes():
    model, x = quantize_sums_(adapted("lora")), tokens()
    beside = model(x).logits
    coded = quantize_(model.merge_and_unload(), QuantizeConfig("w4a4kv4", step="convert"))
    assert torch.equal(coded(x).logits, beside)


def test_a_disabled_adapter_leaves_the_quantised_base():
    model, x = adapted("lora"), tokens()
    with model.disable_adapter():
        base = model(x).logits
    quantize_sums_(model)
    with model.disable_adapter():
        assert torch.equal(model(x).logits, base)


def test_two_active_adapters_are_one_sum():
    model, x = adapted("lora"), tokens()
    model.add_adapter("other", LoraConfig(init_lora_weights=False, **Q))
    model.base_model.set_adapter(["default", "other"])
    quantize_sums_(model)
    beside = model(x).logits
    assert torch.equal(model.merge_and_unload()(x).logits, beside)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LoraConfig(use_dora=True, **Q), "no matrix"),
        (peft.OFTConfig(**ONE), "no matrix"),
        (peft.IA3Config(feedforward_modules=[], **ONE), "no matrix"),
        (ketune.QAAConfig(**ONE), "no matrix"),
        (LoraConfig(lora_dropout=0.1, **Q), "dropout=0.1"),
        (ketune.SoraConfig(dropout=0.1, **Q), "dropout=0.1"),
    ],
)
def test_what_is_no_sum_is_refused(config, reason):
    model = get_peft_model(quantize_(make_model("llama"), QuantizeConfig("w4a16")), config)
    with pytest.raises(QuantizationError, match=reason):
        quantize_sums_(model)
    assert not has_quantized_sums(model)


def test_a_model_without_fake_quantisers_is_refused():
    with pytest.raises(QuantizationError, match="quantize_"):
        quantize_sums_(get_peft_model(make_model("llama"), LoraConfig(**Q)))


def test_rows_with_adapters_of_their_own_are_refused():
    model, x = quantize_sums_(adapted("lora")), tokens()
    with pytest.raises(QuantizationError, match="one adapter each"):
        model(x, adapter_names=["default", "__base__"])

"""QPA adapters as plain ones of PEFT, loaded by a process that never imports Ketune; and QPA for prefixes."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from tests.adapters.models import TwoLayers, tiny_gpt2, tiny_llama

import ketune
from ketune import QPAConfig, QPAPrefixConfig, SoraConfig, export_plain
from ketune.adapters import ConfigError

LOADER = """
import sys, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # as in pyproject.toml
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
assert "ketune" not in sys.modules
with torch.no_grad():
    torch.save(model(torch.arange(14).view(2, 7)).logits, out)
"""
IDS = torch.arange(14).view(2, 7)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def elsewhere(base, adapter, out):
    """The logits of a process that knows PEFT only."""
    command = [sys.executable, "-c", LOADER, str(base), str(adapter), str(out)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(out)


def trained(model, steps=3):
    """A few steps, so that what is exported has come out of training."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(steps):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (tiny_llama, {}),
        (tiny_gpt2, {"sharing": "module", "lora_alpha": 3.0, "r": 3}),
        (tiny_llama, {"target": "dora", "target_modules": "all-linear"}),
        (tiny_gpt2, {"target": "dora", "modules_to_save": ["ln_f"]}),
    ],
    ids=["lora", "lora-conv1d", "dora-all-linear", "dora-conv1d-with-saved-module"],
)
def test_a_plain_adapter_gives_the_same_outputs_where_ketune_is_not_imported(make, settings, tmp_path):
    base = make()
    base.save_pretrained(tmp_path / "base")
    before = logits(base)
    model = trained(get_peft_model(base, QPAConfig(task_type="CAUSAL_LM", chunk=40, **settings)))
    assert export_plain(model, tmp_path / "plain") == tmp_path / "plain"
    plain = elsewhere(tmp_path / "base", tmp_path / "plain", tmp_path / "out.pt")
    torch.testing.assert_close(plain, logits(model), rtol=1e-4, atol=1e-5)
    assert (plain - before).abs().max() > 1e-2
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_what_has_no_plain_counterpart_is_refused_with_the_reason(tmp_path):
    def adapt(config):
        return get_peft_model(TwoLayers(), config)

    targets = ["lin0", "lin1"]
    for config, says in (
        (QPAConfig(target_modules=targets, target="adapter"), "target='adapter' is a bottleneck"),
        (QPAConfig(target_modules=targets, bias="all"), "bias='all'"),
        (SoraConfig(target_modules=targets), "needs a QPA adapter, this is SoraConfig"),
    ):
        with pytest.raises(ConfigError, match=says):
            export_plain(adapt(config), tmp_path / "plain")
    model = adapt(QPAConfig(target_modules=targets))
    with pytest.raises(ConfigError, match="adapter_name='other'"):
        export_plain(model, tmp_path / "plain", "other")
    model.add_weighted_adapter(["default"], [2.0], "mix")
    with pytest.raises(ConfigError, match="weighted sum"):
        export_plain(model, tmp_path / "plain", "mix")
    assert not (tmp_path / "plain").exists()


def prefix_config(**kwargs):
    return QPAPrefixConfig(task_type="CAUSAL_LM", num_virtual_tokens=6, chunk=50, **kwargs)


@pytest.mark.parametrize("init_weights", [None, "zero"])
def test_a_generated_prefix_trains_and_resumes_and_exports(init_weights, tmp_path):
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(base, prefix_config(init_weights=init_weights))
    config = model.peft_config["default"]
    n_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # 6 tokens, keys and values of 2 layers with one head of 12: 288 numbers, 6 chunks, 3 wires.
    assert n_trainable == config.parameter_count() == 3 * 4 + 8 * 5 + 16 * 9 + 50 * 17
    before = logits(model)
    prefix = model.prompt_encoder["default"].embedding.weight
    assert prefix.shape == (6, 48)
    assert bool(prefix.any()) == (init_weights is None)
    trained(model)
    after = logits(model)
    assert (after - before).abs().max() > 1e-3

    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == n_trainable
    for trainable in (False, True):
        fresh = type(base).from_pretrained(tmp_path / "base")
        if trainable:
            again = get_peft_model(fresh, prefix_config(init_weights=init_weights))
            again.load_adapter(tmp_path / "adapter", "default")
        else:
            again = ketune.load(tmp_path / "adapter", model=fresh)
        assert isinstance(again.peft_config["default"], QPAPrefixConfig)
        torch.testing.assert_close(logits(again), after)

    export_plain(model, tmp_path / "plain")
    plain = elsewhere(tmp_path / "base", tmp_path / "plain", tmp_path / "out.pt")
    torch.testing.assert_close(plain, after, rtol=1e-4, atol=1e-5)


def test_a_saved_generator_is_refused_by_a_peft_without_ketune(tmp_path):
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    get_peft_model(base, prefix_config()).save_pretrained(tmp_path / "adapter")
    assert "import ketune" in (tmp_path / "adapter" / "README.md").read_text()
    command = [sys.executable, "-c", LOADER, *map(str, (tmp_path / "base", tmp_path / "adapter", tmp_path / "out.pt"))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert "QPA_PREFIX" in result.stderr


def test_pefts_own_prefixes_are_as_they_were(tmp_path):
    torch.manual_seed(0)
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    model = trained(get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)))
    model.save_pretrained(tmp_path / "adapter")
    assert set(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == {"prompt_embeddings"}
    again = PeftModel.from_pretrained(type(base).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(model))
    plain = elsewhere(tmp_path / "base", tmp_path / "adapter", tmp_path / "out.pt")
    torch.testing.assert_close(plain, logits(model))


def test_the_published_count_of_a_prefix():
    """512 tokens of 768 numbers in chunks of 1024: 72,552, 18.45 % of the prefix."""
    config = QPAPrefixConfig(num_virtual_tokens=512, num_layers=1, token_dim=384, chunk=1024, n_layers=8)
    config.hidden = [32, 64, 128, 128, 64, 32, 32]
    assert config.parameter_count() == 72_552
    assert round(config.parameter_count() / (512 * 768), 4) == 0.1845


def test_a_projection_beside_the_generator_is_refused():
    with pytest.raises(ConfigError, match=r"prefix_projection=True\): the generator takes"):
        prefix_config(prefix_projection=True)

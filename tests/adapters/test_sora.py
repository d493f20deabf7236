"""SoRA: formula, gate, proximal training to real sparsity, pruning to a LoRA that PEFT alone loads."""

import copy
import subprocess
import sys

import pytest
import torch
from peft import PeftModel, get_peft_model
from tests.adapters.models import TwoLayers, tiny_llama
from torch import nn

from ketune import SoraConfig, prune
from ketune.adapters import ConfigError, effective_ranks, gates
from ketune.optim import Proximal


def sora(model=None, **kwargs):
    settings = {"target_modules": ["lin0", "lin1"], "r": 4, "alpha": 4.0, "init_weights": False, **kwargs}
    return get_peft_model(model or TwoLayers(), SoraConfig(**settings))


def test_the_update_is_b_gate_a_scaled_by_alpha_over_r():
    update = SoraConfig(r=3, alpha=6.0).make_update(5, 7)
    nn.init.normal_(update.b)
    x = torch.randn(4, 5)
    expected = 2.0 * ((x @ update.a.T) * update.gate) @ update.b.T
    assert torch.allclose(update(x), expected, atol=1e-6)
    assert torch.allclose(x @ update.delta_weight().T, expected, atol=1e-5)


def test_counts_are_exact_on_layers_that_are_not_square():
    assert SoraConfig(r=8).parameter_count(768, 3072) == 8 * (768 + 3072 + 1)


def test_the_gate_starts_as_asked():
    assert torch.equal(SoraConfig(gate_init="ones").make_update(5, 7).gate, torch.ones(8))
    torch.manual_seed(0)
    drawn = torch.cat([SoraConfig(r=50).make_update(5, 7).gate.detach() for _ in range(40)])
    assert drawn.mean().item() == pytest.approx(0, abs=0.1)
    assert drawn.std().item() == pytest.approx(1, abs=0.1)


def test_training_with_the_wrapped_optimiser_reaches_exact_zeros_without_decaying_the_gate():
    model = sora(gate_init="ones", init_weights=True, sparse_lambda=2.0, threshold="base_lr")
    config = model.peft_config["default"]
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = config.wrap_optimizer(torch.optim.AdamW(trainable, lr=0.02, weight_decay=0.1), model, "default", 60)
    assert isinstance(optimizer, Proximal)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert all(decays[id(gate)] == 0.0 for gate in gates(model).values())
    assert sum(d == 0.1 for d in decays.values()) == 4
    x, y = torch.randn(64, 10), torch.randn(64, 2)
    for _ in range(60):
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    ranks = effective_ranks(model)
    assert sorted(ranks) == ["base_model.model.lin0", "base_model.model.lin1"]
    assert sum(ranks.values()) < 8


def test_pruning_keeps_the_function_and_needs_no_ketune_to_load(tmp_path):
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = get_peft_model(
        base, SoraConfig(task_type="CAUSAL_LM", r=6, init_weights=False, target_modules="all-linear")
    )
    model.base_model.model.config.name_or_path = str(tmp_path / "base")
    with torch.no_grad():
        for i, gate in enumerate(gates(model).values()):
            gate[: i % 7] = 0.0
    model.eval()
    ids = torch.randint(0, 50, (1, 9))
    before, ranks = model(ids).logits, effective_ranks(model)
    assert 0 in ranks.values()
    pruned = prune(model).eval()
    assert torch.allclose(pruned(ids).logits, before, atol=1e-4)
    sizes = {n: m.r["default"] for n, m in pruned.named_modules() if hasattr(m, "lora_A") and "default" in m.r}
    assert sizes == {name: rank for name, rank in ranks.items() if rank}
    pruned.save_pretrained(tmp_path / "lora")
    torch.save(ids, tmp_path / "ids.pt")
    torch.save(before, tmp_path / "before.pt")
    script = (
        "import sys, torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        f"root = {str(tmp_path)!r}\n"
        "base = AutoModelForCausalLM.from_pretrained(root + '/base')\n"
        "model = PeftModel.from_pretrained(base, root + '/lora').eval()\n"
        "out = model(torch.load(root + '/ids.pt')).logits\n"
        "assert 'ketune' not in sys.modules\n"
        "assert torch.allclose(out, torch.load(root + '/before.pt'), atol=1e-4)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_pruned_and_merged_models_agree_with_the_adapter():
    base = TwoLayers()
    model = sora(copy.deepcopy(base))
    with torch.no_grad():
        gates(model)["base_model.model.lin0"][1:3] = 0.0
    x = torch.randn(3, 10)
    apart = model(x)
    assert torch.allclose(copy.deepcopy(model).merge_and_unload()(x), apart, atol=1e-4)
    pruned = prune(model)
    assert isinstance(pruned, PeftModel)
    assert torch.allclose(pruned(x), apart, atol=1e-4)


def test_pruning_keeps_the_other_trained_modules():
    model = sora(target_modules=["lin0"], modules_to_save=["lin1"])
    with torch.no_grad():
        model.base_model.model.lin1.modules_to_save["default"].weight.fill_(0.5)
    x = torch.randn(3, 10)
    apart = model(x)
    assert torch.allclose(prune(model)(x), apart, atol=1e-4)


def test_pruning_what_cannot_be_pruned_says_why():
    model = sora()
    with torch.no_grad():
        for gate in gates(model).values():
            gate.zero_()
    with pytest.raises(ConfigError, match="smaller sparse_lambda"):
        prune(model)
    with pytest.raises(ConfigError, match="needs a SoRA adapter"):
        prune(model, "other")
    model.add_adapter("second", SoraConfig(target_modules=["lin0"]))
    with pytest.raises(ConfigError, match="delete the others first"):
        prune(model)
    with pytest.raises(ValueError, match="no SoRA adapter of that name"):
        gates(model, "third")
    with pytest.raises(ConfigError, match="would not carry"):
        prune(sora(bias="sora_only"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0),
        ("alpha", 0.0),
        ("sparse_lambda", -1.0),
        ("threshold", "soft"),
        ("lambda_schedule", "cosine"),
        ("gate_init", "zeros"),
        ("lambda_num", 0),
    ],
)
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"^SoraConfig\({field}={value!r}\): "):
        SoraConfig(**{field: value})


def test_a_geometric_schedule_cannot_start_at_zero():
    with pytest.raises(ConfigError, match="above zero for lambda_schedule='exp_linear'"):
        SoraConfig(lambda_schedule="exp_linear", sparse_lambda=0.0)

"""Counts from configs alone against the published figures, and sizes for a budget."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, UniLoraConfig
from transformers import GPT2Config, GPTNeoConfig, Phi3Config

from ketune import KetuneError, QAAConfig, QTHAConfig, SoraConfig
from ketune.adapters import (
    METHODS,
    BudgetTooSmall,
    count_parameters,
    count_trainable,
    fit_budget,
    get_method,
    meta_model,
    parse_budget,
)
from ketune.adapters.choice import choose
from ketune.adapters.config import ConfigError
from ketune.adapters.targeting import choose_targets, known_targets, with_targets


@pytest.fixture(scope="module")
def neo_125m():
    types = [[["global", "local"], 6]]
    return meta_model(GPTNeoConfig(hidden_size=768, num_layers=12, num_heads=12, attention_types=types))


@pytest.fixture(scope="module")
def small_neo():
    types = [[["global", "local"], 2]]
    return meta_model(GPTNeoConfig(hidden_size=96, num_layers=4, num_heads=4, attention_types=types))


@pytest.fixture(scope="module")
def neo_1_3b():
    return meta_model(GPTNeoConfig())


def test_the_bases_have_their_published_sizes(neo_125m, neo_1_3b):
    assert count_parameters(neo_125m) == 125_198_592
    assert count_parameters(neo_1_3b) == 1_315_575_808
    assert count_trainable(neo_125m, None) == 125_198_592


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (LoraConfig(r=4, task_type="CAUSAL_LM"), 147_456),
        (LoraConfig(r=8, task_type="CAUSAL_LM"), 294_912),
        (LoraConfig(r=8, task_type="CAUSAL_LM", target_modules=["q_proj", "k_proj", "v_proj", "out_proj"]), 589_824),
        (QAAConfig(ansatz="ry_ring", task_type="CAUSAL_LM"), 184_560),
        (QAAConfig(ansatz="ry_ring", up_bias=True, task_type="CAUSAL_LM"), 202_992),
        (QAAConfig(ansatz="ry_ring", target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM"), 276_840),
        (PrefixTuningConfig(num_virtual_tokens=10, task_type="CAUSAL_LM"), 184_320),
        (PrefixTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"), 368_640),
        (SoraConfig(r=8, task_type="CAUSAL_LM"), 294_912 + 24 * 8),
    ],
)
def test_published_counts_come_from_the_config_alone(neo_125m, config, count):
    assert count_trainable(neo_125m, config) == count


def test_the_published_preset_gives_the_published_share_of_a_1_3b_model(neo_1_3b):
    count = count_trainable(neo_1_3b, QAAConfig.preset("published", task_type="CAUSAL_LM"))
    assert count == 1_180_176
    assert round(100 * count / count_parameters(neo_1_3b), 4) == 0.0897


def test_counting_leaves_model_and_config_as_they_were(neo_125m):
    config = QAAConfig(task_type="CAUSAL_LM")
    names = [name for name, _ in neo_125m.named_modules()]
    count_trainable(neo_125m, config)
    assert config.target_modules is None
    assert [name for name, _ in neo_125m.named_modules()] == names
    assert all(p.requires_grad and p.device.type == "meta" for p in neo_125m.parameters())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.configure])
@pytest.mark.parametrize("budget", [1_920, 4_608, 20_011])
def test_a_budget_is_kept_and_nearly_used_up(small_neo, name, budget):
    method = with_targets(METHODS[name], small_neo, ("q_proj", "v_proj"))
    if not method.size_name:
        smallest = count_trainable(small_neo, method.config(1))
        if smallest > budget:
            with pytest.raises(BudgetTooSmall, match=f"{smallest:,}"):
                fit_budget(method, small_neo, budget)
        else:
            assert fit_budget(method, small_neo, budget).count == smallest
        return
    sized = fit_budget(method, small_neo, budget)
    assert count_trainable(small_neo, sized.config) == sized.count <= budget
    # Prefix tuning has one size for the whole model, so a whole token may not fit; the others fill up layer by layer.
    smallest_step = 2 * 4 * 96 if name == "prefix" else 96 + 96 + 1
    if method.size_name == "directions" and sized.size == 96:
        # A layer has no more directions than its width: another one adds nothing.
        assert count_trainable(small_neo, method.config(97)) == sized.count
        return
    assert budget - sized.count < smallest_step


def test_a_budget_that_is_too_small_names_the_smallest_that_fits(neo_125m):
    with pytest.raises(BudgetTooSmall, match=r"budget of 100 .* too small for lora: .* 36,864; raise --budget to") as e:
        fit_budget(METHODS["lora"], neo_125m, 100)
    assert fit_budget(METHODS["lora"], neo_125m, e.value.smallest).size == 1
    with pytest.raises(ValueError, match="has no size to choose"):
        fit_budget(METHODS["full"], neo_125m, 100)


def test_a_budget_larger_than_a_method_can_use_gets_its_largest_size():
    model = meta_model(GPTNeoConfig(hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]))
    sized = fit_budget(METHODS["qaa"], model, 10**7)
    assert sized.size == 7
    assert sized.count == 4 * (7 * 8 + 9)


def test_a_size_that_adds_nothing_is_not_taken():
    """Beyond the rank that the modes of 8 x 8 layers can use, a tensor train has no more parameters."""
    model = meta_model(GPTNeoConfig(hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]))
    sized = fit_budget(METHODS["qtha"], model, 10**7)
    largest = QTHAConfig(target_modules=["q_proj", "v_proj"], bond_dim=10**6)
    assert sized.count == count_trainable(model, largest)
    assert count_trainable(model, METHODS["qtha"].config(sized.size - 1)) < sized.count


def test_a_size_that_decides_nothing_is_refused():
    model = meta_model(GPTNeoConfig(hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]))
    without = replace(METHODS["qtha"], configure=lambda size: QTHAConfig(bond_dim=size, architecture="BC"))
    with pytest.raises(KetuneError, match=r"every bond dimension has the same .* leave the budget out"):
        fit_budget(without, model, 5000)


def test_budgets_are_read_as_people_write_them():
    assert parse_budget("0.1%", 3_410_560) == 3410
    assert parse_budget("12k", 1) == 12_000
    assert parse_budget("1.5M", 1) == 1_500_000
    assert parse_budget(5000, 1) == 5000
    assert parse_budget("12,345", 1) == 12_345
    for bad in ("", "-3", "0", "many", "0%"):
        with pytest.raises(KetuneError, match="give a share such as"):
            parse_budget(bad, 1000)


def test_a_model_comes_from_a_config_file_alone(tmp_path, neo_125m):
    neo_125m.config.save_pretrained(tmp_path)
    for place in (tmp_path, tmp_path / "config.json"):
        assert count_parameters(meta_model(place)) == 125_198_592
    with pytest.raises(KetuneError, match=r"pass a hub id, a folder with config\.json"):
        meta_model(tmp_path / "nowhere")


def test_methods_are_found_by_name_with_a_hint_on_typos():
    assert get_method("qaa").title == "QAA"
    assert get_method("qaa").quantum
    assert not get_method("lora").quantum
    with pytest.raises(KetuneError, match="did you mean 'lora'"):
        get_method("lorra")
    grids = {len(method.learning_rates) for method in METHODS.values()}
    assert len(grids) == 1
    assert all(method.learning_rate in method.learning_rates for method in METHODS.values())


def test_learning_rates_fall_with_the_width_of_the_model():
    lora, full = get_method("lora"), get_method("full")
    assert lora.at_width(160) == lora
    assert lora.at_width(320).learning_rate == pytest.approx(lora.learning_rate / 2)
    assert full.at_width(320).learning_rate == pytest.approx(full.learning_rate / 4)
    assert 1e-5 <= full.at_width(768).learning_rate <= 5e-5
    scaled = lora.at_width(4096)
    assert scaled.learning_rate in scaled.learning_rates
    assert len(scaled.learning_rates) == 3


def test_controls_exist_where_there_is_a_circuit():
    method = get_method("qaa")
    config = method.config(4)
    assert {method.with_control(config, c).control for c in method.controls} == {"frozen", "classical", "none"}
    with pytest.raises(KetuneError, match="has no control"):
        get_method("lora").with_control(get_method("lora").config(2), "frozen")


@pytest.mark.parametrize("control", ["frozen", "classical", "none"])
def test_controls_can_be_counted_without_weights(neo_125m, control):
    angles = 24 * 10 if control == "classical" else 0
    config = QAAConfig(ansatz="ry_ring", control=control, task_type="CAUSAL_LM")
    assert count_trainable(neo_125m, config) == 24 * 10 * 768 + angles


def test_nothing_is_allocated_for_a_large_model():
    model = meta_model(GPTNeoConfig())
    assert not any(p.device != torch.device("meta") for p in model.parameters())


def test_a_method_that_computes_as_it_is_made_is_counted_without_weights_too(neo_1_3b):
    config = UniLoraConfig(task_type="CAUSAL_LM", theta_d_length=321, target_modules=["q_proj", "v_proj"])
    assert count_trainable(neo_1_3b, config) == 321
    assert all(p.device.type == "meta" for p in neo_1_3b.parameters())
    assert not any("unilora" in name for name, _ in neo_1_3b.named_modules())


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32), ("c_attn",)),
        (Phi3Config(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32,
                    pad_token_id=0), ("qkv_proj",)),
    ],
)  # fmt: skip
def test_query_and_value_projections_are_found_by_table_or_by_name(config, names):
    model = meta_model(config)
    assert known_targets(model) == names
    assert choose("lora", model, size=1).config.target_modules == set(names)


def test_a_model_without_known_projections_says_what_to_name():
    model = meta_model(GPTNeoConfig(hidden_size=8, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]))
    model.config.model_type = "made-up"
    for block in model.transformer.h:
        block.attn.attention.query_of_ours = block.attn.attention.q_proj
        del block.attn.attention.q_proj
    with pytest.raises(ConfigError, match=r"pass target_modules, its linear layers are .*query_of_ours"):
        choose_targets(model, None)

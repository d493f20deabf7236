from __future__ import annotations

import pytest
from transformers import GPT2Config, LlamaConfig

from ketune.adapters import METHODS, BudgetTooSmall, ConfigError, count_trainable, meta_model
from ketune.adapters.choice import PRESETS, choose
from ketune.adapters.layer_circuits import model_circuits
from ketune.adapters.summary import summarize_methods
from ketune.errors import KetuneError

CONFIG = LlamaConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=99)


@pytest.fixture(scope="module")
def model():
    return meta_model(CONFIG)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_the_config(model, name):
    choice = choose(name, model)
    assert choice.count == count_trainable(model, choice.config)
    assert (choice.config is None) == (name == "full")


@pytest.mark.parametrize("name", ["ia3", "ln_tuning"])
def test_a_method_of_one_size_takes_no_other(model, name):
    assert choose(name, model).count == choose(name, model, budget=10**6).count
    with pytest.raises(ConfigError, match="one size only"):
        choose(name, model, size=2)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.size_name])
def test_the_size_that_was_asked_for_is_the_size_that_comes(model, name):
    sizes = (200, 400) if METHODS[name].size_name == "parameters per layer" else (2, 3)
    smaller, larger = (choose(name, model, size=size) for size in sizes)
    assert (smaller.size, larger.size) == sizes
    assert smaller.count < larger.count


def test_without_a_size_qaa_reads_one_value_per_wire(model):
    choice = choose("qaa", model)
    assert choice.size is None
    assert choice.config.readout_width(48) == 6


def test_fields_override_the_preset_and_go_into_the_budget(model):
    choice = choose("qaa", model, preset="published", settings=["n_layers=3"], budget=900)
    assert choice.config.ansatz == "ry_ring"
    assert choice.config.n_layers == 3
    assert 700 < choice.count <= 900


def test_a_control_keeps_the_size(model):
    frozen = choose("qaa", model, size=4, control="frozen")
    assert (frozen.config.control, frozen.config.n_readouts) == ("frozen", 4)
    assert frozen.count < choose("qaa", model, size=4).count


def test_presets_are_known_for_the_methods_that_have_them(model):
    for name, presets in PRESETS.items():
        for preset in presets:
            assert choose(name, model, preset=preset).count > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("full", {"budget": "1%"}, "full: all weights train, so budget"),
        ("lora", {"size": 0}, "size=0.*rank of 1"),
        ("lora", {"size": 2, "budget": 9}, "size=2 and budget=9"),
        ("lora", {"preset": "best"}, "lora has no preset 'best'.*none"),
        ("qaa", {"preset": "best"}, "published"),
        ("lora", {"control": "frozen"}, "'frozen'"),
        ("lora", {"settings": ["target_modules=.*nothing"]}, "lora has nothing to sit on.*q_proj"),
        ("lora", {"settings": ["target_modules=q_prj"]}, "'q_prj'.*'q_proj'"),
        ("qaa", {"size": 1000}, "63"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, name, options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        choose(name, model, **options)
    assert "\n" not in str(refused.value)


def test_a_budget_that_is_too_small_names_what_would_do(model):
    with pytest.raises(BudgetTooSmall) as refused:
        choose("lora", model, budget=3)
    assert choose("lora", model, budget=refused.value.smallest).count == refused.value.smallest


# ---------------------------------------------------------------------------------------------------------- summary


def test_the_table_has_every_method_and_the_presets_beside_the_default():
    summary = summarize_methods(CONFIG)
    rows = [(row.method.name, row.preset) for row in summary.methods]
    assert [name for name, preset in rows if preset is None] == list(METHODS)
    assert ("qaa", "published") in rows
    for row in summary.methods:
        assert row.problem is None
        assert row.share == row.count / summary.n_parameters


def test_a_method_that_does_not_fit_has_a_problem_and_the_others_a_count():
    summary = summarize_methods(CONFIG, budget=300)
    problems = {row.method.name: row.problem for row in summary.methods if row.problem}
    fits = {row.method.name for row in summary.methods if row.count is not None and row.count <= 300}
    assert fits >= {"prefix", "qaa"}
    assert {"lora", "sora", "qtha", "qpa", "ia3"} <= set(problems)
    assert set(problems) | fits | {"full"} == set(METHODS)
    assert all("too small" in problem for problem in problems.values())


def test_options_of_one_method_need_its_name():
    with pytest.raises(KetuneError, match="--method"):
        summarize_methods(CONFIG, size=3)


def test_a_table_row_as_json_has_plain_values_only():
    import json

    (row,) = summarize_methods(CONFIG, method="lora", settings=["target_modules=v_proj,q_proj"]).methods
    assert json.loads(json.dumps(row.to_dict()))["config"]["target_modules"] == ["q_proj", "v_proj"]


# --------------------------------------------------------------------------------------------------------- circuits


def test_a_model_has_one_circuit_for_each_width_of_its_layers():
    found = model_circuits(CONFIG, settings=["target_modules=q_proj,down_proj"])
    assert [(item.in_features, item.circuit.n_wires, len(item.layers)) for item in found] == [(48, 6, 2), (96, 7, 2)]


def test_transposed_layers_are_measured_by_their_input():
    (item,) = model_circuits(GPT2Config(n_embd=48, n_layer=1, n_head=4), settings=["target_modules=c_attn"])
    assert item.in_features == 48

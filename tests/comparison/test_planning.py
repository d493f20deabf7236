"""What will be run: sizes that meet one budget, controls at the same size, rates, and refusals ahead of the run."""

from __future__ import annotations

import dataclasses
import json

import pytest
from peft import IA3Config, LoraConfig

from ketune.adapters import METHODS
from ketune.comparison.experiments import read_config
from ketune.comparison.planning import make_plan, prepare, read_plan
from ketune.comparison.spec import ComparisonSpec, SpecError
from ketune.errors import KetuneError

SIZED = ("lora", "prefix", "sora", "qaa")


@pytest.fixture
def ask(tiny_folder, tiny_data):
    def spec(**fields):
        return ComparisonSpec(**({"model": str(tiny_folder), "data": str(tiny_data), "methods": SIZED} | fields))

    return spec


def by_id(plan):
    return {experiment.id: experiment for experiment in plan.experiments}


def test_without_a_budget_all_methods_get_what_lora_of_rank_4_needs(ask):
    plan, _ = make_plan(ask())
    # q: 32 -> 32, v: 32 -> 16 (grouped), rank 4, two layers
    assert plan.budget == 2 * 4 * ((32 + 32) + (32 + 16))
    assert by_id(plan)["lora--default"].n_trainable == plan.budget


def test_every_method_is_within_the_budget_and_full_fine_tuning_is_exempt(ask):
    plan, configs = make_plan(ask(budget="5%", methods=("full", *SIZED)))
    assert plan.budget == int(plan.n_parameters * 0.05)
    full, *others = plan.experiments
    assert full.n_trainable == plan.n_parameters
    assert full.budget is None
    assert configs[0] is None
    for experiment in others:
        assert plan.budget / 2 < experiment.n_trainable <= plan.budget
        assert experiment.budget == plan.budget


def test_a_budget_too_small_names_the_smallest_that_fits_for_each_method(ask):
    with pytest.raises(SpecError) as caught:
        make_plan(ask(budget=3))
    message = str(caught.value)
    assert "\n" not in message
    for name in SIZED:
        assert f"{name} needs at least" in message


def test_controls_stand_beside_their_method_at_its_size(ask):
    plan, configs = make_plan(ask(controls=True))
    found = by_id(plan)
    assert set(found) == {f"{name}--default" for name in SIZED} | {
        f"qaa--control-{control}" for control in METHODS["qaa"].controls
    }
    trained = found["qaa--default"]
    assert trained.control == "trained"
    assert found["lora--default"].control is None
    n_angles = max(1, trained.n_trainable - found["qaa--control-none"].n_trainable)
    for control in METHODS["qaa"].controls:
        size = found[f"qaa--control-{control}"].n_trainable
        assert 0 <= trained.n_trainable - size <= n_angles  # a frozen or absent circuit has no angles to train
    by_control = {config.control: config for config in configs if hasattr(config, "control")}
    assert by_control["frozen"].readout == by_control["trained"].readout


def test_methods_adapt_the_modules_that_are_asked_for(ask):
    plan, configs = make_plan(ask(target_modules=["o_proj"]))
    assert plan.budget == 2 * 4 * (32 + 32)
    assert [set(config.target_modules) for config in configs if hasattr(config, "target_modules")] == [{"o_proj"}] * 3


def test_modules_that_are_not_there_are_refused_with_near_misses(ask):
    with pytest.raises(KetuneError, match=r"'q_prj'.*did you mean 'q_proj'"):
        make_plan(ask(target_modules=["q_prj"]))


def test_a_model_that_peft_has_no_table_for_is_adapted_by_the_usual_names_or_refused():
    from types import SimpleNamespace

    from torch import nn

    from ketune.adapters.targeting import choose_targets

    model = nn.Module()
    model.config = SimpleNamespace(model_type="made-up")
    model.attention = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4)})
    assert choose_targets(model, None) == ("q_proj", "v_proj")
    model.attention = nn.ModuleDict({"wide": nn.Linear(4, 4)})
    with pytest.raises(KetuneError, match="'made-up'; pass target_modules, its linear layers are wide"):
        choose_targets(model, None)


def test_all_stands_for_every_method_that_fits_and_notes_tell_the_others(ask):
    plan, _ = make_plan(ask(methods=("all", "-full", "-lora"), budget=200))
    names = [experiment.method for experiment in plan.experiments]
    assert set(names) < set(METHODS) - {"full", "lora"}
    assert {"compass", "unilora", "fourierft"} <= set(names)
    assert all(experiment.n_trainable <= 200 for experiment in plan.experiments)
    (note,) = [note for note in plan.notes if "too small" in note]
    assert all(f"{name} needs at least" in note for name in set(METHODS) - set(names) - {"full", "lora"})
    assert plan.spec.only_fitting
    again = ComparisonSpec.from_dict(plan.spec.to_dict())
    assert again.differences(plan.spec) == []


def test_all_refuses_a_budget_that_nothing_fits_and_names_that_are_none(ask):
    with pytest.raises(SpecError, match="budget of 1 parameters is too small: lora needs at least"):
        make_plan(ask(methods=("all", "-full", "-unilora"), budget=1))
    with pytest.raises(SpecError, match="behind 'all' stand names to leave out"):
        ask(methods=("all", "qaa"))
    with pytest.raises(SpecError, match="behind 'all' stand names to leave out"):
        ask(methods=("all", "-qba"))


def test_a_model_without_a_place_for_one_method_is_no_obstacle_to_others(ask, tmp_path, tiny_folder):
    from transformers import AutoTokenizer, OlmoConfig, OlmoForCausalLM  # whose normalisations have no weights

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    OlmoForCausalLM(OlmoConfig(vocab_size=257, pad_token_id=0, **sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    plan, _ = make_plan(ask(model=str(tmp_path), methods=("lora",)))
    assert [experiment.method for experiment in plan.experiments] == ["lora"]
    with pytest.raises(KetuneError, match="no normalisation with a weight"):
        make_plan(ask(model=str(tmp_path), methods=("ln_tuning",)))
    plan, _ = make_plan(ask(model=str(tmp_path), methods=("all", "-full"), budget=400))
    assert any(note.startswith("ln_tuning was left out") for note in plan.notes)


def test_methods_of_one_size_and_with_modules_of_their_own_take_part(ask):
    plan, configs = make_plan(ask(methods=("ia3", "ln_tuning", "lora"), budget=2000, target_modules=["o_proj"]))
    found = {experiment.method: config for experiment, config in zip(plan.experiments, configs)}
    assert set(found["ln_tuning"].target_modules) == {"input_layernorm", "post_attention_layernorm", "norm"}
    assert set(found["ia3"].target_modules) == {"k_proj", "v_proj", "down_proj"}
    assert set(found["lora"].target_modules) == {"o_proj"}
    counts = {experiment.method: experiment.n_trainable for experiment in plan.experiments}
    assert counts["ln_tuning"] == 5 * 32


def test_with_tuning_every_experiment_gets_as_many_trials(ask):
    plan, _ = make_plan(ask(tune_lr=True, controls=True, methods=("full", *SIZED)))
    assert {len(experiment.learning_rates) for experiment in plan.experiments} == {3}
    for experiment in plan.experiments:
        assert experiment.learning_rate in experiment.learning_rates


def test_a_rate_of_the_users_own_is_not_tuned(ask):
    plan, _ = make_plan(ask(tune_lr=True, learning_rates={"qaa": 0.123}))
    found = by_id(plan)
    assert found["qaa--default"].learning_rates == ()
    assert found["qaa--default"].learning_rate == 0.123
    assert found["lora--default"].learning_rates


def test_any_peft_method_joins_by_its_folder(ask, tmp_path):
    IA3Config(task_type="CAUSAL_LM").save_pretrained(tmp_path / "ia3-try")
    plan, configs = make_plan(ask(methods=("lora",), experiments=(str(tmp_path / "ia3-try"),)))
    experiment = by_id(plan)["ia3--ia3-try"]
    assert experiment.n_trainable == 2 * (16 + 16 + 48)  # keys, values and the MLP, per layer
    assert experiment.budget is None
    assert isinstance(configs[-1], IA3Config)


def test_a_folder_whose_target_modules_match_nothing_is_refused_before_anything_runs(ask, tmp_path):
    LoraConfig(target_modules=["query_key_value"]).save_pretrained(tmp_path / "wrong")
    with pytest.raises(KetuneError, match="query_key_value") as caught:
        make_plan(ask(experiments=(str(tmp_path / "wrong"),)))
    assert "\n" not in str(caught.value)


def test_a_plan_is_written_once_and_read_back_the_same(ask, tmp_path):
    first = prepare(ask(controls=True), tmp_path)
    before = (tmp_path / "comparison.json").read_text()
    again = prepare(ask(controls=True), tmp_path)
    assert again == first == read_plan(tmp_path)
    assert (tmp_path / "comparison.json").read_text() == before
    for experiment in first.experiments:
        assert read_config(tmp_path / experiment.path) is not None


def test_other_settings_in_the_same_folder_are_refused_with_what_differs(ask, tmp_path):
    prepare(ask(seeds=(0,)), tmp_path)
    with pytest.raises(SpecError, match=r"seeds is \[0\], not \[0, 1\].*--out"):
        prepare(ask(seeds=(0, 1)), tmp_path)


def test_data_that_changed_since_is_refused(ask, tmp_path, tiny_data):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    spec = dataclasses.replace(ask(), data=str(data))
    prepare(spec, tmp_path / "out")
    with (data / "test.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "n 9999:", "completion": " 9"}) + "\n")
    with pytest.raises(SpecError, match="changed since"):
        prepare(spec, tmp_path / "out")


def test_a_folder_with_results_but_no_plan_is_refused(ask, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text("{}")
    with pytest.raises(SpecError, match=r"no comparison\.json"):
        prepare(ask(), tmp_path)


def test_a_broken_plan_is_refused_in_one_line(tmp_path):
    (tmp_path / "comparison.json").write_text('{"model": "a"}')
    with pytest.raises(KetuneError, match=r"comparison\.json: not a comparison") as caught:
        read_plan(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"model": "/nowhere/at/all"}, {"data": "/nowhere/at/all"}])
def test_a_missing_model_or_data_set_is_refused_before_anything_is_written(ask, tmp_path, fields):
    with pytest.raises(KetuneError, match="/nowhere/at/all"):
        prepare(ask(**fields), tmp_path)
    assert not list(tmp_path.iterdir())


def test_cells_come_seed_by_seed(ask):
    plan, _ = make_plan(ask(seeds=(5, 6), methods=("lora", "qaa")))
    assert [experiment.cell(seed) for experiment, seed in plan.cells()] == [
        "lora--default--seed5",
        "qaa--default--seed5",
        "lora--default--seed6",
        "qaa--default--seed6",
    ]


def test_every_method_is_run_in_every_way_of_quantising_that_it_can_be(ask):
    plan, configs = make_plan(ask(methods=("full", "lora"), quantization=("none", "roste:w4a4", "prequant", "nf4")))
    assert [(e.id, e.quantization) for e in plan.experiments] == [
        ("full--default", None),
        ("lora--default", None),
        ("full--roste-w4a4", "roste:w4a4"),
        ("lora--roste-w4a4", "roste:w4a4"),
        ("lora--prequant-w4a16", "prequant:w4a16"),
        ("lora--nf4", "nf4"),
    ]
    assert [config is None for config in configs] == [True, False, True, False, False, False]
    assert sum("left out" in note for note in plan.notes) == 2


def test_ways_of_quantising_are_checked_with_the_rest(ask):
    with pytest.raises(KetuneError, match="roste, rotated"):
        ask(quantization=("gptq",))
    with pytest.raises(SpecError, match="once"):
        ask(quantization=("roste", "roste:w4a4kv4"))
    with pytest.raises(SpecError, match="Name an adapter"):
        make_plan(ask(methods=("full",), quantization=("nf4",)))

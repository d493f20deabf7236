"""A spec refuses what cannot work, in one line that says what can, and survives its JSON."""

from __future__ import annotations

import json

import pytest

from ketune.adapters import METHODS as REGISTRY
from ketune.comparison.spec import DEFAULT_TRAINING, METHODS, ComparisonSpec, SpecError
from ketune.errors import KetuneError


def test_the_default_compares_five_known_methods_on_what_we_carry():
    spec = ComparisonSpec()
    assert spec.methods == METHODS == ("full", "lora", "prefix", "sora", "qaa")
    assert set(spec.methods) <= set(REGISTRY)
    assert spec.model.startswith("builtin:")
    assert spec.data.startswith("builtin:")
    assert spec.seeds == (0, 1, 2)


def test_a_spec_survives_its_json():
    spec = ComparisonSpec(
        methods=["qaa", "lora"], seeds=[3, 1], budget="0.1%", training={"max_steps": 7}, learning_rates={"qaa": 1e-2}
    )
    assert ComparisonSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_training_parameter_replaces_its_default_and_leaves_the_others():
    spec = ComparisonSpec(training={"max_steps": 7})
    assert spec.training == DEFAULT_TRAINING | {"max_steps": 7}


def test_differences_name_each_field_that_differs():
    (difference,) = ComparisonSpec(seeds=(0,)).differences(ComparisonSpec(seeds=(0, 1)))
    assert difference == "seeds is [0], not [0, 1]"
    assert not ComparisonSpec().differences(ComparisonSpec())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"methods": ["lroa"]}, "unknown method 'lroa': did you mean 'lora'?"),
        ({"methods": ["lora", "lora"]}, "name each method once"),
        ({"methods": []}, "at least one"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "one cell"),
        ({"seeds": [-1]}, "whole numbers from 0"),
        ({"seeds": [0.5]}, "whole numbers from 0"),
        ({"seeds": [True]}, "whole numbers from 0"),
        ({"budget": "many"}, "many"),
        ({"budget": 0}, "budget"),
        ({"budget": "-3%"}, "budget"),
        ({"budget": "101%"}, "at most 100%"),
        ({"model": ""}, "model"),
        ({"data": "  "}, "data"),
        ({"learning_rates": {"qaa": 0}}, "positive"),
        ({"learning_rates": {"qaa": float("nan")}}, "positive"),
        ({"learning_rates": {"qqa": 1e-3}}, "unknown method 'qqa'"),
        ({"training": {"max_stepz": 3}}, "did you mean 'max_steps'?"),
        ({"training": {"max_steps": 0}}, "max_steps"),
        ({"training": {"learning_rate": 1e-3}}, "use learning_rates"),
        ({"n_test": 0}, "at least 1"),
        ({"n_train": 0}, "at least 1"),
        ({"n_generate": -1}, "at least 0"),
        ({"lr_trials": 1}, "at least 2"),
        ({"n_capacity": "8"}, "whole number"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(fields, said):
    with pytest.raises(KetuneError) as caught:
        ComparisonSpec(**fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused_with_the_one_that_was_meant():
    with pytest.raises(SpecError, match="did you mean 'seeds'"):
        ComparisonSpec.from_dict({"seed": [0]})


@pytest.mark.parametrize("budget", [5000, "5000", "5_000", "12k", "0.1%", "100%", None])
def test_a_budget_is_a_count_or_a_share(budget):
    assert ComparisonSpec(budget=budget).budget == budget

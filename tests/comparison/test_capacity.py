"""Spectra and ranks of what an adapter changed, against closed forms and against the weights themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from ketune.comparison.capacity import (
    KEPT_VALUES,
    MAX_MATRICES,
    circuit_metrics,
    effective_rank,
    hidden_change,
    hidden_states,
    spectrum,
    stable_rank,
    weight_changes,
)

positive = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)


def test_equal_singular_values_give_their_number_as_both_ranks():
    values = torch.full((7,), 0.3)
    assert effective_rank(values) == pytest.approx(7)
    assert stable_rank(values) == pytest.approx(7)


def test_ranks_of_a_known_spectrum():
    values = torch.tensor([2.0, 1.0, 1.0])
    assert effective_rank(values) == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    assert stable_rank(values) == pytest.approx(6 / 4)


def test_a_zero_change_has_rank_zero():
    found = spectrum(torch.zeros(4, 3))
    assert found["effective_rank"] == 0
    assert found["stable_rank"] == 0
    assert found["singular_values"] == [0, 0, 0]


@given(positive, st.floats(1e-2, 1e2))
@settings(deadline=None)
def test_ranks_do_not_depend_on_scale_and_lie_between_one_and_the_number_of_values(values, factor):
    values = torch.tensor(values, dtype=torch.float64)
    for rank in (effective_rank, stable_rank):
        assert rank(values * factor) == pytest.approx(rank(values), rel=1e-6)
        assert 1 - 1e-9 <= rank(values) <= len(values) + 1e-9


@given(positive)
@settings(deadline=None)
def test_stable_rank_squared_bounds(values):
    """Stable rank never exceeds the number of values whose size matters: it is at most (sum / max)."""
    values = torch.tensor(values, dtype=torch.float64)
    assert stable_rank(values) <= float(values.sum() / values.max()) + 1e-9


def test_spectrum_agrees_with_numpy_and_falls():
    matrix = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    found = spectrum(matrix)
    assert found["singular_values"] == pytest.approx(np.linalg.svd(matrix.numpy(), compute_uv=False), rel=1e-4)
    assert found["singular_values"] == sorted(found["singular_values"], reverse=True)
    assert found["shape"] == [9, 5]


def test_ranks_come_from_all_values_even_where_not_all_are_kept():
    found = spectrum(torch.eye(KEPT_VALUES + 50))
    assert len(found["singular_values"]) == KEPT_VALUES
    assert found["effective_rank"] == pytest.approx(KEPT_VALUES + 50)


def test_a_change_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="diverged"):
        spectrum(torch.tensor([[1.0, math.nan]]))


def test_hidden_change_of_nothing_is_zero_and_of_a_rank_one_shift_has_rank_one():
    base = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    assert hidden_change(base, base)["effective_rank"] == 0
    shift = torch.outer(torch.arange(1.0, 21.0), torch.ones(8))
    found = hidden_change(base + shift, base)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-2)
    assert found["relative_norm"] == pytest.approx(float(shift.norm() / base.norm()), rel=1e-5)


def test_hidden_states_are_one_row_per_token_whatever_the_method(tiny_model, tiny_tokenizer):
    texts = ["name: The Anchor", "a longer text with more words in it"]
    n_tokens = sum(len(tiny_tokenizer(text)["input_ids"]) for text in texts)
    base = hidden_states(tiny_model, tiny_tokenizer, texts)
    assert base.shape == (n_tokens, tiny_model.config.hidden_size)
    for config in (
        LoraConfig(task_type="CAUSAL_LM"),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ):
        adapted = get_peft_model(tiny_model, config)
        found = hidden_states(adapted, tiny_tokenizer, texts)
        assert found.shape == base.shape
        if isinstance(config, LoraConfig):  # starts as the base
            assert torch.equal(found, base)
            adapted.unload()


def test_hidden_states_leave_the_mode_of_the_model_alone(tiny_model, tiny_tokenizer):
    tiny_model.train()
    hidden_states(tiny_model, tiny_tokenizer, ["a"])
    assert tiny_model.training


def test_weight_change_of_lora_has_its_rank(tiny_model):
    adapted = get_peft_model(tiny_model, LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False))
    found = weight_changes(adapted)
    layers = range(tiny_model.config.num_hidden_layers)
    assert set(found) == {f"model.layers.{i}.self_attn.{name}" for i in layers for name in ("q_proj", "v_proj")}
    for entry in found.values():
        assert sum(value > 1e-5 for value in entry["singular_values"]) == 2


def test_weight_changes_of_full_fine_tuning_are_those_of_the_modules_that_lora_would_adapt(tiny_model, make_tiny_model):
    base = make_tiny_model()
    change = torch.zeros_like(tiny_model.model.layers[0].self_attn.q_proj.weight)
    change[0, 0] = 3.0
    with torch.no_grad():
        tiny_model.model.layers[0].self_attn.q_proj.weight += change
    found = weight_changes(tiny_model, base)
    assert set(weight_changes(tiny_model, base, targets=["o_proj"])) == {
        f"model.layers.{i}.self_attn.o_proj" for i in range(base.config.num_hidden_layers)
    }
    assert len(found) == 2 * base.config.num_hidden_layers
    assert found["model.layers.0.self_attn.q_proj"]["singular_values"][0] == pytest.approx(3.0, rel=1e-5)
    assert found["model.layers.0.self_attn.v_proj"]["effective_rank"] == 0


def test_prefix_tuning_changes_no_weight(tiny_model):
    adapted = get_peft_model(tiny_model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert weight_changes(adapted) is None


def test_deep_models_are_sampled_evenly_from_the_first_to_the_last_layer():
    from ketune.comparison.capacity import _spread

    names = [f"layer{i}" for i in range(1000)]
    kept = list(_spread(names, MAX_MATRICES))
    assert len(kept) == len(set(kept)) == MAX_MATRICES
    assert kept[0] == "layer0"
    assert kept[-1] == "layer999"


def test_circuit_metrics_of_qaa_are_those_of_its_circuit(tiny_model):
    from ketune.adapters import QAAConfig

    config = QAAConfig(task_type="CAUSAL_LM", ansatz="ry_ring", n_layers=1)
    adapted = get_peft_model(tiny_model, config)
    found = circuit_metrics(adapted, config)
    n_wires = math.ceil(math.log2(tiny_model.config.hidden_size))
    assert found["n_wires"] == n_wires
    assert found["n_angles"] == n_wires  # one RY on each wire
    assert found["n_two_qubit"] == n_wires  # and a ring of CNOTs
    assert found["n_gates"] == 2 * n_wires
    assert 0 <= found["entangling_capability"] <= 1
    assert found["expressibility"] >= 0


@pytest.mark.parametrize("control", ["classical", "none"])
def test_a_control_without_a_circuit_has_no_circuit_metrics(tiny_model, control):
    from ketune.adapters import QAAConfig

    config = QAAConfig(task_type="CAUSAL_LM", control=control)
    assert circuit_metrics(get_peft_model(tiny_model, config), config) is None
    assert circuit_metrics(tiny_model, LoraConfig()) is None


def test_a_form_without_a_circuit_has_no_circuit_metrics_and_the_other_has(tiny_model):
    from ketune.adapters import QuantumPeftConfig

    config = QuantumPeftConfig(task_type="CAUSAL_LM", form="cayley")
    adapted = get_peft_model(tiny_model, config)
    assert circuit_metrics(adapted, config) is None
    config = QuantumPeftConfig(task_type="CAUSAL_LM")
    n_wires = math.ceil(math.log2(tiny_model.config.hidden_size))
    assert circuit_metrics(adapted, config)["n_angles"] == n_wires + 2 * (n_wires - 1)

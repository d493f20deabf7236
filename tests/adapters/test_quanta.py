"""QuanTA: published counts, axes for any layer, exactness in low precision, controls."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from tests.adapters.models import TwoLayers, tiny_llama
from torch import nn

from ketune import KetuneError, QuantaConfig
from ketune.adapters import ConfigError, update_matrices
from ketune.tensor_networks.gate_graphs import GRAPHS

CONTROLS = ["trained", "frozen", "classical", "none"]


@pytest.mark.parametrize(
    ("axes", "shape", "count"),
    [
        # LLaMA2 7B, 13B, 70B and LLaMA3 8B as published; where the release pads v_proj, the lists by width do so too.
        ([16, 8, 8, 4], (4096, 4096), 43_008),
        ([16, 16, 16], (4096, 4096), 196_608),
        ([16, 8, 8, 5], (5120, 5120), 46_464),
        ([16, 8, 8, 8], (8192, 8192), 61_440),
        ({"8192": [16, 8, 8, 8], "1024": [16, 8, 8, 8]}, (8192, 1024), 61_440),
    ],
)
def test_published_axes_have_the_published_counts(axes, shape, count):
    assert QuantaConfig(axes=axes).parameter_count(*shape) == count


def test_the_default_is_a_gate_on_each_pair_of_four_balanced_axes():
    config = QuantaConfig()
    assert config.parameter_count(4096, 4096) == 6 * (8 * 8) ** 2
    assert config.chain(4096, 1024).in_axes == (8, 8, 8, 8)
    assert config.chain(4096, 1024).out_axes == (8, 8, 4, 4)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fields=st.one_of(
        st.fixed_dictionaries({"n_axes": st.integers(2, 5)}),
        st.fixed_dictionaries({"n_axes": st.integers(2, 3), "n_gates": st.integers(4, 6)}),
        st.fixed_dictionaries({"max_parameters": st.integers(1, 2000)}),
    ),
    graph=st.sampled_from(sorted(GRAPHS)),
    control=st.sampled_from(CONTROLS),
    execution=st.sampled_from(["auto", "factored", "materialised"]),
)
def test_counts_are_exact_for_any_shape_and_setting(shape, fields, graph, control, execution):
    config = QuantaConfig(graph=graph, control=control, execution=execution, **fields)
    update = config.make_update(*shape)
    assert sum(p.numel() for p in update.parameters()) == config.parameter_count(*shape)
    x = torch.randn(3, shape[0])
    assert update(x).shape == (3, shape[1])
    assert not update(x).any()
    nn.init.normal_(update.offsets, std=0.1)
    expected = (x @ update.delta_weight().T).detach()
    torch.testing.assert_close(
        update(x).detach(), expected, atol=1e-4 * max(1.0, float(expected.abs().max())), rtol=1e-3
    )


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("shape", [(24, 24), (20, 2), (10, 32), (13, 13)])
def test_every_parameter_that_can_matter_gets_a_gradient_at_once(control, shape):
    update = QuantaConfig(n_axes=3, control=control).make_update(*shape)
    weight = torch.randn(shape[1])
    (update(torch.randn(50, shape[0])) * weight).sum().backward()
    share = float((update.offsets.grad != 0).float().mean())
    # Padding feeds zeros into some columns of the gates that come first; unit gates cut axes that shrink.
    assert share == 1.0 if shape == (24, 24) else share > 0.4


@pytest.mark.parametrize("control", ["frozen", "classical", "none"])
def test_controls_have_the_same_count_and_are_linear_in_what_trains(control):
    config = QuantaConfig(n_axes=3, control=control)
    assert config.parameter_count(64, 64) == QuantaConfig(n_axes=3).parameter_count(64, 64)
    update = config.make_update(64, 64)
    nn.init.normal_(update.offsets)
    once = update.delta_weight()
    with torch.no_grad():
        update.offsets.mul_(3)
    assert torch.allclose(update.delta_weight(), 3 * once, atol=1e-4)


def test_the_trained_circuit_is_a_product_of_its_gates():
    update = QuantaConfig(axes=[3, 2, 2]).make_update(12, 12)
    nn.init.normal_(update.offsets)
    after, before, unit = torch.eye(12), torch.eye(12), torch.eye(12).reshape(12, 3, 2, 2)
    equations = ["zabc,pqbc->zapq", "zabc,pqac->zpbq", "zabc,pqab->zpqc"]  # axes (2, 3), (1, 3), (1, 2)
    starts = update.start.split(update.chain.sizes)
    after = before = unit
    for equation, gate, start in zip(equations, update.gates(), starts):
        after = torch.einsum(equation, after, gate)
        before = torch.einsum(equation, before, start.reshape(gate.shape))
    expected = (after - before).reshape(12, 12).T
    torch.testing.assert_close(update.delta_weight(), expected, atol=1e-4, rtol=1e-4)


def test_the_classical_control_is_a_sum_of_gates_that_each_act_alone():
    update = QuantaConfig(axes=[3, 2, 2], control="classical").make_update(12, 12)
    nn.init.normal_(update.offsets)
    bc, ac, ab = (
        offset.reshape(shape)
        for offset, shape in zip(update.offsets.split([16, 36, 36]), [(2, 2, 2, 2), (3, 2, 3, 2), (3, 2, 3, 2)])
    )
    a, b = torch.eye(3), torch.eye(2)
    terms = [
        torch.einsum("qrtu,ps->pqrstu", bc, a),
        torch.einsum("prsu,qt->pqrstu", ac, b),
        torch.einsum("pqst,ru->pqrstu", ab, b),
    ]
    expected = sum(term.reshape(12, 12) for term in terms)
    torch.testing.assert_close(update.delta_weight(), expected, atol=1e-5, rtol=1e-5)


def test_the_control_without_a_circuit_trains_scattered_entries():
    update = QuantaConfig(axes=[3, 2, 2], control="none").make_update(12, 12)
    with torch.no_grad():
        update.offsets.copy_(torch.arange(1, 89))
    values = update.delta_weight()
    assert sorted(values[values != 0].tolist()) == list(range(1, 89))
    assert QuantaConfig(n_axes=4, control="none").parameter_count(3, 2) == 6  # no more than there are entries


def small_update(dtype, seed=1):
    """An adapted bfloat16 layer whose update is about 1e-3 of the gates, and the update computed in float64."""
    torch.manual_seed(seed)
    config = QuantaConfig(target_modules=["0"], axes=[8, 8, 4])
    base = nn.Sequential(nn.Linear(256, 256, bias=False)).to(dtype)
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    update = model.base_model.model[0].updates["default"]
    with torch.no_grad():
        update.offsets.normal_(std=1e-3)
    twin = copy.deepcopy(update).double()
    return model, update, twin


@pytest.mark.parametrize("execution", ["factored", "materialised"])
def test_a_small_update_in_bfloat16_loses_under_two_percent(execution):
    _, update, twin = small_update(torch.bfloat16)
    assert update.offsets.dtype == update.start.dtype == torch.bfloat16
    update.execution = execution
    x = torch.randn(40, 256).bfloat16()
    exact = (x.double() @ apart(twin).T).detach()
    found = update(x).detach().double()
    assert float((found - exact).norm() / exact.norm()) < 0.02
    merged = update.delta_weight().detach().double()
    assert float((merged - apart(twin)).norm() / apart(twin).norm()) < 1e-5


def apart(update):
    """The circuit less its start, both as products of Kronecker-embedded gates in float64."""

    def product(gates):
        tensor = torch.eye(256, dtype=torch.float64).reshape(256, 8, 8, 4)
        for equation, gate in zip(["zabc,pqbc->zapq", "zabc,pqac->zpbq", "zabc,pqab->zpqc"], gates):
            tensor = torch.einsum(equation, tensor, gate)
        return tensor.reshape(256, 256).T

    shapes = [gate.shape for gate in update.chain.gates]
    parts = [t.detach().split(update.chain.sizes) for t in (update.start + update.offsets, update.start)]
    after, before = ([p.reshape(s) for p, s in zip(part, shapes)] for part in parts)
    return product(after) - product(before)


def test_the_start_comes_back_from_the_seed_and_is_not_saved(tmp_path):
    base = tiny_llama()
    config = QuantaConfig(task_type="CAUSAL_LM", seed=3, init_weights=False)
    model = get_peft_model(copy.deepcopy(base), config).eval()
    starts = {n: b for n, b in model.named_buffers() if n.endswith(".start")}
    assert len(starts) == 4
    assert len({tuple(start.tolist()) for start in starts.values()}) == 4  # each layer has its own
    model.save_pretrained(tmp_path)
    saved = (tmp_path / "adapter_model.safetensors").stat().st_size
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert saved < 4 * trained + 2000
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    ids = torch.randint(0, 50, (1, 7))
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    other = get_peft_model(tiny_llama(), QuantaConfig(task_type="CAUSAL_LM", seed=4))
    for name, start in other.named_buffers():
        if name.endswith(".start"):
            assert not torch.equal(start, starts[name])


def test_the_start_of_an_adapter_in_half_precision_is_the_one_in_float32():
    starts = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        config = QuantaConfig(target_modules=["lin0", "lin1"])
        model = get_peft_model(TwoLayers(dtype), config, autocast_adapter_dtype=False)
        starts.append(model.base_model.model.lin0.updates["default"].start.float())
    assert all(torch.equal(start, starts[0]) for start in starts)


def test_one_list_of_axes_serves_the_layers_of_its_width_and_other_sides_get_their_own():
    config = QuantaConfig(axes=[4, 3, 2], target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(tiny_llama(), config)
    shapes = {
        (update.chain.in_axes, update.chain.out_axes)
        for name, update in model.named_modules()
        if name.endswith("quanta_update.default")
    }
    assert ((4, 3, 2), (4, 3, 2)) in shapes
    assert all((4, 3, 2) in pair and len(pair[0]) == len(pair[1]) == 3 for pair in shapes)
    matrices = update_matrices(model)
    assert all(math.prod(pair[0]) >= 24 for pair in shapes)
    assert len(matrices) == 14


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axes": [4]}, r"axes=\[4\]\): a list has 2 to 16"),
        ({"axes": [4, 0]}, "whole numbers of 1 or more"),
        ({"axes": {"8": [4, 2], "4": [2, 2, 1]}}, "all lists must have equally many axes"),
        ({"axes": {"9": [4, 2]}}, "the axes of width 9 must multiply to 9 or more"),
        ({"n_axes": 1}, r"n_axes=1\): must be from 2 to 16"),
        ({"n_axes": 3, "axes": [4, 2]}, "`axes` has another number of axes"),
        ({"graph": "rign"}, r"graph='rign'\): choose one of .* \(did you mean 'ring'\?\)"),
        ({"n_gates": 0}, r"n_gates=0\): must be at least 1"),
        ({"max_parameters": 10, "n_gates": 2}, r"n_gates=2\): max_parameters chooses it"),
        ({"max_parameters": 10, "axes": [4, 2]}, "max_parameters chooses it"),
        ({"execution": "fast"}, r"execution='fast'\): choose one of 'auto', 'factored', 'materialised'"),
        ({"control": "off"}, r"control='off'\): choose one of"),
    ],
)
def test_bad_values_are_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        QuantaConfig(**fields)


def test_what_does_not_fit_a_layer_is_refused_with_its_widths():
    with pytest.raises(KetuneError, match=r"multiply to 32, and the layer goes from 24 to 12; pass axes=\{'24'"):
        QuantaConfig(axes=[8, 4]).parameter_count(24, 12)
    with pytest.raises(KetuneError, match=r"n_gates=1\): axis 0 goes from 3 to 2, and none of the 1 gates"):
        QuantaConfig(axes={"12": [3, 2, 2], "8": [2, 2, 2]}, n_gates=1).parameter_count(12, 8)


def test_axes_by_width_come_back_from_a_saved_config(tmp_path):
    config = QuantaConfig(axes={24: [4, 3, 2]})
    config.save_pretrained(tmp_path)
    assert QuantaConfig.from_pretrained(tmp_path).axes == {"24": [4, 3, 2]}

"""QPA on whole models: counts, what is generated, DoRA beside PEFT's, sharing, precision and circuits."""

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from tests.adapters.models import TwoLayers, tiny_gpt2, tiny_llama
from torch import nn

from ketune import QPAConfig
from ketune.adapters import count_trainable, get_method, meta_model
from ketune.adapters.layer_circuits import layer_circuits, model_circuits

TARGETS = ["lin0", "lin1"]
SHAPES = [(10, 20), (20, 2)]


def adapt(model=None, **kwargs):
    return get_peft_model(model if model is not None else TwoLayers(), QPAConfig(target_modules=TARGETS, **kwargs))


def update_of(model, name, adapter="default"):
    layer = model.base_model.model.get_submodule(name)
    return layer, layer.update_of(adapter)


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 23), st.integers(1, 23)), min_size=1, max_size=3),
    chunk=st.integers(1, 60),
    hidden=st.lists(st.integers(1, 9), max_size=3),
    r=st.integers(1, 5),
    target=st.sampled_from(["lora", "dora", "adapter"]),
    sharing=st.sampled_from(["all", "module"]),
    control=st.sampled_from(["trained", "frozen", "classical", "none"]),
    n_generators=st.integers(1, 3),
)
def test_counts_are_exact_and_starts_are_zero_for_any_shape_and_setting(
    shapes, chunk, hidden, r, target, sharing, control, n_generators
):
    config = QPAConfig(
        target_modules=[str(i) for i in range(len(shapes))],
        chunk=chunk,
        hidden=hidden,
        r=r,
        target=target,
        sharing=sharing,
        control=control,
        n_generators=n_generators,
        n_layers=1,
    )
    layers = nn.ModuleList(nn.Linear(*shape) for shape in shapes)
    inputs = [torch.randn(3, n_in) for n_in, _ in shapes]
    before = [layer(x) for layer, x in zip(layers, inputs)]
    model = get_peft_model(nn.Sequential(*layers), config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == config.model_parameter_count(shapes)
    for layer, x, expected in zip(model.base_model.model, inputs, before):
        assert torch.equal(layer(x), expected)


def test_the_update_is_the_product_of_the_two_halves_of_the_vector():
    model = adapt(r=3, lora_alpha=1.5, chunk=16, init="released", init_weights=False)
    layer, update = update_of(model, "lin0")
    now, moved = (v.detach() for v in update.shared(0))
    up, down = moved[:60].view(20, 3), now[60:].view(3, 10)
    x = torch.randn(5, 10)
    expected = layer.base_layer(x) + 0.5 * x @ (up @ down).T
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.get_delta_weight("default"), 0.5 * up @ down, rtol=1e-4, atol=1e-4)


def test_a_balanced_start_gives_the_first_factor_the_size_of_loras():
    """LoRA's A has entries of variance 1 / (3 in); here it is 1 / in, from numbers of unit size."""
    model = get_peft_model(nn.Sequential(nn.Linear(400, 300)), QPAConfig(target_modules=["0"], chunk=100))
    _, update = update_of(model, "0")
    _, down = update.target.factors(*update.shared(0))
    assert 0.6 < down.std().item() * 20 < 1.6


@pytest.mark.parametrize("control", ["trained", "classical", "frozen", "none"])
def test_every_parameter_gets_a_gradient_in_the_first_step(control):
    model = adapt(chunk=16, control=control)
    model(torch.randn(6, 10)).square().sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert {name.rsplit(".", 1)[1] for name in gradients} == (
        {"mapping", "signal"} if control in ("trained", "classical") else {"mapping"}
    )
    for name, gradient in gradients.items():
        assert gradient.any(), name


def test_dora_is_pefts_dora_with_the_same_factors():
    torch.manual_seed(0)
    base = TwoLayers()
    model = adapt(copy.deepcopy(base), r=3, lora_alpha=0.3, chunk=16, target="dora", init_weights=False)
    theirs = get_peft_model(
        copy.deepcopy(base), LoraConfig(target_modules=TARGETS, r=3, lora_alpha=3, use_dora=True, lora_dropout=0.0)
    )
    for name in TARGETS:
        layer, update = update_of(model, name)
        now, moved = (v.detach() for v in update.shared(update.index))
        other = theirs.base_model.model.get_submodule(name)
        n_out, n_in = layer.base_layer.weight.shape
        up, down = moved[: 3 * n_out].view(n_out, 3), now[3 * n_out : 3 * (n_out + n_in)].view(3, n_in)
        norm = layer.base_layer.weight.norm(dim=1)
        with torch.no_grad():
            other.lora_A["default"].weight.copy_(down / n_in**0.5)
            other.lora_B["default"].weight.copy_(up * 0.1)
            other.lora_magnitude_vector["default"].weight.copy_(norm * (1 + moved[-n_out:]))
    x = torch.randn(7, 10)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-4)
    merged = theirs.merge_and_unload().lin0.weight - base.lin0.weight
    torch.testing.assert_close(update_of(model, "lin0")[0].get_delta_weight("default"), merged, rtol=1e-4, atol=1e-4)


def test_the_bottleneck_sits_on_the_output():
    model = adapt(r=3, chunk=16, target="adapter", init="released", lora_alpha=3.0, init_weights=False)
    layer, update = update_of(model, "lin0")
    now, moved = (v.detach() for v in update.shared(0))
    y = layer.base_layer(torch.randn(4, 10))
    hidden = nn.functional.gelu(y @ now[60:].view(3, 20).T)
    torch.testing.assert_close(update.beside(y[:, :10], y, layer), hidden @ moved[:60].view(20, 3).T)


def test_layers_with_generators_of_their_own_can_have_chunks_of_their_own():
    model = adapt(sharing="module", chunk=16, size_pattern={"lin1": 5})
    bank = model.base_model.qpa_shared["default"]
    assert [g.shapes[-1][0] for g in bank.generators] == [16, 5]
    first, second = (g.mapping_start[:40] for g in bank.generators)
    assert not torch.equal(first, second)


def test_the_seed_alone_brings_the_start_back(tmp_path):
    base = TwoLayers()
    model = adapt(copy.deepcopy(base), seed=7, init_weights=False)
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 10)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert torch.equal(loaded(x), model(x))
    other = adapt(copy.deepcopy(base), seed=8)
    other.base_model.qpa_shared.load_state_dict(model.base_model.qpa_shared.state_dict())
    assert not torch.allclose(other(x), model(x), atol=1e-3)


def test_a_small_update_survives_half_precision():
    """Offsets of one part in a thousand: what a bfloat16 model makes of them stays within two per cent."""
    base = TwoLayers()
    model = adapt(copy.deepcopy(base), chunk=16)
    with torch.no_grad():
        for parameter in model.base_model.qpa_shared.parameters():
            parameter.copy_(1e-3 * torch.randn_like(parameter))
    exact = update_of(model, "lin0")[0].get_delta_weight("default")
    model.to(torch.bfloat16)
    rounded = update_of(model, "lin0")[0].get_delta_weight("default").float()
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    assert exact.norm() > 0


def test_counts_grow_with_the_size_so_that_any_budget_is_met_closely():
    method = get_method("qpa")
    for shapes in ([(160, 160)] * 12, [(4096, 4096), (4096, 1024)] * 32):
        counts = [method.config(size).model_parameter_count(shapes) for size in range(300, 700)]
        steps = [after - before for before, after in pairwise(counts)]
        assert min(steps) > 0
        assert max(steps) <= 60
    assert method.config(1).model_parameter_count([(8192, 8192), (8192, 1024)] * 80) > 0


def test_the_registry_counts_what_training_trains():
    model = meta_model(tiny_llama().config)
    config = get_method("qpa").config(64)
    assert count_trainable(model, config) == config.model_parameter_count([(24, 24), (24, 12)] * 2)


def test_a_models_circuit_has_a_basis_state_for_each_chunk():
    config = QPAConfig(task_type="CAUSAL_LM", chunk=50, r=4, n_layers=3)
    found = layer_circuits(meta_model(tiny_gpt2().config), config)
    # c_attn is 16 -> 48: 256 numbers, 6 chunks in each of 2 blocks, 12 in all.
    assert [(c.in_features, len(c.layers), c.circuit.n_wires, c.circuit.n_angles) for c in found] == [(16, 2, 4, 12)]
    assert found[0].circuit.count_gates() == {"RY": 12, "CNOT": 9}
    assert model_circuits(tiny_gpt2().config, "qpa")[0].circuit.n_wires == 1  # one chunk for each block


def test_weighted_sums_add_up_and_count_all_parts():
    model = adapt(init_weights=False)
    model.add_adapter("other", QPAConfig(target_modules=TARGETS, r=2, chunk=20, target="dora", init_weights=False))
    deltas = [update_of(model, "lin0")[0].get_delta_weight(name) for name in ("default", "other")]
    model.add_weighted_adapter(["default", "other"], [0.5, -2.0], "mix")
    torch.testing.assert_close(
        update_of(model, "lin0")[0].get_delta_weight("mix"), 0.5 * deltas[0] - 2.0 * deltas[1], rtol=1e-4, atol=1e-3
    )
    configs = [model.peft_config[name] for name in ("default", "other", "mix")]
    counts = [config.model_parameter_count(SHAPES) for config in configs]
    assert counts[2] == counts[0] + counts[1]
    assert counts[2] == sum(p.numel() for p in model.base_model.qpa_shared["mix"].parameters())

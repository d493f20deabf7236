"""Quantum-PEFT: formula, published counts, gradients from the second step on, half precision, controls."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from tests.adapters.models import TwoLayers, tiny_llama
from torch import nn

from ketune import QuantumPeftConfig
from ketune.adapters import ConfigError, meta_model
from ketune.circuits import simulate

CONTROLS = ("trained", "frozen", "classical", "none")


def moved(update, size=0.5):
    """The update away from its start."""
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.copy_(size * torch.randn_like(parameter))
    return update


def test_the_update_is_u_lambda_v_with_the_columns_of_two_circuits():
    config = QuantumPeftConfig(rank=3, n_layers=2, scale=0.5, seed=4)
    update = moved(config.make_update(16, 8))
    right, left = (
        torch.stack([simulate(config.circuit_for(width), side.values()[0], basis) for basis in torch.eye(width)[:3]])
        for width, side in ((16, update.right), (8, update.left))
    )
    expected = torch.einsum("k,ko,ki->oi", 0.5 * update.singular[0], left, right)
    assert torch.allclose(update.delta_weight(), expected, atol=1e-6)
    x = torch.randn(5, 16)
    assert torch.allclose(update(x), x @ expected.T, atol=1e-5)


def test_the_lambdas_are_the_singular_values_of_the_change():
    update = moved(QuantumPeftConfig(rank=4).make_update(23, 50))
    values = torch.linalg.svdvals(update.delta_weight())
    assert torch.allclose(values[:4], update.singular[0].abs().sort(descending=True).values, atol=1e-6)
    assert values[4:].max() < 1e-6


@pytest.mark.parametrize(("n_layers", "per_side"), [(1, 34), (2, 56)])
def test_the_published_counts(n_layers, per_side):
    for q in (4, 10, 12):
        published = 2 * ((2 * n_layers + 1) * q - 2 * n_layers) + 8
        assert QuantumPeftConfig(n_layers=n_layers).parameter_count(2**q, 2**q) == published
    assert QuantumPeftConfig(n_layers=n_layers).parameter_count(4096, 4096) == 2 * per_side + 8


def test_the_other_form_counts_two_n_k_minus_k_squared():
    for n, k in ((64, 4), (97, 8)):
        assert QuantumPeftConfig(form="cayley", rank=k).parameter_count(n, n) == 2 * n * k - k * k


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    rank=st.integers(1, 9),
    n_terms=st.integers(1, 3),
    n_layers=st.integers(1, 3),
    form=st.sampled_from(["pauli", "cayley"]),
    control=st.sampled_from(CONTROLS),
)
def test_counts_are_exact_and_the_start_is_zero_for_any_shape_and_setting(
    shape, rank, n_terms, n_layers, form, control
):
    if form == "cayley" and control in ("classical", "none"):
        control = "frozen"
    config = QuantumPeftConfig(rank=rank, n_terms=n_terms, n_layers=n_layers, form=form, control=control)
    update = config.make_update(*shape)
    assert sum(p.numel() for p in update.parameters()) == config.parameter_count(*shape)
    assert not update(torch.randn(3, shape[0])).any()
    moved(update)
    x = torch.randn(3, shape[0])
    assert torch.allclose(update(x), x @ update.delta_weight().T, atol=1e-4)
    assert update(x).any()


@pytest.mark.parametrize("control", CONTROLS)
def test_the_columns_of_every_control_are_orthonormal(control):
    update = moved(QuantumPeftConfig(control=control, rank=5, n_terms=2).make_update(40, 33))
    for side in (update.left, update.right):
        columns = side(side.values())
        gram = columns.mT @ columns
        # The frame of the classical control is orthonormal up to rounding to 16 bits, see `random_frame`.
        assert torch.allclose(gram, torch.eye(5).expand(2, -1, -1), atol=2e-2 if control == "classical" else 2e-6)


def test_the_classical_control_trains_as_many_numbers_as_the_circuit():
    for shape in ((64, 64), (160, 640), (4096, 1024)):
        counts = {c: QuantumPeftConfig(control=c).parameter_count(*shape) for c in CONTROLS}
        assert counts["classical"] == counts["trained"]
        assert counts["frozen"] == counts["none"] == 8


@pytest.mark.parametrize("form", ["pauli", "cayley"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_lambda_moves_in_the_first_step_and_everything_in_the_second(form, optimizer):
    update = QuantumPeftConfig(form=form).make_update(20, 12)
    start = {name: p.detach().clone() for name, p in update.named_parameters()}
    stepper = optimizer(update.parameters(), lr=0.1)
    x, weight = torch.randn(30, 20), torch.randn(30, 12)
    for step in range(2):
        stepper.zero_grad()
        (update(x) * weight).sum().backward()
        assert update.singular.grad.any()
        for side in (update.left, update.right):
            assert bool(side.offset.grad.any()) == (step == 1)
        stepper.step()
    assert all((p != start[name]).float().mean() > 0.9 for name, p in update.named_parameters())


def test_each_layer_and_each_seed_has_columns_of_its_own():
    def starts(seed):
        model = get_peft_model(tiny_llama(), QuantumPeftConfig(target_modules=["q_proj"], seed=seed))
        return [p.start for name, p in model.named_modules() if name.endswith(("left", "right"))]

    first = starts(1)
    assert len({tuple(start.flatten().tolist()) for start in first}) == len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, starts(1)))
    assert not any(torch.equal(a, b) for a, b in zip(first, starts(2)))


@pytest.mark.parametrize("form", ["pauli", "cayley"])
def test_half_precision_loses_less_than_two_percent_of_small_moves(form):
    """Of a small lambda in forward and merge, and of the change that small offsets make."""
    update = QuantumPeftConfig(form=form).make_update(96, 80)
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.copy_((1e-3 * torch.randn_like(parameter)).bfloat16())
    half = copy.deepcopy(update).bfloat16()
    assert torch.equal(half.left.start.float(), update.left.start)
    x = torch.randn(50, 96).bfloat16()
    for ours, exact in ((half(x), update(x.float())), (half.delta_weight(), update.delta_weight())):
        assert ((ours.float() - exact).norm() / exact.norm()).item() < 0.02
    turned, plain = half.left(half.left.values()), half.left(half.left.start.float())
    exact = update.double().left(update.left.values()) - update.left(update.left.start)
    assert ((turned - plain - exact).norm() / exact.norm()).item() < 0.02


def test_an_adapter_trained_in_float32_is_the_same_on_a_half_precision_base(tmp_path):
    config = QuantumPeftConfig(target_modules=["lin0", "lin1"], init_weights=False, seed=3)
    adapted = get_peft_model(TwoLayers(), config)
    adapted.save_pretrained(tmp_path)
    for options in ({}, {"low_cpu_mem_usage": True}, {"autocast_adapter_dtype": False}):
        loaded = PeftModel.from_pretrained(TwoLayers(torch.bfloat16), tmp_path, **options)
        for name in ("lin0", "lin1"):
            theirs, ours = (
                getattr(model.get_base_model(), name).update_of("default").delta_weight() for model in (loaded, adapted)
            )
            assert ((theirs.float() - ours).norm() / ours.norm()).item() < 0.02, options


def test_the_matrix_is_built_where_many_terms_make_it_cheaper():
    few, many = QuantumPeftConfig(n_terms=1), QuantumPeftConfig(n_terms=30)
    assert not few.make_update(64, 64).builds_matrix
    update = moved(many.make_update(64, 64), 0.1)
    assert update.builds_matrix
    x = torch.randn(7, 64)
    u, v = update.factors()
    assert torch.allclose(update(x), x @ v @ u.T, atol=1e-5)


def test_a_layer_can_have_another_number_of_terms():
    config = QuantumPeftConfig(target_modules=["lin0", "lin1"], size_pattern={"lin0": 3})
    model = get_peft_model(TwoLayers(), config)
    assert model.get_base_model().lin0.update_of("default").singular.shape == (3, 8)
    assert model.get_base_model().lin1.update_of("default").singular.shape == (1, 2)


def test_counting_needs_no_weights():
    base = meta_model(tiny_llama().config)
    with torch.device("meta"):
        model = get_peft_model(base, QuantumPeftConfig(target_modules=["q_proj"]))
    expected = 2 * QuantumPeftConfig().parameter_count(24, 24)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"rank=0.*at least 1"),
        ({"form": "taylor"}, r"form='taylor'.*choose one of 'pauli', 'cayley'"),
        ({"control": "froze"}, r"did you mean 'frozen'"),
        ({"form": "cayley", "control": "none"}, r"has no circuit to replace"),
        ({"scale": 0.0}, r"scale=0.0.*must not be zero"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        QuantumPeftConfig(**settings)
    with pytest.raises(ConfigError, match="no circuit"):
        QuantumPeftConfig(form="cayley").circuit_for(8)


def test_training_a_target_of_its_own_kind_succeeds():
    """A change of weight of rank two, made by the method itself with other angles, is learnt."""
    torch.manual_seed(3)
    target = moved(QuantumPeftConfig(rank=2, seed=8).make_update(16, 16)).delta_weight().detach()
    update = QuantumPeftConfig(rank=2, n_terms=3).make_update(16, 16)
    optimizer = torch.optim.Adam(update.parameters(), lr=0.05)
    losses = []
    for _ in range(300):
        loss = nn.functional.mse_loss(update.delta_weight(), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]

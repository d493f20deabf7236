"""QuIC: the rotation against its matrix of minors, published counts, exact start, half precision, controls."""

import copy
import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from tests.adapters.models import TwoLayers
from torch import nn

from ketune import QuicConfig
from ketune.adapters import ConfigError
from ketune.adapters.orthogonal import cayley_change, skew

CONTROLS = ("trained", "frozen", "classical", "none")


def moved(update, size=0.3):
    with torch.no_grad():
        for parameter in update.parameters():
            parameter.copy_(size * torch.randn_like(parameter))
    return update


def rotation_of(update):
    """R as a matrix, by applying the change to the identity."""
    identity = torch.eye(update.out_features, dtype=update.dtype)
    return identity + update.change(identity)


def minors(q, order):
    sets = [list(each) for each in combinations(range(len(q)), order)]
    return torch.stack([torch.stack([torch.linalg.det(q[a][:, b]) for b in sets]) for a in sets])


@pytest.mark.parametrize("orders", [[1], [2], [1, 2], [1, 2, 3], [3]])
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_the_rotation_is_block_diagonal_with_the_compounds_of_each_q(orders, n_blocks):
    update = moved(QuicConfig(orders=orders, n_blocks=n_blocks).make_update(5, 47)).double()
    blocks = update.blocks
    values = update.values[0].unflatten(0, (n_blocks, -1))
    expected = []
    for each in values:
        q = torch.eye(blocks.n, dtype=torch.float64) + cayley_change(skew(each, blocks.n))
        compounds = [minors(q, order) for order in orders]
        rest = blocks.size - sum(len(compound) for compound in compounds)
        assert rest >= 0
        expected += [*compounds, torch.eye(rest, dtype=torch.float64)]
    expected.append(torch.eye(47 - n_blocks * blocks.size, dtype=torch.float64))
    assert torch.allclose(rotation_of(update), torch.block_diag(*expected), atol=1e-12)


def test_the_published_sizes_at_width_4096():
    for orders, n, count in (([1, 2], 90, 4005), ([1, 2, 3], 29, 406)):
        config = QuicConfig(orders=orders)
        assert config.blocks(4096).n == n
        assert config.parameter_count(4096, 4096) == count
    assert QuicConfig(orders=[1], n_blocks=64).parameter_count(4096, 4096) == 64 * (64 * 63 // 2)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    orders=st.sets(st.integers(1, 4), min_size=1, max_size=3),
    n_blocks=st.integers(1, 4),
    share=st.booleans(),
    n_chained=st.integers(1, 3),
    row_scale=st.booleans(),
    control=st.sampled_from(CONTROLS),
)
def test_counts_are_exact_and_the_start_is_zero_for_any_shape_and_setting(
    shape, orders, n_blocks, share, n_chained, row_scale, control
):
    config = QuicConfig(
        orders=list(orders),
        n_blocks=n_blocks,
        share_blocks=share,
        n_chained=n_chained,
        row_scale=row_scale,
        control=control,
    )
    update = config.make_update(*shape)
    assert sum(p.numel() for p in update.parameters()) == config.parameter_count(*shape)
    rows = torch.randn(shape[1], 3)
    assert not update.change(rows).any()
    if control in ("trained", "classical") and not row_scale:
        rotation = rotation_of(moved(update))
        assert torch.allclose(rotation @ rotation.T, torch.eye(shape[1]), atol=1e-5)


def test_counts_of_the_controls_are_those_of_the_method_except_for_oft():
    for width in (64, 160, 4096):
        counts = {c: QuicConfig(control=c, n_chained=2).parameter_count(width, width) for c in CONTROLS}
        assert len(set(counts.values())) == 1
    assert QuicConfig(orders=[1], control="frozen").parameter_count(64, 64) == 64


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.float64])
def test_the_adapted_layer_has_the_weight_r_w_and_its_own_bias(model_dtype):
    base = TwoLayers(model_dtype)
    weight, bias = base.lin0.weight.detach().clone(), base.lin0.bias.detach().clone()
    model = get_peft_model(base, QuicConfig(target_modules=["lin0"], init_weights=False))
    layer = model.get_base_model().lin0
    rotation = rotation_of(layer.update_of("default")).to(model_dtype)
    x = torch.randn(9, 10, dtype=model_dtype)
    assert torch.allclose(layer(x), x @ (rotation @ weight).T + bias, atol=1e-5)
    model.merge_adapter()
    assert torch.allclose(layer.get_base_layer().weight, rotation @ weight, atol=1e-5)
    assert torch.equal(layer.get_base_layer().bias, bias)
    gram = weight.T @ weight
    assert torch.allclose(layer.get_base_layer().weight.T @ layer.get_base_layer().weight, gram, atol=1e-5)


def test_chained_rotations_are_more_than_one():
    """On shifted rows the second rotation reaches what the first one cannot, see QuicConfig."""
    one, two = (QuicConfig(n_chained=n).make_update(4, 15) for n in (1, 2))
    moved(one), moved(two)
    assert one.blocks.n == 5
    apart = rotation_of(one)
    assert not apart[:5, 5:].any()
    assert rotation_of(two)[:5, 5:].abs().max() > 0.01


@pytest.mark.parametrize("orders", [[1, 2], [1, 2, 3]])
def test_the_action_and_the_matrix_give_the_same_values_and_gradients(orders):
    update = moved(QuicConfig(orders=orders, n_chained=2).make_update(30, 30)).double()
    y = torch.randn(200, 30, dtype=torch.float64, requires_grad=True)
    assert update._matrix_is_cheaper(200)
    assert not update._matrix_is_cheaper(20)
    weight = torch.randn_like(y)
    whole = update.turn(y)
    parts = torch.cat([update.turn(part) for part in y.split(20)])
    assert torch.allclose(whole, parts, atol=1e-12)
    inputs = (y, update.values)
    for a, b in zip(
        torch.autograd.grad((whole * weight).sum(), inputs), torch.autograd.grad((parts * weight).sum(), inputs)
    ):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("control", ["trained", "classical"])
@pytest.mark.parametrize("samples", [50, 2000])
def test_half_precision_loses_less_than_two_percent_of_a_small_change(control, samples):
    update = QuicConfig(control=control, n_chained=2).make_update(8, 120)
    with torch.no_grad():
        update.values.copy_((1e-3 * torch.randn_like(update.values)).bfloat16())
    half = copy.deepcopy(update).bfloat16()
    y = torch.randn(samples, 120).bfloat16()
    exact = update.double().turn(y.double())
    assert ((half.turn(y).double() - exact).norm() / exact.norm()).item() < 0.02
    weight = torch.randn(120, 8)
    merged, exact = half.change(weight).double(), update.change(weight.double())
    assert ((merged - exact).norm() / exact.norm()).item() < 0.02


def test_the_first_step_moves_every_rotation():
    update = QuicConfig(n_chained=3, n_blocks=2).make_update(4, 60)
    y, weight = torch.randn(64, 60), torch.randn(64, 60)
    (update.turn(y) * weight).sum().backward()
    assert (update.values.grad != 0).all()


def test_dropout_acts_on_what_is_turned():
    model = get_peft_model(nn.Sequential(nn.Linear(6, 6)), QuicConfig(target_modules=["0"], dropout=0.5))
    moved(model.get_base_model()[0].update_of("default"), 1.0)
    x = torch.randn(5, 6)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orders": []}, r"orders=\[\].*from 1 on"),
        ({"orders": [0, 1]}, r"orders=\[0, 1\].*from 1 on"),
        ({"n_blocks": 0}, r"n_blocks=0.*at least 1"),
        ({"n_chained": 0}, r"n_chained=0.*at least 1"),
        ({"control": "givens"}, r"choose one of 'trained', 'frozen', 'classical', 'none'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        QuicConfig(**settings)


def test_orders_are_kept_sorted_and_once():
    config = QuicConfig(orders=[3, 1, 1])
    assert config.orders == [1, 3]
    assert config.blocks(4096).n == max(n for n in range(100) if n + math.comb(n, 3) <= 4096)

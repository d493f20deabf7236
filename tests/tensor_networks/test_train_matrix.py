"""Matrices as trains, against the sum over bonds written out, the dense matrix and numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.tensor_networks import TrainLinear, TrainMatrix, transpose_cores

widths = st.integers(1, 40)


def random_cores(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(core, dtype=torch.float64, generator=generator) for core in shape.core_shapes]


def test_the_entries_are_those_of_the_chain():
    """W[(o1 o2 o3), (i1 i2 i3)] as one einsum over the bonds."""
    shape = TrainMatrix(12, 30, (2, 3, 2), (5, 2, 3), (1, 3, 4, 1))
    cores = random_cores(shape)
    whole = np.einsum("axib,byjc,czka->xyzijk", *(core.numpy() for core in cores))
    assert np.allclose(shape.dense(cores), whole.reshape(12, 30))


@given(out=widths, size=widths, rank=st.integers(1, 6), n_modes=st.integers(1, 5), seed=st.integers(0, 9))
def test_applying_the_cores_is_multiplying_by_the_matrix(out, size, rank, n_modes, seed):
    shape = TrainMatrix.balanced(out, size, rank, n_modes)
    cores = random_cores(shape, seed)
    assert sum(core.numel() for core in cores) == shape.n_parameters
    matrix = shape.dense(cores)
    assert matrix.shape == (out, size)
    for lead in ((), (3,), (2, 2), (0,)):
        x = torch.randn(*lead, size, dtype=torch.float64)
        torch.testing.assert_close(shape.apply(cores, x), x @ matrix.T, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(shape.transposed.dense(transpose_cores(cores)), matrix.T)


@pytest.mark.parametrize(
    ("out", "size", "parameters"),
    [(256, 3584, 4576), (3584, 256, 4576), (512, 256, 2432), (18944, 256, 5536)],
)
def test_counts_are_those_of_the_formula(out, size, parameters):
    """Sum over the cores of R_k o_k i_k R_{k+1}; the spec's ABC totals are made of these."""
    shape = TrainMatrix.balanced(out, size, max_rank=8)
    assert shape.ranks == (1, 8, 8, 8, 1)
    by_hand = sum(
        left * o * i * right for left, o, i, right in zip((1, 8, 8, 8), shape.out_modes, shape.in_modes, (8, 8, 8, 1))
    )
    assert shape.n_parameters == by_hand == parameters


def test_multiplications_are_those_that_the_chain_makes():
    """[2, 3] by [5, 2] at rank 4: 3 x (5 -> 2 x 4), then 2 x (4 x 2... -> 3)."""
    shape = TrainMatrix(6, 10, (2, 3), (5, 2), (1, 4, 1))
    assert shape.n_multiplications == 2 * 5 * (2 * 4) + 2 * (4 * 2) * 3


@pytest.mark.parametrize(("out", "size"), [(12, 30), (7, 11), (20, 2), (16, 16)])
def test_a_decomposition_of_full_rank_is_exact(out, size):
    matrix = torch.randn(out, size, dtype=torch.float64)
    shape = TrainMatrix.balanced(out, size, max_rank=10_000)
    cores = shape.decompose(matrix)
    assert [tuple(core.shape) for core in cores] == list(shape.core_shapes)
    torch.testing.assert_close(shape.dense(cores), matrix)


def test_a_train_is_found_again_from_its_matrix():
    shape = TrainMatrix.balanced(24, 36, max_rank=3)
    matrix = shape.dense(random_cores(shape))
    torch.testing.assert_close(shape.dense(shape.decompose(matrix)), matrix)
    roomy = TrainMatrix.balanced(24, 36, max_rank=6)
    torch.testing.assert_close(roomy.dense(roomy.decompose(matrix)), matrix)


def test_more_rank_is_never_worse():
    matrix = torch.randn(32, 48, dtype=torch.float64)
    errors = []
    for rank in (1, 2, 4, 8, 16, 32):
        shape = TrainMatrix.balanced(32, 48, rank)
        errors.append((shape.dense(shape.decompose(matrix)) - matrix).norm().item())
    assert errors == sorted(errors, reverse=True)


def test_ranks_stop_where_the_modes_end_and_empty_places_are_left_out():
    shape = TrainMatrix.balanced(2, 20, max_rank=100)
    assert (shape.out_modes, shape.in_modes, shape.ranks) == ((2, 1, 1), (5, 2, 2), (1, 4, 2, 1))
    assert TrainMatrix.balanced(1, 1, 8).core_shapes == ((1, 1, 1, 1),)


@pytest.mark.parametrize("n_vectors", [1, 4000])
def test_the_layer_gives_the_same_either_way_with_the_same_gradients(n_vectors):
    torch.manual_seed(0)
    layer = TrainLinear(TrainMatrix.balanced(48, 60, max_rank=3)).double()
    assert layer.prefers_dense(n_vectors) == (n_vectors > 1)
    x = torch.randn(n_vectors, 60, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n_vectors, 48, dtype=torch.float64)
    leaves = [x, *layer.cores]
    got = torch.autograd.grad((layer(x) * weight).sum(), leaves)
    cores = [core.detach().requires_grad_() for core in layer.cores]
    y = x.detach().requires_grad_()
    wanted = torch.autograd.grad(((y @ layer.shape.dense(cores).T) * weight).sum(), [y, *cores])
    for ours, theirs in zip(got, wanted):
        torch.testing.assert_close(ours, theirs)


def test_the_layer_starts_with_the_spread_that_it_says():
    torch.manual_seed(0)
    shape = TrainMatrix.balanced(256, 4096, max_rank=8)
    outputs = torch.stack([TrainLinear(shape)(torch.randn(64, 4096)).std() for _ in range(20)])
    assert outputs.square().mean().sqrt().item() == pytest.approx(4.0, rel=0.15)  # 2^(d / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7, 4, (2, 3), (2, 2), (1, 2, 1)), r"modes \(2, 3\) do not hold a width of 7"),
        ((6, 4, (2, 3), (2, 2), (1, 2, 2)), "one rank more"),
        ((6, 4, (6,), (2, 2), (1, 2, 1)), "as many output as input"),
        ((6, 4, (2, 3), (2, 2), (1, 5, 1)), "rank 1 may be 1 to 4"),
        ((6, 4, (2, 3), (2, 2), (1, 0, 1)), "rank 1 may be 1 to 4"),
        ((0, 4, (2, 3), (2, 2), (1, 2, 1)), "do not hold a width of 0"),
    ],
)
def test_shapes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainMatrix(*arguments)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many modes"):
        TrainMatrix.from_modes(6, 4, (2, 3), (4,), 2)
    with pytest.raises(ValueError, match="rank 1"):
        TrainMatrix.balanced(6, 4, 0)
    with pytest.raises(ValueError, match=r"matrix of shape \(4, 6\)"):
        TrainMatrix.balanced(6, 4, 2).decompose(torch.ones(4, 6))


def test_padded_widths_use_every_core():
    layer = TrainLinear(TrainMatrix.balanced(19, 23, max_rank=4))
    assert math.prod(layer.shape.in_modes) > 23
    layer(torch.randn(5, 23)).sum().backward()
    assert all(core.grad.abs().max() > 0 for core in layer.cores)


@pytest.mark.parametrize(
    ("out", "size", "rank", "n_modes"),
    [(8, 784, 3, 3), (216, 2500, 4, 4), (12, 30, 5, 2), (7, 7919, 2, 4)],  # the last one is padded
)
def test_unit_variance_in_gives_unit_variance_out(out, size, rank, n_modes):
    shape = TrainMatrix.balanced(out, size, rank, n_modes)
    layer = TrainLinear(shape, init="variance")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, size, generator=generator)
    squares = []
    with torch.no_grad():
        for _ in range(1500):
            layer.reset_parameters(generator)
            squares.append(layer(x).square().mean())
    squares = torch.stack(squares)
    error = squares.std() / len(squares) ** 0.5
    norms = x.square().mean()  # of these inputs
    assert abs(squares.mean() - norms) < 4 * error
    assert error < 0.1  # so that a factor of 2^d, or of the padding, would show


def test_the_older_start_doubles_the_variance_for_each_core():
    shape = TrainMatrix.balanced(16, 64, 3, 3)
    layer, generator = TrainLinear(shape), torch.Generator().manual_seed(0)
    x = torch.randn(4, 64, generator=generator)
    squares = []
    with torch.no_grad():
        for _ in range(1500):
            layer.reset_parameters(generator)
            squares.append(layer(x).square().mean())
    squares = torch.stack(squares) / x.square().mean()
    assert abs(squares.mean() - 2**3) < 4 * squares.std() / 1500**0.5


@pytest.mark.parametrize(("bias", "extra"), [("none", 0), ("scalar", 1), ("vector", 30)])
def test_a_bias_is_added_to_the_dense_product(bias, extra):
    shape = TrainMatrix.balanced(30, 40, 4)
    layer = TrainLinear(shape, bias, "variance")
    assert sum(p.numel() for p in layer.parameters()) == shape.n_parameters + extra
    x = torch.randn(5, 40)
    plain = x @ layer.dense().T
    torch.testing.assert_close(layer(x), plain)  # biases start at zero
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
        torch.testing.assert_close(layer(x), plain + layer.bias)


def test_unknown_biases_and_starts_are_refused_by_name():
    shape = TrainMatrix.balanced(3, 4, 2)
    with pytest.raises(ValueError, match=r"bias='all'.*'none', 'scalar', 'vector'"):
        TrainLinear(shape, "all")
    with pytest.raises(ValueError, match=r"init='xavier'.*'doubling', 'variance'"):
        TrainLinear(shape, init="xavier")

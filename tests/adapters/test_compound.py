"""The action of compound matrices against the minors themselves."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.adapters.compound import CHUNK, compound_change, compound_table, largest_axes
from ketune.adapters.orthogonal import cayley_change, skew


def compound_by_minors(matrix, order):
    sets = [list(each) for each in combinations(range(len(matrix)), order)]
    return torch.stack([torch.stack([torch.linalg.det(matrix[a][:, b]) for b in sets]) for a in sets])


def tables(n, order):
    return [compound_table(n, k) for k in range(order, 1, -1)]


@pytest.mark.parametrize(("n", "order"), [(2, 1), (5, 1), (3, 2), (6, 2), (4, 3), (6, 3), (6, 4), (5, 5)])
def test_the_change_is_that_of_the_matrix_of_minors_and_so_are_its_gradients(n, order):
    values = torch.randn(2, n * (n - 1) // 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, math.comb(n, order), 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    change = cayley_change(skew(values, n))
    ours = compound_change(change, x, tables(n, order))
    minors = torch.stack([compound_by_minors(torch.eye(n, dtype=torch.float64) + each, order) for each in change])
    theirs = minors @ x - x
    assert torch.allclose(ours, theirs, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), (values, x), retain_graph=True),
        torch.autograd.grad((theirs * weight).sum(), (values, x)),
    ):
        assert torch.allclose(a, b, atol=1e-11)


def test_order_two_is_q_x_q_transposed():
    n = 7
    rotation = cayley_change(skew(torch.randn(21, dtype=torch.float64), n)) + torch.eye(n, dtype=torch.float64)
    x = torch.randn(21, dtype=torch.float64)
    upper = torch.triu_indices(n, n, 1)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    matrix[upper[0], upper[1]] = x
    matrix = matrix - matrix.T
    turned = (rotation @ matrix @ rotation.T)[upper[0], upper[1]]
    change = compound_change((rotation - torch.eye(n, dtype=torch.float64))[None], x[None, :, None], tables(n, 2))
    assert torch.allclose(x + change[0, :, 0], turned, atol=1e-12)


def test_many_samples_are_cut_into_chunks_and_give_the_same():
    n = 9
    samples = 3 * CHUNK // (n * n)
    change = cayley_change(skew(torch.randn(1, 36, dtype=torch.float64), n)).requires_grad_()
    x = torch.randn(1, 36, samples, dtype=torch.float64, requires_grad=True)
    whole = compound_change(change, x, tables(n, 2))
    whole.square().sum().backward()
    d_change, d_x = change.grad, x.grad
    change.grad = x.grad = None
    parts = [compound_change(change, part, tables(n, 2)) for part in x.split(50, -1)]
    assert torch.allclose(torch.cat(parts, -1), whole, atol=1e-12)
    sum(part.square().sum() for part in parts).backward()
    assert torch.allclose(change.grad, d_change, rtol=1e-10)
    assert torch.allclose(x.grad, d_x, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_no_rotation_changes_exactly_nothing_and_a_small_one_loses_little_in_bfloat16(order):
    n = 8
    x = torch.randn(1, math.comb(n, order), 40).bfloat16()
    assert not compound_change(torch.zeros(1, n, n), x, tables(n, order)).any()
    change = cayley_change(skew(1e-3 * torch.randn(1, 28), n))
    ours = compound_change(change, x, tables(n, order))
    exact = compound_change(change.double(), x.double(), tables(n, order))
    assert ours.dtype == torch.bfloat16
    assert ((ours.double() - exact).norm() / exact.norm()).item() < 0.02


@given(width=st.integers(1, 5000), orders=st.sets(st.integers(1, 4), min_size=1))
def test_the_axes_are_the_most_that_fit(width, orders):
    n = largest_axes(width, tuple(orders))
    assert sum(math.comb(n, k) for k in orders) <= width
    if n > max(orders):
        assert sum(math.comb(n + 1, k) for k in orders) > width or n == width


def test_the_published_numbers_of_axes():
    assert largest_axes(4096, (1, 2)) == 90
    assert largest_axes(4096, (1, 2, 3)) == 29

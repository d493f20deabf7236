"""Cutting matrices to a rank, against numpy and against what the theorem says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.adapters.truncation import EXACT, decompose, decompose_product, needed_rank, squared_error, thin_factors


def relative(matrix, rank):
    missed, square = squared_error(matrix, *thin_factors(decompose(matrix), rank))
    return (missed / square) ** 0.5


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_product_is_decomposed_as_its_matrix_is(n_out, n_in, k, seed):
    g = torch.Generator().manual_seed(seed)
    up, down = torch.randn(n_out, k, generator=g), torch.randn(k, n_in, generator=g)
    u, s, vt = decompose_product(up, down)
    torch.testing.assert_close(u * s @ vt, up.double() @ down.double())
    expected = np.linalg.svd((up.double() @ down.double()).numpy(), compute_uv=False)
    n = min(len(s), len(expected))
    torch.testing.assert_close(s[:n], torch.tensor(expected[:n]))
    assert all(float(rest) < 1e-12 for rest in (*s[n:], *expected[n:]))


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_error_of_a_cut_is_what_the_singular_values_say(n_out, n_in, seed):
    """Eckart and Young: the squares of the singular values that are left out."""
    matrix = torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(seed))
    s = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    for rank in range(1, len(s) + 1):
        expected = (np.square(s[rank:]).sum() / np.square(s).sum()) ** 0.5
        assert relative(matrix, rank) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_share_or_an_error_asks_for_the_smallest_rank_that_does():
    singular = torch.tensor([4.0, 2.0, 2.0, 1.0], dtype=torch.float64)  # energies 16, 4, 4, 1 of 25
    shares = {0.1: 1, 0.63: 1, 0.65: 2, 0.79: 2, 0.81: 3, 0.95: 3, 0.97: 4, 1.0: 4}
    assert {share: needed_rank(singular, share) for share in shares} == shares
    assert [needed_rank(singular, rank) for rank in (1, 3, 4, 9)] == [1, 3, 4, 4]
    tail = torch.tensor([1.0, 1.0, EXACT, EXACT / 2], dtype=torch.float64)
    assert needed_rank(tail, None) == 2  # sqrt(1.25) * 1e-5 is left out of sqrt(2)
    assert needed_rank(torch.zeros(3, dtype=torch.float64), None) == 1


def test_nothing_is_cut_from_small_values_beside_large_ones():
    """In float32 a sum from the largest value on loses 1e-4 beside 1, whose square is below its resolution."""
    matrix = torch.diag(torch.tensor([1.0, 1e-4, 1e-6]))
    singular = decompose(matrix)[1]
    assert needed_rank(singular, None) == 2
    assert relative(matrix, 2) < EXACT < relative(matrix, 1)


def test_factors_share_the_singular_values_and_are_filled_with_zeros():
    matrix = torch.diag(torch.tensor([1e-6, 4e-6]))
    up, down = thin_factors(decompose(matrix), 4)
    assert up.shape == (2, 4)
    assert down.shape == (4, 2)
    assert not up[:, 2:].any()
    assert not down[2:].any()
    assert torch.equal(up.abs().max(), down.abs().max())
    # 4e-6 alone would be a subnormal number of float16, with six bits.
    half = up.half().double() @ down.half().double()
    torch.testing.assert_close(half, matrix.double(), rtol=1e-3, atol=1e-10)

"""Tensor trains against contractions written out, and TT-SVD against numpy's singular values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.tensor_networks import contract_train, decompose_tensor


def random_tensor(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_train_is_the_chain_of_its_cores():
    a, b, c = random_tensor((1, 2, 3), 1), random_tensor((3, 4, 2), 2), random_tensor((2, 5, 1), 3)
    expected = np.einsum("aib,bjc,cka->ijk", a.numpy(), b.numpy(), c.numpy())
    assert np.allclose(contract_train([a, b, c]), expected)


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_decomposition_without_limits_gives_the_tensor_back(shape, seed):
    tensor = random_tensor(shape, seed)
    cores = decompose_tensor(tensor)
    assert [core.shape[1] for core in cores] == shape
    torch.testing.assert_close(contract_train(cores), tensor, atol=1e-10, rtol=0)


def test_the_ranks_are_those_of_the_unfoldings():
    """The exact ranks of a train are the ranks of the unfoldings; here of a sum of three products."""
    tensor = sum(torch.einsum("i,j,k,l->ijkl", *(random_tensor(n, s + n) for n in (4, 5, 3, 6))) for s in (0, 50, 90))
    cores = decompose_tensor(tensor)
    unfoldings = [tensor.reshape(4, -1), tensor.reshape(20, -1), tensor.reshape(60, -1)]
    assert [core.shape[2] for core in cores[:-1]] == [np.linalg.matrix_rank(u.numpy()) for u in unfoldings] == [3, 3, 3]


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.01])
def test_the_error_stays_within_the_tolerance(tolerance):
    axes = [torch.arange(n, dtype=torch.float64) for n in (6, 5, 4, 6)]
    tensor = 1 / (1 + sum(torch.meshgrid(*axes, indexing="ij")))  # singular values that fall fast
    cores = decompose_tensor(tensor, tolerance=tolerance)
    assert (contract_train(cores) - tensor).norm() <= tolerance * tensor.norm()
    assert sum(core.numel() for core in cores) < sum(core.numel() for core in decompose_tensor(tensor))


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_matrix_loses_the_singular_values_that_numpy_says(rank):
    matrix = random_tensor((7, 9))
    left = contract_train(decompose_tensor(matrix, rank)) - matrix
    singular = np.linalg.svd(matrix.numpy(), compute_uv=False)
    assert left.norm().item() == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()))


def test_limits_hold_bond_by_bond_with_the_error_of_the_theorem():
    """Oseledets 2011, theorem 2.2: the squared error is at most the sum of what each unfolding loses."""
    tensor = random_tensor((4, 5, 6))
    cores = decompose_tensor(tensor, (2, 3))
    assert [core.shape[2] for core in cores[:-1]] == [2, 3]
    lost = 0.0
    for unfolding, rank in ((tensor.reshape(4, -1), 2), (tensor.reshape(20, -1), 3)):
        lost += (np.linalg.svd(unfolding.numpy(), compute_uv=False)[rank:] ** 2).sum()
    assert (contract_train(cores) - tensor).square().sum().item() <= lost * (1 + 1e-12)


def test_zeros_have_rank_one():
    assert [tuple(core.shape) for core in decompose_tensor(torch.zeros(3, 4, 5))] == [(1, 3, 1), (1, 4, 1), (1, 5, 1)]


def test_half_precision_is_lifted():
    cores = decompose_tensor(torch.randn(3, 4, dtype=torch.bfloat16))
    assert all(core.dtype == torch.float32 for core in cores)


def test_what_is_no_train_is_refused():
    with pytest.raises(ValueError, match="are no train"):
        contract_train([torch.ones(1, 2, 3), torch.ones(2, 2, 1)])
    with pytest.raises(ValueError, match="are no train"):
        contract_train([torch.ones(2, 2, 2)])
    with pytest.raises(ValueError, match="are no train"):
        contract_train([])
    for ranks in (0, (1, 2, 3), (1, 0)):
        with pytest.raises(ValueError, match="one for each bond"):
            decompose_tensor(torch.ones(2, 2, 2), ranks)
    with pytest.raises(ValueError, match="tolerance=-1"):
        decompose_tensor(torch.ones(2, 2), tolerance=-1)

"""Vectors as trains, against the sum over bonds written out and against TT-SVD."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.tensor_networks import TrainVector


def test_the_entries_are_those_of_the_chain():
    vector = TrainVector(12, 4, (2, 3, 2)).double()
    a, b, c = (core.detach().numpy() for core in vector.cores)
    assert np.allclose(vector().detach().numpy(), np.einsum("aib,bjc,ckd->ijk", a, b, c).reshape(12))


@given(size=st.integers(1, 60), rank=st.integers(1, 6), n_modes=st.integers(1, 5))
def test_any_length_is_held_and_counted(size, rank, n_modes):
    vector = TrainVector(size, rank, n_modes=n_modes)
    assert vector().shape == (size,)
    assert sum(p.numel() for p in vector.parameters()) == TrainVector.count_parameters(size, rank, n_modes=n_modes)


def test_counts_are_those_of_the_released_scripts():
    """LiH of TensorHyper-VQC: 20 weights for 24 angles."""
    assert TrainVector.count_parameters(24, 2, (4, 6)) == 20


def test_entries_start_with_the_deviation_that_was_asked_for():
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        vectors = [TrainVector(24, 3, std=0.3, generator=generator)() for _ in range(2000)]
    squares = torch.stack(vectors).square().mean(-1)
    assert abs(squares.mean() - 0.09) < 4 * squares.std() / 2000**0.5


def test_fitting_a_vector_of_full_rank_is_exact_and_of_low_rank_is_its_best_approximation():
    wanted = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = TrainVector(20, 10, (4, 5)).double()
    whole.fit(wanted)
    torch.testing.assert_close(whole().detach(), wanted)
    low = TrainVector(20, 1, (4, 5)).double()
    low.fit(wanted)
    singular = torch.linalg.svdvals(wanted.view(4, 5))
    assert torch.isclose((low() - wanted).norm(), singular[1:].norm())


def test_every_core_has_a_gradient():
    vector = TrainVector(30, 3, generator=torch.Generator().manual_seed(0))
    vector().sin().sum().backward()
    assert all(core.grad.abs().min() > 0 for core in vector.cores)


def test_what_does_not_fit_is_refused_with_the_values():
    with pytest.raises(ValueError, match=r"size=13.*modes=\(3, 4\)"):
        TrainVector(13, 2, (3, 4))
    with pytest.raises(ValueError, match=r"shape \(3,\).*\(4,\)"):
        TrainVector(4, 2).fit(torch.zeros(3))
    with pytest.raises(ValueError, match=r"std=-1"):
        TrainVector(4, 2, std=-1)

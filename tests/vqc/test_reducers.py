"""Reducers: published counts, and principal components against numpy."""

import numpy as np
import pytest
import torch

from ketune.vqc.reducers import DenseReducer, PCAReducer, TTReducer


@pytest.mark.parametrize(("rank", "published"), [(3, 372), (2, 184)])
def test_counts_are_those_of_the_published_code(rank, published):
    """TTN-VQC (npj 2023): ranks 3; Pre+TTN-VQC: ranks 2; 784 = 7 x 16 x 7 to 2 x 2 x 2, and one bias."""
    reducer = TTReducer(784, 8, (7, 16, 7), (2, 2, 2), max_rank=rank)
    shape = reducer.train_layer.shape
    assert shape.ranks == (1, rank, rank, 1)
    assert sum(p.numel() for p in reducer.parameters()) == published + 1
    assert TTReducer.count_parameters(784, 8, (7, 16, 7), (2, 2, 2), max_rank=rank) == published + 1


def test_an_llm_hidden_state_needs_160_weights():
    """768 = 8 x 12 x 8 to 2 x 2 x 2 at rank 2: 32 + 96 + 32."""
    assert TTReducer.count_parameters(768, 8, (8, 12, 8), (2, 2, 2), max_rank=2, bias="none") == 160


@pytest.mark.parametrize("n_wires", [3, 8, 12, 20])
def test_any_number_of_wires_is_reached_from_any_width(n_wires):
    reducer = TTReducer(50, n_wires, generator=torch.Generator().manual_seed(0))
    assert reducer(torch.randn(2, 5, 50)).shape == (2, 5, n_wires)
    reducer(torch.randn(5, 50)).sum().backward()
    assert all((p.grad != 0).any() for p in reducer.parameters())


def test_the_activation_is_the_one_asked_for():
    x = torch.randn(100, 64)
    plain = TTReducer(64, 8, (4, 4, 4), (2, 2, 2), generator=torch.Generator().manual_seed(0))
    released = TTReducer(64, 8, (4, 4, 4), (2, 2, 2), activation="relu", generator=torch.Generator().manual_seed(0))
    assert (plain(x) < 0).any()
    assert torch.equal(released(x), plain(x).relu())
    with pytest.raises(ValueError, match=r"activation='gelu'.*'none', 'relu'"):
        TTReducer(64, 8, activation="gelu")


def test_principal_components_are_those_of_the_covariance_matrix():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 10, dtype=torch.float64, generator=generator) @ torch.randn(
        10, 10, dtype=torch.float64, generator=generator
    )
    out = PCAReducer(rows, 3)(rows)
    assert np.allclose(np.cov(out.numpy().T), np.eye(3), atol=1e-10)
    values, vectors = np.linalg.eigh(np.cov(rows.numpy().T))
    for k in range(3):
        wanted = (rows.numpy() - rows.numpy().mean(0)) @ vectors[:, -1 - k] / values[-1 - k] ** 0.5
        assert np.allclose(abs(out[:, k].numpy()), abs(wanted))


def test_components_are_fitted_once_and_say_the_same_of_a_row_in_any_company():
    rows = torch.randn(60, 10)
    reducer = PCAReducer(rows, 4)
    state = {name: buffer.clone() for name, buffer in reducer.state_dict().items()}
    others = 5 * torch.randn(30, 10) + 2
    whole = reducer(others)
    torch.testing.assert_close(torch.cat([reducer(row[None]) for row in others]), whole)
    assert all(torch.equal(state[name], buffer) for name, buffer in reducer.state_dict().items())
    assert not list(reducer.parameters())
    assert torch.equal(PCAReducer(rows, 4).components, reducer.components)


def test_more_components_than_rows_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 10\).*5"):
        PCAReducer(torch.randn(5, 10), 5)


def test_a_dense_layer_keeps_the_variance():
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    out = DenseReducer(64, 400, torch.Generator().manual_seed(1))(x)
    assert 0.95 < out.var() < 1.05

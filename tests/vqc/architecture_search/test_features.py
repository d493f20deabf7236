"""Rows as tensor trains of bounded rank: exact where they must be, and like the decomposition of one tensor."""

import pytest
import torch

from ketune.tensor_networks import contract_train, decompose_tensor
from ketune.vqc.architecture_search import SearchError, encode, train_features
from ketune.vqc.architecture_search.features import default_modes, train_size
from ketune.vqc.problems import LabelledData, Rows


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rank_four_is_exact_for_modes_4_16_4():
    x = rows(7, 256)
    cut = train_features(x, (4, 16, 4), 4)
    assert torch.allclose(cut.values, x / x.norm(dim=-1, keepdim=True), atol=1e-12)
    assert torch.allclose(cut.fidelity, torch.ones(7, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("modes", "rank"), [((4, 16, 4), 3), ((4, 16, 4), 1), ((2, 3, 4, 5), 2), ((6, 7), 3), ((9,), 1)]
)
def test_each_row_is_cut_as_if_it_were_alone(modes, rank):
    x = rows(3, int(torch.tensor(modes).prod()))
    cut = train_features(x, modes, rank)
    for row, values, fidelity in zip(x, cut.values, cut.fidelity):
        alone = contract_train(decompose_tensor(row.reshape(modes), max_ranks=rank)).reshape(-1)
        alone = alone / alone.norm()
        assert torch.allclose(values, alone, atol=1e-10)
        assert float(fidelity) == pytest.approx(float((row / row.norm()) @ alone) ** 2, abs=1e-10)


def test_rows_of_low_rank_are_left_as_they_are_and_others_lose_fidelity():
    low = torch.einsum("i,j,k->ijk", rows(4), rows(16), rows(4)).reshape(1, 256)
    assert float(train_features(low, (4, 16, 4), 1).fidelity) == pytest.approx(1)
    fidelities = [float(train_features(rows(50, 256), (4, 16, 4), rank).fidelity.mean()) for rank in (1, 2, 3, 4)]
    assert fidelities == sorted(fidelities)
    assert fidelities[2] < 0.99


def test_rank_three_keeps_168_of_256_numbers():
    assert train_size((4, 16, 4), 3) == 168


def test_modes_larger_than_the_row_pad_it_and_leading_dimensions_stay():
    x = rows(2, 5, 13)
    cut = train_features(x, (2, 4, 2), 8)
    assert torch.allclose(cut.values, x / x.norm(dim=-1, keepdim=True), atol=1e-12)
    assert cut.fidelity.shape == (2, 5)
    assert default_modes(256) == (4, 16, 4)


def test_a_row_of_zeros_stays_one_and_scale_does_not_matter():
    x = torch.cat((torch.zeros(1, 64), rows(1, 64).float(), 1e-20 * rows(1, 64).float(), 1e15 * rows(1, 64).float()))
    cut = train_features(x, (4, 4, 4), 2)
    assert cut.values[0].abs().max() == 0
    assert float(cut.fidelity[0]) == 1
    assert torch.allclose(cut.values[1], cut.values[2], atol=1e-5)
    assert torch.allclose(cut.values[1], cut.values[3], atol=1e-5)
    assert cut.values.dtype == torch.float32


def test_a_whole_data_set_is_encoded_row_by_row():
    parts = [Rows(rows(n, 16, seed=n), torch.zeros(n, dtype=torch.int64)) for n in (5, 3, 2)]
    data = LabelledData("noise", *parts, 2, (16,))
    encoded = encode(data, 1)
    alone = train_features(parts[2].x, default_modes(16), 1)
    assert torch.allclose(encoded.data.test.x, alone.values)
    assert 0 < encoded.fidelity < 1
    assert encode(data, None).data is data


def test_impossible_modes_and_ranks_are_refused():
    with pytest.raises(SearchError, match="product must be 256"):
        train_features(rows(1, 256), (4, 4), 2)
    with pytest.raises(SearchError, match="max_rank=0"):
        train_features(rows(1, 256), (4, 16, 4), 0)

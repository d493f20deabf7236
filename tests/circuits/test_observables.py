import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits import dense_reference as dense

from ketune.circuits import check_readout, count_readouts
from ketune.circuits.observables import measurement_groups, word_signs

words_of_three = st.lists(st.text("IXYZ", min_size=3, max_size=3), min_size=1, max_size=8)


@settings(deadline=None)
@given(words_of_three)
def test_each_word_is_measured_once_in_a_basis_that_fits_it(words):
    groups = measurement_groups(words)
    assert sorted(member for _, members in groups for member in members) == list(range(len(words)))
    for basis, members in groups:
        for member in members:
            assert all(letter in ("I", base) for letter, base in zip(words[member], basis))


def test_words_that_commute_on_every_wire_share_a_measurement():
    assert measurement_groups(["ZII", "IZI", "ZZZ"]) == [("ZZZ", [0, 1, 2])]
    assert [members for _, members in measurement_groups(["XII", "ZII", "IXI"])] == [[0, 2], [1]]


def test_signs_are_the_eigenvalues_of_diagonal_words():
    words = ["ZII", "IZZ", "III", "ZZZ"]
    expected = torch.stack([dense.pauli_word(word).diagonal().real for word in words], 1)
    assert torch.equal(word_signs(words, torch.arange(8)), expected)


def test_readouts_are_counted():
    assert count_readouts(5, "pauli_z") == 5
    assert count_readouts(5, "probabilities") == 32
    assert count_readouts(5, "amplitudes") == 32
    assert count_readouts(5, "amplitudes", 7) == 7
    assert count_readouts(3, ["XXI", "ZZZ"]) == 2


def test_wrong_readouts_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"'pauli_x'.*'pauli_z'.*\['XXI'\]"):
        check_readout("pauli_x", 3)
    with pytest.raises(ValueError, match=r"'XX'.*3 letters"):
        check_readout(["XX"], 3)
    with pytest.raises(ValueError, match="'XXA'"):
        check_readout(["XXI", "XXA"], 3)
    with pytest.raises(ValueError, match="at least one"):
        check_readout([], 3)
    with pytest.raises(ValueError, match=r"n_readouts=9.*1 to 8"):
        count_readouts(3, "amplitudes", 9)
    with pytest.raises(ValueError, match=r"n_readouts=2.*'pauli_z'"):
        count_readouts(3, "pauli_z", 2)

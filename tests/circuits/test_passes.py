"""The linear algebra over GF(2) behind the compiled simulator."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.circuits._gates import GATES
from ketune.circuits._passes import Frame, kernel_of, parity, sign_table, span

SETTINGS = settings(deadline=None, database=None)
moves = st.lists(st.tuples(st.sampled_from(["CNOT", "SWAP"]), st.permutations(range(5))), max_size=30)


@SETTINGS
@given(moves)
def test_a_frame_knows_where_every_basis_state_went(moves):
    frame, index = Frame(5), torch.arange(32)
    for name, wires in moves:
        first, second = wires[:2]
        frame.cnot(first, second) if name == "CNOT" else frame.swap(first, second)
        index, _ = GATES[name].permute(index, 4 - first, 4 - second)
    for row, basis in enumerate(index.tolist()):  # what stood in `row` at the start is now this basis state
        for wire in range(5):
            assert parity(row & frame.parities[wire]) == basis >> (4 - wire) & 1
    for a, b in itertools.product(range(5), repeat=2):
        assert parity(frame.masks[a] & frame.parities[b]) == (a == b)


@SETTINGS
@given(st.lists(st.integers(0, 63), max_size=5))
def test_the_kernel_holds_all_addresses_of_even_parity(parities):
    wanted = [row for row in range(64) if not any(parity(row & mask) for mask in parities)]
    assert kernel_of(parities, 6) == wanted


def test_a_span_combines_masks_by_the_bits_of_its_index():
    assert span([1, 6]) == [0, 1, 6, 7]


def test_signs_are_negative_where_the_parity_is_odd():
    assert sign_table([3, 0], [0, 1, 3]).tolist() == [[1, 1], [-1, 1], [1, 1]]

"""Widths as products of axes, graphs of gates and circuits of a wanted size."""

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.tensor_networks.axes import balanced_axes, factorisations, near_factorisations
from ketune.tensor_networks.gate_graphs import GRAPHS, gate_pairs, place_gates
from ketune.tensor_networks.gate_sizes import circuit_for, parameters_of


def brute_force(low, high, n_axes, smallest):
    """All non-growing lists by trying every one."""

    def lists(n, largest):
        if n == 0:
            yield ()
            return
        for size in range(smallest, largest + 1):
            for rest in lists(n - 1, size):
                yield (size, *rest)

    return {sizes for sizes in lists(n_axes, high) if low <= math.prod(sizes) <= high}


@given(st.integers(1, 40), st.integers(1, 3))
def test_all_factorisations_are_found(width, n_axes):
    found = factorisations(width, n_axes)
    assert len(found) == len(set(found))
    assert set(found) == brute_force(width, width, n_axes, 1)


@given(st.integers(1, 30), st.integers(0, 8), st.integers(1, 3))
def test_all_near_factorisations_are_found(width, slack, n_axes):
    found = near_factorisations(width, slack, n_axes)
    assert len(found) == len(set(found))
    assert set(found) == brute_force(width, width + slack, n_axes, 2)


@pytest.mark.parametrize(
    ("width", "sizes"),
    [
        (4096, (8, 8, 8, 8)),  # the square root of a square root
        (4096, (16, 16, 16)),
        (1024, (32, 32)),
        (10, (5, 2, 1)),
        (97, (97, 1)),  # two axes have one gate, the full matrix, so a prime needs no zeros
        (17, (3, 3, 2)),  # 18, one zero
        (2, (2, 1, 1, 1)),
        (1, (1, 1)),
    ],
)
def test_balanced_axes_are_those_with_the_fewest_parameters(width, sizes):
    assert balanced_axes(width, len(sizes)) == sizes


@given(st.integers(1, 300), st.integers(2, 5))
def test_balanced_axes_hold_the_width_and_waste_little(width, n_axes):
    sizes = balanced_axes(width, n_axes)
    assert len(sizes) == n_axes
    assert list(sizes) == sorted(sizes, reverse=True)
    assert width <= math.prod(sizes) <= 2 * width


def parameters(sizes):
    return sum((a * b) ** 2 for a, b in combinations(sizes, 2))


@settings(deadline=None)
@given(st.integers(2, 30))
def test_balanced_axes_have_at_most_twice_the_parameters_of_any_others(width):
    chosen = balanced_axes(width, 3)
    others = brute_force(width, 2 * width, 3, 1)
    assert all(parameters(chosen) <= 2 * parameters(other) for other in others)
    exact = [parameters(other) for other in others if math.prod(other) == width]
    assert math.prod(chosen) > width or parameters(chosen) == min(exact)


def from_the_front(*pairs, n_axes):
    """Pairs as the paper's code counts them, -1 for the last axis, as we do, 0 for the first."""
    return [(n_axes + min(pair), n_axes + max(pair)) for pair in pairs]


@pytest.mark.parametrize(
    ("graph", "pairs"),
    [
        ("all_pairs", [(-1, -2), (-1, -3), (-1, -4), (-2, -3), (-2, -4), (-3, -4)]),
        ("ring", [(-1, -2), (-2, -3), (-3, -4), (-1, -4)]),
        ("brick", [(-1, -2), (-3, -4), (-2, -3)]),
        ("tree", [(-1, -2), (-3, -4), (-2, -4)]),
    ],
)
def test_the_graphs_of_four_axes(graph, pairs):
    assert GRAPHS[graph](4) == from_the_front(*pairs, n_axes=4)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("n_axes", range(2, 9))
def test_every_graph_connects_all_axes_and_repeats_nothing(graph, n_axes):
    pairs = GRAPHS[graph](n_axes)
    assert len(pairs) == len(set(pairs))
    assert all(0 <= m < n < n_axes for m, n in pairs)
    joined = {pairs[0][0]}
    for _ in pairs:
        joined |= {axis for pair in pairs if joined & set(pair) for axis in pair}
    assert joined == set(range(n_axes))


def test_more_gates_than_pairs_go_round_again():
    assert gate_pairs("ring", 3, 5) == ((1, 2), (0, 1), (0, 2), (1, 2), (0, 1))


def test_an_axis_shrinks_in_its_first_gate_and_grows_in_its_last():
    gates = place_gates([(1, 2), (0, 2), (0, 1)], (5, 4, 2), (3, 6, 2))
    assert [(gate.inputs, gate.outputs) for gate in gates] == [
        ((4, 2), (4, 2)),
        ((5, 2), (3, 2)),
        ((3, 4), (3, 6)),
    ]
    with pytest.raises(ValueError, match="axis 0 goes from 5 to 3, and none of the 1 gates touches it"):
        place_gates([(1, 2)], (5, 4, 2), (3, 4, 2))


@given(
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 200)),
    st.sampled_from(sorted(GRAPHS)),
    st.integers(1, 5000),
    st.one_of(st.none(), st.integers(2, 5)),
)
def test_a_circuit_for_a_number_of_parameters_fits_and_grows_with_it(in_features, other, graph, at_most, n_axes):
    out_features = other or in_features

    def count(limit):
        found = circuit_for(in_features, out_features, graph, limit, n_axes)
        assert math.prod(found.in_axes) >= in_features
        assert math.prod(found.out_axes) >= out_features
        assert n_axes is None or len(found.in_axes) == n_axes
        return parameters_of(graph, found.in_axes, found.out_axes, found.n_gates)

    smallest, some, more = count(1), count(at_most), count(2 * at_most)
    assert smallest <= some <= more
    assert some <= max(at_most, smallest)


@pytest.mark.parametrize("width", [768, 1024, 2048, 4096, 8192])
def test_sizes_of_square_layers_are_finer_than_one_rank_of_lora(width):
    """Where a layer is as large as LoRA's of rank 1 to 16."""
    limits = range(2 * width, 32 * width, max(1, width // 8))
    counts = []
    for limit in limits:
        found = circuit_for(width, width, "all_pairs", limit)
        counts.append(parameters_of("all_pairs", found.in_axes, found.out_axes, found.n_gates))
    assert all(limit - count < 2 * width for limit, count in zip(limits, counts))

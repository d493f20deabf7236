"""The space of CL-QAS: its size, the counts of its gates, and architectures as text."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.circuits import rxryrz_ring
from ketune.vqc.architecture import ENTANGLERS, Architecture, ArchitectureError, entangling_pairs
from ketune.vqc.architecture_search import SearchError, SearchSpace

architectures = st.builds(
    Architecture,
    st.lists(st.sampled_from(ENTANGLERS), min_size=1, max_size=5).map(tuple),
    st.sampled_from(("rotations_first", "entangler_first")),
    st.sampled_from((("RX", "RY", "RZ"), ("RY",), ("RZ", "RY"))),
)


def test_the_space_has_336_different_circuits():
    space = SearchSpace()
    circuits = {architecture.circuit(8) for architecture in space.architectures}
    assert len(space) == len(space.architectures) == len(circuits) == 336
    assert Counter(architecture.depth for architecture in space.architectures) == {2: 16, 3: 64, 4: 256}


def test_layers_on_eight_wires_have_the_published_counts():
    counts = [Architecture((name,)).n_two_wire_gates(8) for name in ENTANGLERS]
    assert counts == [8, 7, 4, 4]
    assert entangling_pairs(8, "brick_odd")[-1] == (7, 0)


@pytest.mark.parametrize("n_wires", range(1, 12))
@pytest.mark.parametrize("entangler", ENTANGLERS)
def test_every_layer_fits_on_any_number_of_wires_and_its_count_is_the_circuits(n_wires, entangler):
    architecture = Architecture((entangler, "ring"))
    circuit = architecture.circuit(n_wires)
    assert circuit.n_wires == n_wires
    assert circuit.n_two_wire_gates == architecture.n_two_wire_gates(n_wires)
    assert circuit.n_angles == 2 * 3 * n_wires
    pairs = entangling_pairs(n_wires, entangler)
    assert len(set(map(frozenset, pairs))) == len(pairs)
    if entangler.startswith("brick"):  # one step: no wire twice
        assert len({wire for pair in pairs for wire in pair}) == 2 * len(pairs)


def test_rings_and_lines_are_the_circuits_that_the_library_has():
    for name in ("ring", "linear"):
        assert Architecture((name, name)).circuit(5) == rxryrz_ring(5, 2, name)


def test_the_order_within_a_layer_is_a_parameter():
    first, later = (Architecture(("ring",), order).circuit(3) for order in ("rotations_first", "entangler_first"))
    assert [gate.name for gate in first.gates[:3]] == ["RX", "RY", "RZ"]
    assert [gate.name for gate in later.gates[:3]] == ["CNOT"] * 3
    assert sorted(map(str, first.gates)) == sorted(map(str, later.gates))


@given(architectures)
@settings(deadline=None)
def test_an_architecture_comes_back_from_its_text_and_its_dictionary(architecture):
    assert Architecture.from_text(architecture.text) == architecture
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert set(architecture.text) <= set("abcdefghijklmnopqrstuvwxyzRXYZ_-+")


def test_samples_without_replacement_are_different_and_follow_their_generator():
    space = SearchSpace()
    drawn, again = (space.sample(30, torch.Generator().manual_seed(3)) for _ in range(2))
    assert drawn == again
    assert len(set(drawn)) == 30
    assert set(space.sample(336)) == set(space.architectures)
    assert set(space.sample(336, by_depth=True)) == set(space.architectures)


def test_drawing_by_depth_takes_shallow_circuits_as_often_as_deep_ones():
    space = SearchSpace()
    generator = torch.Generator().manual_seed(0)
    shallow = sum(space.sample(1, generator, by_depth=True)[0].depth == 2 for _ in range(600))
    plain = sum(space.sample(1, generator)[0].depth == 2 for _ in range(600))
    assert 150 < shallow < 250  # 200 expected, standard deviation 12
    assert plain < 60  # 29 expected


def test_what_is_no_architecture_or_space_is_refused_with_what_is_allowed():
    for make in (
        lambda: Architecture(()),
        lambda: Architecture(("star",)),
        lambda: Architecture(("ring",), "both"),
        lambda: Architecture(("ring",), rotations=("H",)),
        lambda: Architecture.from_text("ring-+"),
        lambda: Architecture.from_text("ring+RX+RY"),
        lambda: Architecture.from_dict({"entanglers": "ring", "order": "rotations_first", "rotations": ["RX"]}),
        lambda: Architecture.from_dict({}),
        lambda: SearchSpace(entanglers=("star",)),
    ):
        with pytest.raises(ArchitectureError):
            make()
    for make in (
        lambda: SearchSpace(depths=()),
        lambda: SearchSpace(depths=(3, 2)),
        lambda: SearchSpace(depths=(0, 1)),
        lambda: SearchSpace(entanglers=("ring", "ring")),
        lambda: SearchSpace().sample(337),
        lambda: SearchSpace().sample(0),
    ):
        with pytest.raises(SearchError):
            make()
    assert Architecture(("ring",)) not in SearchSpace()
    assert Architecture(("ring", "ring"), "entangler_first") not in SearchSpace()

"""Circuits as rotations about Pauli products, and rotations as passes over tiles."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits

from ketune.circuits import Circuit, Gate, rxryrz_ring, ry_ring
from ketune.circuits._passes import parity
from ketune.circuits._rotations import FIXED, X, Y, Z, rotations_of
from ketune.circuits._tile_passes import PHASES_WIDTH, schedule

SETTINGS = settings(deadline=None, max_examples=60, database=None)


def order_of(tile):
    return [*tile.fixed, *tile.before, *tile.turns, *tile.after]


@SETTINGS
@given(circuits(max_wires=6, max_gates=40), st.integers(1, 4), st.booleans())
def test_passes_do_every_rotation_once_and_keep_the_order_of_those_that_do_not_commute(circuit, most, from_zero):
    steps = rotations_of(circuit, "probabilities", from_zero).steps
    passes = schedule(steps, circuit.n_wires, most)
    done = [id(step) for tile in passes for step in order_of(tile)]
    assert sorted(done) == sorted(map(id, steps))
    place = {step: i for i, step in enumerate(done)}
    for first, second in itertools.combinations(steps, 2):
        if not first.commutes(second):
            assert place[id(first)] < place[id(second)]


@SETTINGS
@given(circuits(max_wires=6, max_gates=40), st.integers(1, 4))
def test_tiles_hold_the_rows_that_their_turns_mix_and_know_the_signs_of_their_phases(circuit, most):
    for tile in schedule(rotations_of(circuit, "pauli_z", False).steps, circuit.n_wires, most):
        assert tile.width <= (most if tile.turns else PHASES_WIDTH)
        bases, steps = tile.bases(circuit.n_wires), tile.steps()
        rows = [base ^ step for base in bases for step in steps]
        assert sorted(rows) == list(range(2**circuit.n_wires))
        for group in (tile.xs, tile.ys):
            for wire, turn in group.items():
                assert steps[1 << wire] == turn.mask
                assert all(parity(turn.parity & steps[row]) == row >> wire & 1 for row in range(len(steps)))
        for phase in (*tile.before, *tile.after):
            for row, step in enumerate(steps):
                assert {1 - 2 * parity(phase.parity & (base ^ step)) for base in bases} == {tile.sign(phase, row)}


@pytest.mark.parametrize(("most", "widths"), [(2, [2, 2, 2]), (3, [3, 3]), (4, [3, 3]), (6, [6])])
@pytest.mark.parametrize("ansatz", [ry_ring, rxryrz_ring])
def test_a_layer_of_rotations_on_every_wire_takes_one_pass_for_every_few_wires(ansatz, most, widths):
    passes = schedule(rotations_of(ansatz(6, 1), "probabilities", False).steps, 6, most)
    assert [tile.width for tile in passes] == widths
    assert all(set(tile.ys) == set(range(tile.width)) for tile in passes)


def test_phases_that_change_nothing_are_left_out():
    gates = (Gate("RZ", (0,), 0), Gate("RY", (0,), 1), Gate("CZ", (0, 1)), Gate("RZ", (1,), 2))
    circuit = Circuit(2, gates)
    assert [step.axis for step in rotations_of(circuit, "probabilities", True).steps] == [Y]
    assert [step.axis for step in rotations_of(circuit, "probabilities", False).steps] == [Z, Y]


def test_fixed_gates_are_turns_by_constants_between_fixed_phases():
    steps = rotations_of(Circuit(1, (Gate("H", (0,)), Gate("RX", (0,), 0), Gate("SX", (0,)))), "pauli_z", False).steps
    assert [step.axis for step in steps] == [FIXED, Y, X, FIXED, Y]
    assert [step.angle for step in steps] == [None, None, 0, None, None]

"""States as tensor trains, beside the same states as vectors."""

import random

import pytest
import torch

from ketune.tensor_networks import TrainState


def random_vector(n_wires, seed=0):
    vector = torch.randn(2**n_wires, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def random_gate(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(4, 4, dtype=torch.complex128, generator=generator))[0]


def applied(vector, gate, first, second):
    n_wires = vector.numel().bit_length() - 1
    split = vector.view((2,) * n_wires).movedim((first, second), (0, 1))
    return (gate @ split.reshape(4, -1)).view(split.shape).movedim((0, 1), (first, second)).reshape(-1)


def test_gates_on_any_two_wires_do_what_they_do_to_vectors():
    vector, chooser = random_vector(6), random.Random(0)
    state = TrainState.from_vector(vector)
    torch.testing.assert_close(state.to_vector(), vector)
    for seed in range(8):
        wires = chooser.sample(range(6), 2)
        state.apply(random_gate(seed), *wires)
        vector = applied(vector, random_gate(seed), *wires)
    torch.testing.assert_close(state.to_vector(), vector)
    assert state.lost < 1e-10
    assert max(state.bonds) <= 8


def test_what_is_cut_is_what_the_fidelity_loses():
    vector = random_vector(6)
    state = TrainState.from_vector(vector, max_bond=8)
    state.max_bond = 3
    state.apply(torch.eye(4), 2, 3)
    assert max(state.bonds[2:3]) == 3
    assert state.lost > 0.1
    assert float((state.to_vector().conj() @ vector).abs()) ** 2 == pytest.approx(1 - state.lost, abs=1e-9)
    assert float(torch.linalg.vector_norm(state.to_vector())) == pytest.approx(1)


def test_any_gauge_is_taken_and_copies_stay_apart():
    cores = [torch.randn(1, 2, 3), torch.randn(3, 2, 3), torch.randn(3, 2, 1)]
    state = TrainState(cores)
    expected = torch.einsum("asb,btc,cud->stu", *cores).flatten()
    torch.testing.assert_close(state.to_vector().real, expected / expected.norm(), atol=1e-5, rtol=1e-4)
    other = state.copy()
    other.apply(random_gate(1).to(torch.complex64), 0, 2)
    assert float((state.overlap(other)).abs()) < 0.999
    torch.testing.assert_close(state.to_vector().real, expected / expected.norm(), atol=1e-5, rtol=1e-4)


def test_overlaps_are_those_of_vectors():
    one, two = random_vector(5, 1), random_vector(5, 2)
    overlap = TrainState.from_vector(one).overlap(TrainState.from_vector(two))
    torch.testing.assert_close(overlap, one.conj() @ two)


def test_fifty_wires_are_a_matter_of_milliseconds():
    state = TrainState.product(torch.tensor([[0.6, 0.8]], dtype=torch.complex128).expand(50, 2))
    for wire in range(49):
        state.apply(random_gate(wire), wire, wire + 1)
    assert state.n_wires == 50
    assert float(state.overlap(state).real) == pytest.approx(1)
    assert max(state.bonds) <= 2


def test_what_is_no_state_is_refused():
    with pytest.raises(ValueError, match=r"\[\(1, 3, 1\)\] are no state"):
        TrainState([torch.ones(1, 3, 1)])
    with pytest.raises(ValueError, match="the outer bonds are 1"):
        TrainState([torch.ones(2, 2, 1)])
    with pytest.raises(ValueError, match=r"2 \*\* n_wires amplitudes"):
        TrainState.from_vector(torch.ones(3))
    with pytest.raises(ValueError, match=r"take two different ones of 0\.\.1"):
        TrainState.from_vector(torch.ones(4)).apply(torch.eye(4), 1, 2)

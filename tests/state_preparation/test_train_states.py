"""AQER on tensor trains, beside AQER on vectors."""

import pytest
import torch

from ketune.state_preparation import (
    DenseStates,
    TrainStates,
    aqer,
    aqer_train,
    as_states,
    infidelities,
    load_train,
    polish_train,
    train_infidelity,
)
from ketune.state_preparation.pair_circuit import CircuitBatch
from ketune.state_preparation.train_states import _overlap_and_slopes
from ketune.tensor_networks import TrainState


def random_vector(n_wires, seed=0):
    return as_states(torch.randn(2**n_wires, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)))


def test_trains_know_the_same_about_their_wires_as_vectors():
    vector = random_vector(5)
    dense, train = DenseStates(vector[None]), TrainStates(TrainState.from_vector(vector))
    off = ~torch.eye(5, dtype=torch.bool)
    for wires in (None, (0, 1), (4, 2), (1, 3)):
        if wires is not None:
            gate = torch.linalg.qr(torch.randn(1, 4, 4, dtype=torch.complex128))[0]
            dense.apply(torch.tensor([wires]), gate)
            train.apply(torch.tensor([wires]), gate)
        torch.testing.assert_close(train.bloch, dense.bloch)
        torch.testing.assert_close(train.correlations[:, off], dense.correlations[:, off])


def test_trains_and_vectors_give_the_same_circuit():
    vector = random_vector(4)
    dense = aqer(vector, 5, n_steps=0, n_starts=2)[0]
    train = aqer_train(TrainState.from_vector(vector), 5, n_steps=0, n_starts=2)
    assert train.circuit.pairs == dense.circuit.pairs
    assert train.infidelity == pytest.approx(dense.infidelity, abs=1e-6)
    torch.testing.assert_close(train.entanglement, dense.entanglement, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(load_train(train.circuit).to_vector(), train.circuit.state())


def test_slopes_from_trains_are_those_of_vectors():
    vector = random_vector(4)
    circuit = aqer(vector, 4, n_steps=0, n_starts=1)[0].circuit
    batch = CircuitBatch.of([circuit], vector[None])
    start, angles = batch.start[0].clone().requires_grad_(), batch.angles[0].clone().requires_grad_()
    batch.infidelity(start[None], angles[None]).sum().backward()
    again = circuit.start.clone().requires_grad_(), circuit.angles.clone().requires_grad_()
    products, matrices = circuit.kind.product_states(again[0]), circuit.kind.matrices(again[1])
    target = TrainState.from_vector(vector)
    overlap, of_products, of_matrices = _overlap_and_slopes(
        products.detach(), matrices.detach(), circuit.pairs, target, True
    )
    slopes = [-2 * overlap * slope.conj() for slope in (of_products, of_matrices)]
    torch.autograd.backward([products, matrices], slopes)
    torch.testing.assert_close(again[0].grad, start.grad)
    torch.testing.assert_close(again[1].grad, angles.grad)


def test_polishing_a_train_lowers_its_infidelity():
    state = TrainState.from_vector(random_vector(4, 2))
    loader = aqer_train(state, 3, n_steps=0, n_starts=1)
    seen = []
    polished = polish_train(loader.circuit, state, n_steps=15, lr=0.03, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, 16))
    assert train_infidelity(polished, state) < loader.infidelity - 1e-3
    dense = infidelities([polished], state.to_vector()[None])
    assert train_infidelity(polished, state) == pytest.approx(float(dense), abs=1e-9)


def test_twenty_wires_take_blocks_where_they_are_entangled():
    wires = torch.tensor([0.6, 0.8], dtype=torch.complex128).expand(20, 2)
    state = TrainState.product(wires, max_bond=8)
    cnot = torch.eye(4)[[0, 1, 3, 2]]
    for pair in ((3, 4), (4, 5), (12, 14)):
        state.apply(cnot, *pair)
    loader = aqer_train(state, 10, n_steps=0, n_starts=4)
    assert loader.infidelity < 1e-6
    assert {wire for pair in loader.circuit.pairs for wire in pair} <= {3, 4, 5, 12, 14}

"""Circuits of blocks as gates, as matrices and in batches: all three must say the same."""

import random

import pytest
import torch

from ketune.circuits import evolve
from ketune.state_preparation import BLOCKS, PairCircuit, as_states, circuit_from_unitaries, infidelities, polish
from ketune.state_preparation.pair_circuit import CircuitBatch

KINDS = list(BLOCKS)


def random_circuit(n_wires, n_blocks, block, seed=0):
    chooser, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    kind = BLOCKS[block]
    pairs = tuple(tuple(chooser.sample(range(n_wires), 2)) for _ in range(n_blocks))
    start = torch.randn(n_wires, len(kind.start), dtype=torch.float64, generator=generator)
    angles = torch.randn(n_blocks, kind.n_angles, dtype=torch.float64, generator=generator)
    return PairCircuit(n_wires, block, pairs, start, angles)


def random_vectors(n_vectors, n_wires):
    return as_states(torch.randn(n_vectors, 2**n_wires, dtype=torch.complex128))


@pytest.mark.parametrize("block", KINDS)
def test_blocks_are_their_gates(block):
    loader = random_circuit(4, 5, block)
    assert loader.circuit.is_real == BLOCKS[block].is_real == (block == "so4")
    assert loader.circuit.n_two_wire_gates == 5 * BLOCKS[block].n_native
    torch.testing.assert_close(loader.state(), evolve(loader.circuit, loader.flat_angles).to(torch.complex128))


@pytest.mark.parametrize("block", KINDS)
def test_batches_with_pairs_of_their_own_have_the_gradients_of_single_circuits(block):
    circuits, vectors = [random_circuit(4, 5, block, seed) for seed in range(3)], random_vectors(3, 4)
    batch = CircuitBatch.of(circuits, vectors)
    start, angles = batch.start.clone().requires_grad_(), batch.angles.clone().requires_grad_()
    batch.infidelity(start, angles).sum().backward()
    for row, circuit in enumerate(circuits):
        alone = circuit.start.clone().requires_grad_(), circuit.angles.clone().requires_grad_()
        state = PairCircuit(4, block, circuit.pairs, *alone).state()
        infidelity = 1 - (vectors[row].conj() @ state).abs().square()
        infidelity.backward()
        torch.testing.assert_close(infidelities([circuit], vectors[row : row + 1])[0], infidelity.detach())
        torch.testing.assert_close(start.grad[row], alone[0].grad)
        torch.testing.assert_close(angles.grad[row], alone[1].grad)


def test_circuits_with_the_same_pairs_share_their_layouts():
    one = random_circuit(4, 5, "rzz")
    other = PairCircuit(4, "rzz", one.pairs, one.start + 1, one.angles - 1)
    vectors = random_vectors(2, 4)
    assert len(CircuitBatch.of([one, other], vectors).layouts.last) == 1
    apart = torch.cat([infidelities([each], vectors[row : row + 1]) for row, each in enumerate((one, other))])
    torch.testing.assert_close(infidelities([one, other], vectors), apart)


@pytest.mark.parametrize("block", ["rzz", "so4"])
def test_polishing_never_makes_a_circuit_worse_and_finds_what_can_be_reached(block):
    wanted = torch.stack([random_circuit(3, 4, block, seed).state() for seed in range(3)])
    near = [random_circuit(3, 4, block, seed) for seed in range(3)]
    near = [PairCircuit(3, block, c.pairs, c.start + 0.1, c.angles - 0.1) for c in near]
    before = infidelities(near, wanted)
    seen = []
    after = infidelities(polish(near, wanted, n_steps=200, on_step=lambda step, _: seen.append(step)), wanted)
    assert bool((after < 1e-4).all())
    assert bool((before > 1e-3).all())
    assert seen == list(range(1, 201))
    wild = infidelities(polish(near, wanted, n_steps=3, lr=10.0), wanted)
    assert bool((wild <= before + 1e-12).all())


def test_polishing_stops_at_the_tolerance():
    circuit = random_circuit(3, 2, "rzz")
    steps = []
    polish([circuit], circuit.state()[None], tolerance=1e-9, on_step=lambda step, _: steps.append(step))
    assert steps == []


@pytest.mark.parametrize("block", ["su4", "so4"])
def test_unitaries_become_blocks(block):
    generator, chooser = torch.Generator().manual_seed(3), random.Random(3)
    dtype = torch.complex128 if block == "su4" else torch.float64
    unitaries = torch.linalg.qr(torch.randn(7, 4, 4, dtype=dtype, generator=generator))[0]
    if block == "so4":
        unitaries[:, :, 0] *= torch.linalg.det(unitaries)[:, None]
    pairs = [tuple(chooser.sample(range(5), 2)) for _ in range(7)]
    start = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    start[:, 1] *= block == "su4"
    state = PairCircuit(5, "rzz", (), start, torch.zeros(0, 5)).state()
    for (first, second), unitary in zip(pairs, unitaries.to(torch.complex128)):
        split = state.view((2,) * 5).movedim((first, second), (0, 1))
        state = (unitary @ split.reshape(4, -1)).view(split.shape).movedim((0, 1), (first, second)).reshape(-1)
    loader = circuit_from_unitaries(start, pairs, unitaries, block)
    assert loader.pairs == tuple(pairs)
    assert float((state.conj() @ loader.state()).abs()) == pytest.approx(1, abs=1e-12)


def test_special_unitaries_become_blocks():
    swap = torch.eye(4, dtype=torch.complex128)[[0, 2, 1, 3]]
    for unitary in (
        torch.eye(4, dtype=torch.complex128),
        swap,
        torch.diag(torch.tensor([1, 1, 1, -1], dtype=torch.complex128)),
    ):
        angles = torch.tensor([[0.3, 0.2], [1.0, -0.5]], dtype=torch.float64)
        loader = circuit_from_unitaries(angles, [(0, 1)], unitary[None])
        start = PairCircuit(2, "rzz", (), angles, torch.zeros(0, 5, dtype=torch.float64)).state()
        assert float(((unitary @ start).conj() @ loader.state()).abs()) == pytest.approx(1, abs=1e-7)


def test_what_is_no_circuit_is_refused():
    with pytest.raises(ValueError, match="'rzz', 'cz', 'cx', 'su4', 'so4'"):
        PairCircuit(2, "swap", (), torch.zeros(2, 2), torch.zeros(0, 5))
    with pytest.raises(ValueError, match=r"\(1, 1\): take two different wires of 0..1"):
        PairCircuit(2, "rzz", ((1, 1),), torch.zeros(2, 2), torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"angles have shape \(1, 4\); 1 blocks 'rzz' take \(1, 5\)"):
        PairCircuit(2, "rzz", ((0, 1),), torch.zeros(2, 2), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="same wires, kind of block and number of blocks"):
        infidelities([random_circuit(3, 1, "rzz"), random_circuit(3, 2, "rzz")], random_vectors(2, 3))
    with pytest.raises(ValueError, match=r"vectors have shape \(1, 4\)"):
        infidelities([random_circuit(3, 1, "rzz")], random_vectors(1, 2))
    with pytest.raises(ValueError, match="blocks 'so4' are real"):
        circuit_from_unitaries(torch.zeros(2, 1), [(0, 1)], 1j * torch.eye(4)[None], "so4")

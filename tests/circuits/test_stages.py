"""Circuits as stages, against gate after gate."""

import pytest
import torch

from ketune.circuits import Circuit, Gate, crz_ring, evolve, ring_rxryrz, rxryrz_ring, simulate, strongly_entangling
from ketune.circuits._block_matrices import block_matrices
from ketune.circuits._blocks import Blocks, fuse
from ketune.circuits._stages import AddressMap, plan_passes, stage
from ketune.circuits.adjoint import _backward, _forward


def matrices_of(plan: Blocks, angles):
    return [
        simulate(block.circuit, angles[list(block.angles)], torch.eye(2**block.circuit.n_wires, dtype=angles.dtype)).mT
        for block in plan.blocks
    ]


def mixed_circuit():
    """Signs, a swap, gates between entanglers, a wire without gates, more rotations than a slot of the batched
    simulator holds, and a constant matrix."""
    gates = [Gate("RY", (w,), w) for w in range(5)]
    gates += [Gate("RX", (0,), 5), Gate("RZ", (0,), 6), Gate("RY", (0,), 7)]
    gates += [Gate("CNOT", (0, 2)), Gate("CZ", (2, 1)), Gate("H", (2,)), Gate("SWAP", (1, 4)), Gate("CZ", (0, 4))]
    gates += [Gate("PHASE", (4,), 8), Gate("CNOT", (4, 0)), Gate("U", (1,), matrix=((0.6, 0.8j), (0.8j, 0.6)))]
    gates += [Gate("CY", (1, 3)), Gate("CZ", (3, 0))]
    return Circuit(6, tuple(gates))


@pytest.mark.parametrize(
    "circuit", [mixed_circuit(), rxryrz_ring(5, 2), ring_rxryrz(6, 2), strongly_entangling(4, 3)], ids=str
)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_stages_do_what_the_gates_do_one_by_one_and_back(circuit, size):
    plan = stage(circuit, size)
    assert plan is not None
    generator = torch.Generator().manual_seed(0)
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator)
    states = torch.randn(3, 2**circuit.n_wires, dtype=torch.complex128, generator=generator).requires_grad_()
    matrices = [matrix.to(torch.complex128).requires_grad_() for matrix in matrices_of(plan, angles)]
    out = _forward(plan, states, matrices)
    torch.testing.assert_close(out, simulate(circuit, angles, states))
    cotangent = torch.randn(out.shape, dtype=out.dtype, generator=generator)
    expected = torch.autograd.grad(out, [states, *matrices], cotangent)
    with torch.no_grad():
        torch.testing.assert_close(_backward(plan, out, cotangent, matrices, True), [*expected])


def test_an_address_map_is_undone_exactly_in_both_precisions():
    gates = (("CNOT", (0, 3)), ("CZ", (1, 2)), ("SWAP", (0, 1)), ("CZ", (0, 3)), ("CNOT", (2, 0)))
    address_map = AddressMap(gates, 4)
    states = torch.randn(2, 16, dtype=torch.complex128)
    circuit = Circuit(4, tuple(Gate(name, wires) for name, wires in gates))
    assert torch.equal(address_map.apply(states), simulate(circuit, torch.zeros(0, dtype=torch.float64), states))
    assert torch.equal(address_map.undo(address_map.apply(states)), states)
    single = states.to(torch.complex64)
    with torch.no_grad():
        assert torch.equal(address_map.apply(single), address_map.apply(states).to(torch.complex64))
        assert torch.equal(address_map.undo(address_map.apply(single)), single)


def test_a_layer_of_many_wires_takes_four_products_and_one_gather():
    plan = plan_passes(rxryrz_ring(20, 6), 5)
    assert len(plan.blocks) == 4 * 6
    moves = [block.move for block in plan.blocks if block.move is not None] + [plan.move]
    assert len(moves) == 6
    assert all(isinstance(move, AddressMap) for move in moves)


def test_gates_that_turn_by_part_of_an_angle_keep_to_blocks():
    circuit = crz_ring(6, 2)
    assert stage(circuit, 5) is None
    angles = torch.randn(circuit.n_angles, dtype=torch.float64)
    torch.testing.assert_close(evolve(circuit, angles), simulate(circuit, angles))


@pytest.mark.parametrize("shape", [(), (4,)])
def test_matrices_of_blocks_are_those_of_their_gates(shape):
    circuit = mixed_circuit()
    angles = torch.randn(*shape, circuit.n_angles, dtype=torch.float64)
    for size in (2, 4):
        for plan in (stage(circuit, size), fuse(circuit, size)):
            for block, matrix in zip(plan.blocks, block_matrices(plan, angles)):
                eye = torch.eye(2**block.circuit.n_wires, dtype=torch.complex128)
                wanted = simulate(block.circuit, angles[..., None, list(block.angles)], eye).mT
                torch.testing.assert_close(matrix.to(torch.complex128), wanted)

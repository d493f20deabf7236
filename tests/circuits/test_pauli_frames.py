"""Pauli frames, against density matrices computed with Kraus operators, and against trajectories of states."""

import numpy as np
import pytest
import torch

from ketune.circuits import (
    Channel,
    Circuit,
    Gate,
    Hamiltonian,
    NoiseModel,
    PauliFrames,
    noisy_expectation,
    run,
    rxryrz_ring,
    simulate,
)

PAULIS = [np.eye(2), np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])]


def every_gate(n_wires=3):
    """All gates that let Paulis through, with shared angles."""
    gates = [Gate("H", (0,)), Gate("RX", (0,), 0), Gate("RY", (1,), 1), Gate("RZ", (2,), 0), Gate("CNOT", (0, 1))]
    gates += [Gate("S", (1,)), Gate("CZ", (1, 2)), Gate("SX", (2,)), Gate("ISINGXX", (0, 2), 2), Gate("CY", (2, 0))]
    gates += [Gate("SDG", (0,)), Gate("ISINGYY", (1, 0), 1), Gate("SWAP", (0, 1)), Gate("PHASE", (1,), 3)]
    gates += [Gate("ISINGZZ", (1, 2), 2), Gate("ISWAP", (2, 0)), Gate("RY", (2,), 3), Gate("X", (0,)), Gate("H", (1,))]
    gates += [Gate("Z", (1,)), Gate("Y", (2,)), Gate("RX", (1,), 0), Gate("RY", (0,), 2), Gate("CNOT", (2, 1))]
    return Circuit(n_wires, tuple(gates))


def on_wire(matrix, wire, n_wires):
    whole = np.eye(1)
    for w in range(n_wires):
        whole = np.kron(whole, matrix if w == wire else np.eye(2))
    return whole


def density_matrix_z(circuit, angles, noise):
    """<Z> of every wire with each channel as a sum over its Kraus operators."""
    n = circuit.n_wires
    rho = np.zeros((2**n, 2**n), dtype=complex)
    rho[0, 0] = 1
    for gate in circuit.gates:
        # The gate's matrix from its columns.
        alone = Circuit(n, (gate if gate.angle is None else Gate(gate.name, gate.wires, 0, gate.matrix),))
        own = torch.zeros(0, dtype=torch.float64) if gate.angle is None else angles[gate.angle : gate.angle + 1]
        unitary = simulate(alone, own, torch.eye(2**n, dtype=torch.complex128)).T.numpy()
        rho = unitary @ rho @ unitary.conj().T
        for wire in gate.wires:
            for channel in noise.one_wire if len(gate.wires) == 1 else noise.two_wire:
                whole = [on_wire(pauli, wire, n) for pauli in PAULIS]
                rho = sum(p * k @ rho @ k.conj().T for p, k in zip(channel.pauli_probabilities, whole))
    return [np.trace(on_wire(PAULIS[3], wire, n) @ rho).real for wire in range(n)]


NOISE = NoiseModel(
    one_wire=(Channel("depolarising", 0.06), Channel("phase_flip", 0.02)),
    two_wire=(Channel("bit_flip", 0.05), Channel("phase_damping", 0.1)),
)


def test_means_over_frames_are_those_of_the_density_matrix():
    circuit = every_gate()
    angles = torch.tensor([0.7, -1.1, 0.4, 2.0], dtype=torch.float64)
    frames = PauliFrames(circuit, NOISE)
    n = 60_000
    signs = frames.draw((n,), torch.Generator().manual_seed(0))
    values = run(frames.circuit, None, angles[frames.sources] * signs.angles) * signs.readouts
    error = values.std(0) / n**0.5
    wanted = torch.tensor(density_matrix_z(circuit, angles, NOISE))
    assert ((values.mean(0) - wanted).abs() < 4 * error + 1e-12).all()
    assert (error < 0.004).all()
    clean = run(circuit, None, angles)
    assert ((clean - wanted).abs() > 0.02).all()  # the noise that was checked is not a small one


@pytest.mark.parametrize("pauli", ["bit_flip", "phase_flip"])
@pytest.mark.parametrize("place", range(len(every_gate().gates)))
def test_one_certain_pauli_is_carried_through_exactly(pauli, place):
    """A flip with probability 1 after one gate, against that Pauli as a gate of the circuit."""
    gates = every_gate().gates
    angles = torch.tensor([0.7, -1.1, 0.4, 2.0], dtype=torch.float64)
    letter = {"bit_flip": "X", "phase_flip": "Z"}[pauli]
    wire = gates[place].wires[-1]
    inserted = Circuit(3, (*gates[: place + 1], Gate(letter, (wire,)), *gates[place + 1 :]))
    frames = PauliFrames(every_gate(), NoiseModel())
    frames._events[place] = (frames._events[place][0], [(wire, Channel(pauli, 1.0))])
    signs = frames.draw(())
    ours = run(frames.circuit, None, angles[frames.sources] * signs.angles) * signs.readouts
    torch.testing.assert_close(ours, run(inserted, None, angles))


def test_gradients_are_those_of_trajectories_of_states():
    circuit, noise = rxryrz_ring(3, 2), NoiseModel((Channel("depolarising", 0.02),), (Channel("phase_flip", 0.02),))
    start = torch.randn(18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    frames, n = PauliFrames(circuit, noise), 20_000
    angles = start.clone().requires_grad_()
    signs = frames.draw((n,), torch.Generator().manual_seed(0))
    (run(frames.circuit, None, angles * signs.angles) * signs.readouts)[:, 0].mean().backward()
    reference = start.clone().requires_grad_()
    noisy_expectation(
        circuit, Hamiltonian((1.0,), ("ZII",)), reference, noise, n, generator=torch.Generator().manual_seed(2)
    ).value.backward()
    assert (angles.grad - reference.grad).abs().max() < 5 * (2 / n) ** 0.5
    assert reference.grad.abs().max() > 0.05


def test_equal_seeds_give_equal_signs():
    frames = PauliFrames(rxryrz_ring(3), NOISE)
    first, second = (frames.draw((4, 5), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.angles, second.angles)
    assert first.angles.shape == (4, 5, 9)
    assert first.readouts.shape == (4, 5, 3)
    assert set(first.angles.unique().tolist()) == {-1.0, 1.0}


def test_what_frames_cannot_carry_is_refused_with_what_to_use():
    with pytest.raises(ValueError, match=r"CRZ.*simulate_noisy"):
        PauliFrames(Circuit(2, (Gate("CRZ", (0, 1), 0),)), NOISE)
    with pytest.raises(ValueError, match=r"amplitude_damping.*simulate_noisy"):
        PauliFrames(rxryrz_ring(2), NoiseModel((Channel("amplitude_damping", 0.1),)))

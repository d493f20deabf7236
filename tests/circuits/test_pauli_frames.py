"""Pauli frames through every gate, against a density matrix computed with Kraus operators."""

import numpy as np
import torch

from ketune.circuits import Channel, Circuit, Gate, NoiseModel, noisy_trajectories, run, simulate

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
    n = 60_000
    values = noisy_trajectories(circuit, None, angles, NOISE, n, generator=torch.Generator().manual_seed(0))
    error = values.std(0) / n**0.5
    wanted = torch.tensor(density_matrix_z(circuit, angles, NOISE))
    assert ((values.mean(0) - wanted).abs() < 4 * error + 1e-12).all()
    assert (error < 0.004).all()
    clean = run(circuit, None, angles)
    assert ((clean - wanted).abs() > 0.02).all()  # the noise that was checked is not a small one

import math

import pennylane as qml
import pytest
import torch

from ketune.circuits import (
    CHANNELS,
    Channel,
    Circuit,
    Gate,
    Hamiltonian,
    NoiseModel,
    heisenberg,
    noisy_expectation,
    reduced_state,
    rxryrz_ring,
    ry_ring,
    simulate,
    simulate_noisy,
)

THEIRS = {
    "depolarising": qml.DepolarizingChannel,
    "bit_flip": qml.BitFlip,
    "phase_flip": qml.PhaseFlip,
    "phase_damping": qml.PhaseDamping,
    "amplitude_damping": qml.AmplitudeDamping,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_angles(circuit, *shape, seed=1):
    return torch.randn(*shape, circuit.n_angles, dtype=torch.float64, generator=seeded(seed))


def mixed_energy(circuit, noise, hamiltonian):
    """The energy by PennyLane's density matrices, as a function of the angles."""
    operator = qml.dot(list(hamiltonian.coefficients), [qml.pauli.string_to_pauli_word(w) for w in hamiltonian.words])

    @qml.qnode(qml.device("default.mixed", wires=circuit.n_wires), interface="torch", diff_method="backprop")
    def energy(angles):
        for gate in circuit.gates:
            angle = [] if gate.angle is None else [angles[gate.angle]]
            getattr(qml, gate.name)(*angle, wires=list(gate.wires))
            for wire in gate.wires:
                for channel in noise.one_wire if len(gate.wires) == 1 else noise.two_wire:
                    THEIRS[channel.name](channel.strength, wires=wire)
        for wire in range(circuit.n_wires):
            qml.BitFlip(noise.readout_error, wires=wire)
        return qml.expval(operator)

    return energy


MODELS = {name: NoiseModel((Channel(name, 0.1),), (Channel(name, 0.2),)) for name in CHANNELS} | {
    "all": NoiseModel(
        (Channel("amplitude_damping", 0.1), Channel("depolarising", 0.05)), (Channel("phase_damping", 0.2),), 0.03
    )
}


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_those_of_density_matrices_within_the_error(name):
    circuit, noise, hamiltonian = rxryrz_ring(3), MODELS[name], heisenberg(3, (1.0, 0.6, -0.8))
    angles = random_angles(circuit).requires_grad_()
    theirs = mixed_energy(circuit, noise, hamiltonian)(angles)
    n_trajectories = 6000
    value, error = noisy_expectation(circuit, hamiltonian, angles, noise, n_trajectories, generator=seeded())
    assert 0.001 < float(error) < 0.03
    assert abs(float((value - theirs).detach())) < 4 * float(error)
    (expected,) = torch.autograd.grad(theirs, angles)
    (actual,) = torch.autograd.grad(value, angles)
    # Each trajectory's gradient is of the size of the energies, so the same error holds, for nine numbers at once.
    assert float((actual - expected).abs().max()) < 5 * 2 / n_trajectories**0.5


def test_gradients_of_damped_circuits_are_unbiased_over_many_seeds():
    # RY(t), damping g, then Z: 1 - 2 (1 - g) sin(t / 2)^2, whose slope is -(1 - g) sin t.
    circuit = Circuit(1, (Gate("RY", (0,), 0),))
    noise = NoiseModel((Channel("amplitude_damping", 0.3),))
    angles = torch.tensor([1.1], dtype=torch.float64, requires_grad=True)
    states = simulate_noisy(circuit, angles.expand(200_000, 1), noise, 1, generator=seeded())
    values = Hamiltonian((1.0,), ("Z",)).expectation(states)[0]
    (slope,) = torch.autograd.grad(values.mean(), angles)
    assert float(values.mean().detach()) == pytest.approx(1 - 1.4 * math.sin(0.55) ** 2, abs=0.01)
    assert float(slope) == pytest.approx(-0.7 * math.sin(1.1), abs=0.01)


@pytest.mark.parametrize("name", CHANNELS)
def test_channels_turn_states_into_the_closed_form_density_matrices(name):
    p = 0.3
    circuit = Circuit(1, (Gate("RY", (0,), 0),))
    angle = torch.tensor([0.8], dtype=torch.float64)
    noise = NoiseModel((Channel(name, p),))
    rho = reduced_state(simulate_noisy(circuit, angle, noise, 100_000, generator=seeded()), 0).mean(0)
    before = reduced_state(simulate(circuit, angle), 0)
    expected = torch.zeros(2, 2, dtype=torch.complex128)
    for kraus in THEIRS[name](p, wires=0).kraus_matrices():
        matrix = torch.as_tensor(kraus).to(torch.complex128)
        expected += matrix @ before.to(torch.complex128) @ matrix.mH
    torch.testing.assert_close(rho.to(torch.complex128), expected, atol=0.008, rtol=0)


def test_trajectories_stay_normalised_and_real_where_they_can():
    circuit, noise = ry_ring(3, 2), NoiseModel((Channel("depolarising", 0.3), Channel("amplitude_damping", 0.3)))
    states = simulate_noisy(circuit, random_angles(circuit, 4), noise, 50, generator=seeded())
    assert states.shape == (50, 4, 8)
    assert not states.is_complex()
    torch.testing.assert_close(states.norm(dim=-1), torch.ones(50, 4, dtype=torch.float64))


def test_without_noise_every_trajectory_is_the_circuit():
    circuit = rxryrz_ring(3)
    angles, state = random_angles(circuit), torch.eye(8, dtype=torch.complex128)[3]
    expected = simulate(circuit, angles, state).expand(4, 8)
    for noise in (NoiseModel(), NoiseModel((Channel("bit_flip", 0.0),), (Channel("amplitude_damping", 0.0),))):
        torch.testing.assert_close(simulate_noisy(circuit, angles, noise, 4, state), expected)


def test_a_seed_decides_the_trajectories_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    circuit, noise = ry_ring(3), NoiseModel((Channel("depolarising", 0.5),))
    angles = random_angles(circuit)
    first, same, other = (simulate_noisy(circuit, angles, noise, 20, generator=seeded(k)) for k in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_wrong_noise_is_refused():
    with pytest.raises(ValueError, match=r"'thermal'.*'depolarising'"):
        Channel("thermal", 0.1)
    with pytest.raises(ValueError, match=r"strength=1\.5"):
        Channel("bit_flip", 1.5)
    with pytest.raises(ValueError, match=r"readout_error=-0\.1"):
        NoiseModel(readout_error=-0.1)
    with pytest.raises(ValueError, match="n_trajectories=0"):
        simulate_noisy(ry_ring(2), torch.zeros(2), NoiseModel(), 0)
    with pytest.raises(ValueError, match="n_trajectories=1"):
        noisy_expectation(ry_ring(2), heisenberg(2), torch.zeros(2), NoiseModel(), 1)
    with pytest.raises(ValueError, match=r"\(3,\).*\(\.\.\., 2\)"):
        simulate_noisy(ry_ring(2), torch.zeros(3), NoiseModel(), 2)

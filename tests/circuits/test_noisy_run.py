"""`noisy_run`: Pauli frames against gate-by-gate trajectories, PennyLane's density matrices, `run` and differences."""

import math

import pennylane as qml
import pytest
import torch

from ketune.circuits import (
    Channel,
    Circuit,
    Gate,
    Hamiltonian,
    NoiseModel,
    PauliChannel,
    evolve,
    fidelity,
    heisenberg,
    noisy_expectation,
    noisy_run,
    noisy_trajectories,
    pauli_noise,
    run,
    rxryrz_ring,
    ry_ring,
    simulate,
    simulate_noisy,
)
from ketune.circuits._gates import GATES
from ketune.circuits._pauli_frames import framed

EVERY_GATE = Circuit(
    3,
    tuple(
        Gate(name, ((k + 1) % 3, k % 3)[: spec.n_wires], None)
        for k, (name, spec) in enumerate(GATES.items())
        if not spec.has_angle
    )
    + (Gate("U", (1,), matrix=((0.6, 0.8j), (0.8j, 0.6))), Gate("U", (2, 0), matrix=torch.eye(4).roll(1, 0).tolist()))
    + tuple(
        Gate(name, (k % 3, (k + 1) % 3)[: spec.n_wires], k)
        for k, (name, spec) in enumerate((name, spec) for name, spec in GATES.items() if spec.has_angle)
    ),
)
PAIRS = PauliChannel(("XX", "ZI", "IY", "ZY"), (0.05, 0.03, 0.04, 0.02))
NOISE = NoiseModel((Channel("depolarising", 0.05),), (PAIRS, Channel("phase_damping", 0.05)), readout_error=0.03)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_angles(circuit, *shape, seed=1):
    return torch.randn(*shape, circuit.n_angles, dtype=torch.float64, generator=seeded(seed))


def test_a_framed_circuit_is_the_circuit_up_to_a_phase():
    angles = random_angles(EVERY_GATE, 4)
    program = framed(EVERY_GATE, NoiseModel())
    states = simulate(program.circuit, program.angles(angles))
    expected = simulate(EVERY_GATE, angles)
    torch.testing.assert_close(fidelity(states, expected), torch.ones(4, dtype=torch.float64))


def test_paulis_at_the_end_do_what_the_errors_did_where_they_happened():
    # Errors that always happen leave one trajectory, which gates one after another give too.
    always = PauliChannel(("XY",), (1.0,)), PauliChannel(("Y",), (1.0,)), Channel("bit_flip", 1.0)
    for noise in (NoiseModel(always[1:], always[:1]), NoiseModel((always[2],), (always[1],)), NoiseModel((), always)):
        angles = random_angles(EVERY_GATE)
        program = framed(EVERY_GATE, noise)
        signs, frames = program.draw((1,), torch.device("cpu"), None)
        own = program.angles(angles)
        states = frames.apply(evolve(program.circuit, torch.where(signs, -own, own)).to(torch.complex128))
        expected = simulate_noisy(EVERY_GATE, angles, noise, 1)
        assert float(fidelity(states, expected)[0]) == pytest.approx(1)
        words = ["XYZ", "ZIX", "IYI", "YYX"]
        values = noisy_run(EVERY_GATE, None, angles, noise, 1, readout=words)
        exact = [float(Hamiltonian((1.0,), (word,)).expectation(expected)[0]) for word in words]
        torch.testing.assert_close(values, torch.tensor(exact, dtype=torch.float64))
        chances = noisy_run(EVERY_GATE, None, angles, noise, 1, readout="probabilities")
        torch.testing.assert_close(chances, expected[0].abs() ** 2)


def test_without_noise_it_is_run():
    circuit, x = rxryrz_ring(3), torch.randn(4, 8, generator=seeded())
    angles = random_angles(circuit).float()
    for readout in (
        "pauli_z",
        "probabilities",
        ["XYZ", "ZZI"],
        heisenberg(3),
        [heisenberg(3), heisenberg(3, (1, 0, 0))],
    ):
        expected = run(circuit, x, angles, readout=readout)
        torch.testing.assert_close(noisy_run(circuit, x, angles, NoiseModel(), 2, readout=readout), expected)
    for encoding in ("angle", "iqp", "basis"):
        bits = (x[:, :3] > 0).float() if encoding == "basis" else x[:, :3]
        expected = run(circuit, bits, angles, encoding=encoding)
        torch.testing.assert_close(noisy_run(circuit, bits, angles, NoiseModel(), 2, encoding=encoding), expected)


def density_words(circuit, angles, noise, words):
    """Expectations by PennyLane's density matrices, with correlated channels as Kraus operators."""

    @qml.qnode(qml.device("default.mixed", wires=circuit.n_wires), interface="torch", diff_method="backprop")
    def node(angles):
        for gate in circuit.gates:
            angle = [] if gate.angle is None else [angles[gate.angle]]
            getattr(qml, gate.name)(*angle, wires=list(gate.wires))
            for channel in noise.one_wire if len(gate.wires) == 1 else noise.two_wire:
                if isinstance(channel, PauliChannel) and channel.n_wires == 2:
                    kept = 1 - sum(channel.probabilities)
                    kraus = [math.sqrt(kept) * torch.eye(4, dtype=torch.complex128)]
                    for word, chance in zip(channel.words, channel.probabilities):
                        kraus.append(math.sqrt(chance) * Hamiltonian((1.0,), (word,)).matrix())
                    qml.QubitChannel(kraus, wires=list(gate.wires))
                    continue
                theirs = {"depolarising": qml.DepolarizingChannel, "phase_damping": qml.PhaseDamping}[channel.name]
                for wire in gate.wires:
                    theirs(channel.strength, wires=wire)
        for wire in range(circuit.n_wires):
            qml.BitFlip(noise.readout_error, wires=wire)
        return [qml.expval(qml.pauli.string_to_pauli_word(word)) for word in words]

    return torch.stack(node(angles))


def test_values_and_gradients_are_those_of_density_matrices_within_the_error():
    circuit, words = rxryrz_ring(3), ["ZII", "XXI", "IYZ"]
    angles = random_angles(circuit).requires_grad_()
    theirs = density_words(circuit, angles, NOISE, words)
    each = noisy_trajectories(circuit, None, angles, NOISE, 4000, readout=words, generator=seeded())
    errors = each.detach().std(0) / 4000**0.5
    assert bool((errors > 1e-4).all())
    assert bool(((each.mean(0) - theirs).detach().abs() < 4.5 * errors).all())
    (expected,) = torch.autograd.grad(theirs.sum(), angles)
    (actual,) = torch.autograd.grad(each.mean(0).sum(), angles)
    assert float((actual - expected).abs().max()) < 5 * 3 / 4000**0.5


def test_correlated_errors_are_not_two_independent_ones():
    # XX with probability p leaves ZZ alone; X on each wire with probability p does not.
    circuit, angles = Circuit(2, (Gate("CNOT", (0, 1)),)), torch.zeros(0, dtype=torch.float64)
    together = NoiseModel(two_wire=(PauliChannel(("XX",), (0.3,)),))
    apart = NoiseModel(two_wire=(Channel("bit_flip", 0.3),))
    assert float(noisy_run(circuit, None, angles, together, 50, readout=["ZZ"])[0]) == 1
    values = noisy_run(circuit, None, angles, apart, 20_000, readout=["ZZ"], generator=seeded())
    assert float(values[0]) == pytest.approx(0.4**2, abs=0.03)
    states = simulate_noisy(circuit, angles, together, 20_000, generator=seeded())
    assert float(Hamiltonian((1.0,), ("ZZ",)).expectation(states).min()) == 1
    assert float(Hamiltonian((1.0,), ("ZI",)).expectation(states).mean()) == pytest.approx(0.4, abs=0.03)


def test_every_sample_and_every_trajectory_draws_its_own_errors():
    circuit, noise = ry_ring(2), NoiseModel((Channel("bit_flip", 0.5),))
    angles = torch.zeros(2, dtype=torch.float64)
    x = torch.eye(4, dtype=torch.float64)[:1].expand(300, 4)
    values = noisy_trajectories(circuit, x, angles, noise, 40, generator=seeded())[..., 0]
    assert set(values.unique().tolist()) == {-1.0, 1.0}
    # Means over trajectories scatter between samples, and means over samples between trajectories, as for fair coins.
    assert float(values.mean(0).std()) == pytest.approx(1 / 40**0.5, rel=0.15)
    assert float(values.mean(1).std()) == pytest.approx(1 / 300**0.5, rel=0.35)
    assert abs(float(values.mean())) < 5 / (300 * 40) ** 0.5


def test_gradients_reach_features_and_angles_and_are_the_slopes_of_the_drawn_trajectories():
    circuit = rxryrz_ring(2)
    x = torch.randn(3, 4, dtype=torch.float64, generator=seeded())

    def value(x, angles):
        return noisy_run(circuit, x, angles, NOISE, 8, generator=seeded(5))

    inputs = x.clone().requires_grad_(), random_angles(circuit).requires_grad_()
    assert torch.autograd.gradcheck(value, inputs, atol=1e-6)


def test_readout_error_is_averaged_in_words_and_in_probabilities_alike():
    circuit, noise = rxryrz_ring(3), NoiseModel(readout_error=0.1)
    angles = random_angles(circuit)
    chances = noisy_run(circuit, None, angles, noise, 1, readout="probabilities")
    signs = torch.tensor([[1.0 - 2 * (k >> 2 - wire & 1) for wire in range(3)] for k in range(8)], dtype=torch.float64)
    torch.testing.assert_close(chances @ signs, noisy_run(circuit, None, angles, noise, 1))
    torch.testing.assert_close(chances @ signs, 0.8 * run(circuit, None, angles))
    assert float(chances.sum()) == pytest.approx(1)


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", ["XYI", "ZZZ", "IIY"], heisenberg(3)])
def test_shots_scatter_about_the_means_and_carry_no_gradient(readout):
    circuit = rxryrz_ring(3)
    angles = random_angles(circuit).requires_grad_()
    exact = noisy_run(circuit, None, angles, NOISE, 3000, readout=readout, generator=seeded()).detach()
    shots = noisy_run(circuit, None, angles, NOISE, 3000, readout=readout, n_shots=3000, generator=seeded(1))
    assert not shots.requires_grad
    assert shots.shape == exact.shape
    scale = 3 if isinstance(readout, Hamiltonian) else 1
    assert 1e-4 < float((shots - exact).abs().max()) < scale * 6 / 3000**0.5


def test_many_settings_and_many_wires_are_read_from_the_states(monkeypatch):
    circuit, hamiltonian = rxryrz_ring(4), heisenberg(4, (1.0, -0.4, 0.3)) + Hamiltonian((0.7, 0.2), ("XYZI", "IZIY"))
    angles = random_angles(circuit, 2)
    readouts = hamiltonian, [hamiltonian, heisenberg(4)], ["XYZI", "IZIY", "ZZII"]
    by_run = [noisy_run(circuit, None, angles, NOISE, 20, readout=each, generator=seeded()) for each in readouts]
    monkeypatch.setattr(pauli_noise, "_MAX_SETTINGS", 0)
    for readout, expected in zip(readouts, by_run):
        values = noisy_run(circuit, None, angles, NOISE, 20, readout=readout, generator=seeded())
        torch.testing.assert_close(values, expected)
    # Bits that are always flipped after RY(0), on more wires than `run` takes: CNOTs of |1...1> follow.
    wide = Circuit(15, (*(Gate("RY", (wire,), wire) for wire in range(15)), Gate("CNOT", (0, 14))))
    values = noisy_run(wide, None, torch.zeros(15), NoiseModel((Channel("bit_flip", 1.0),)), 2)
    assert values.round().tolist() == [-1.0] * 14 + [1.0]


def test_the_energy_of_a_noisy_circuit_is_the_same_either_way():
    circuit, hamiltonian = rxryrz_ring(3), heisenberg(3)
    angles = random_angles(circuit)
    start = torch.zeros(8, dtype=torch.float64).index_fill(0, torch.tensor(0), 1)
    frames = noisy_expectation(circuit, hamiltonian, angles, NOISE, 4000, generator=seeded())
    gates = noisy_expectation(circuit, hamiltonian, angles, NOISE, 4000, start, generator=seeded(1))
    error = math.hypot(float(frames.error), float(gates.error))
    assert abs(float(frames.value - gates.value)) < 4.5 * error
    assert float(frames.error) == pytest.approx(float(gates.error), rel=0.1)


def test_what_it_cannot_do_is_refused():
    angles = torch.zeros(2)
    with pytest.raises(ValueError, match="amplitude damping"):
        noisy_run(ry_ring(2), None, angles, NoiseModel((Channel("amplitude_damping", 0.1),)), 2)
    with pytest.raises(ValueError, match="readout='amplitudes'"):
        noisy_run(ry_ring(2), None, angles, NoiseModel(), 2, readout="amplitudes")
    with pytest.raises(ValueError, match="n_shots=5: take a multiple of n_trajectories=2"):
        noisy_run(ry_ring(2), None, angles, NoiseModel(), 2, n_shots=5)
    with pytest.raises(ValueError, match="n_trajectories=0"):
        noisy_run(ry_ring(2), None, angles, NoiseModel(), 0)
    with pytest.raises(ValueError, match="features on 15 wires"):
        noisy_run(ry_ring(15), torch.zeros(15), torch.zeros(15), NoiseModel(), 1)
    with pytest.raises(ValueError, match=r"angles have shape \(3,\)"):
        noisy_run(ry_ring(2), None, torch.zeros(3), NoiseModel(), 1)
    with pytest.raises(ValueError, match=r"words=\('XYZ',\)"):
        PauliChannel(("XYZ",), (0.1,))
    with pytest.raises(ValueError, match=r"probabilities=\(0\.7, 0\.7\)"):
        PauliChannel(("X", "Z"), (0.7, 0.7))
    with pytest.raises(ValueError, match="put them into two_wire"):
        NoiseModel(one_wire=(PauliChannel(("XX",), (0.1,)),))
